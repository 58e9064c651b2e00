"""Networks by the name a config uses.

A model is made by ``MODELS[kind](input_shape, n_classes, rngs=..., **options)``: ``input_shape``
is ``(height, width, channels)``, options are those of the config section of that kind, and the
result maps scaled images ``[n, h, w, c]`` to scores ``[n, n_classes]``.
"""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

from binjax.layers import Sequential
from binjax.models.alexnet import binary_alexnet
from binjax.models.alexnet_owt import alexnet, alexnet_binary
from binjax.models.birealnet import birealnet
from binjax.models.bnext import bnext
from binjax.models.cifar_resnet import cifar_resnet
from binjax.models.convnet import cifar10_convnet, svhn_convnet
from binjax.models.densenet import (
    binary_densenet28,
    binary_densenet37,
    binary_densenet37_dilated,
    binary_densenet45,
)
from binjax.models.dorefanet import dorefanet
from binjax.models.larq import larq_cifar10
from binjax.models.meliusnet import meliusnet22
from binjax.models.mlp import mlp
from binjax.models.pokebnn import pokebnn
from binjax.models.quicknet import quicknet, quicknet_large, quicknet_small
from binjax.models.reactnet import reactnet18, reactnet_a
from binjax.models.real_to_binary import real_to_binary, resnet18
from binjax.models.resnet_binary import resnet, resnet_binary
from binjax.models.resnet_e import binary_resnet_e18
from binjax.models.vgg_cifar10 import vgg_cifar10, vgg_cifar10_binary
from binjax.models.xnornet import xnornet

MODELS: Mapping[str, Callable[..., Sequential]] = MappingProxyType(
    {
        "mlp": mlp,
        "cifar10_convnet": cifar10_convnet,
        "svhn_convnet": svhn_convnet,
        "larq_cifar10": larq_cifar10,
        "cifar_resnet": cifar_resnet,
        "binary_alexnet": binary_alexnet,
        "xnornet": xnornet,
        "dorefanet": dorefanet,
        "birealnet": birealnet,
        "binary_resnet_e18": binary_resnet_e18,
        "binary_densenet28": binary_densenet28,
        "binary_densenet37": binary_densenet37,
        "binary_densenet37_dilated": binary_densenet37_dilated,
        "binary_densenet45": binary_densenet45,
        "meliusnet22": meliusnet22,
        "real_to_binary": real_to_binary,
        "resnet18": resnet18,
        "quicknet_small": quicknet_small,
        "quicknet": quicknet,
        "quicknet_large": quicknet_large,
        "reactnet18": reactnet18,
        "reactnet_a": reactnet_a,
        "pokebnn": pokebnn,
        "bnext_t": partial(bnext, size="tiny"),
        "bnext_s": partial(bnext, size="small"),
        "bnext_m": partial(bnext, size="middle"),
        "bnext_l": partial(bnext, size="large"),
        "alexnet_binary": alexnet_binary,
        "alexnet": alexnet,
        "vgg_cifar10_binary": vgg_cifar10_binary,
        "vgg_cifar10": vgg_cifar10,
        "resnet_binary": resnet_binary,
        "resnet": resnet,
    }
)

__all__ = ["MODELS", "cifar10_convnet", "cifar_resnet", "larq_cifar10", "mlp", "svhn_convnet"]
