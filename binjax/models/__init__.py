"""Networks by the name a config uses.

A model is made by ``MODELS[kind](input_shape, n_classes, rngs=..., **options)``: ``input_shape``
is ``(height, width, channels)``, options are those of the config section of that kind, and the
result maps scaled images ``[n, h, w, c]`` to scores ``[n, n_classes]``.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from binjax.layers import Sequential
from binjax.models.cifar_resnet import cifar_resnet
from binjax.models.convnet import cifar10_convnet, svhn_convnet
from binjax.models.larq import larq_cifar10
from binjax.models.mlp import mlp

MODELS: Mapping[str, Callable[..., Sequential]] = MappingProxyType(
    {
        "mlp": mlp,
        "cifar10_convnet": cifar10_convnet,
        "svhn_convnet": svhn_convnet,
        "larq_cifar10": larq_cifar10,
        "cifar_resnet": cifar_resnet,
    }
)

__all__ = ["MODELS", "cifar10_convnet", "cifar_resnet", "larq_cifar10", "mlp", "svhn_convnet"]
