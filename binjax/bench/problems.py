"""The networks and batches on which training steps are measured."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from flax import nnx

from binjax import layers, models
from binjax.bench import plain
from binjax.models.options import Compute


@dataclass(frozen=True)
class Problem:
    """A network and a batch.

    Attributes:
        build: ``build(compute, pixels, rngs)`` makes binjax's model.
        image: (h, w, c).
        batch: images of a step.
        eps, momentum: of its batch normalization.
    """

    build: Callable[..., nnx.Module]
    image: tuple[int, int, int]
    batch: int
    eps: float = 1e-4
    momentum: float = 0.9


def mlp(compute: Compute, pixels: bool, rngs: nnx.Rngs, widths: Sequence[int]) -> nnx.Module:
    """784 pixels, dense layers of these widths, 10 classes; no dropout, no biases."""
    options: dict[str, Any] = {"input_dropout": 0.0, "hidden_dropout": 0.0, "use_bias": False}
    return models.mlp(
        (28, 28, 1), 10, widths=widths, pixels=pixels, compute=compute, rngs=rngs, **options
    )


def _convnet(compute: Compute, pixels: bool, rngs: nnx.Rngs) -> nnx.Module:
    return models.cifar10_convnet(
        (32, 32, 3), 10, use_bias=False, pixels=pixels, compute=compute, rngs=rngs
    )


def _larq(compute: Compute, pixels: bool, rngs: nnx.Rngs) -> nnx.Module:
    return models.larq_cifar10((32, 32, 3), 10, pixels=pixels, compute=compute, rngs=rngs)


def _blocks(compute: Compute, pixels: bool, rngs: nnx.Rngs, count: int, n: int) -> nnx.Module:
    options: dict[str, Any] = {"backend": compute.backend, "rngs": rngs}
    chain: dict[str, nnx.Module] = {
        "conv1": layers.BinaryConv(3, n, input_quantizer=None, pixels=pixels, **options),
        "norm1": layers.BatchNorm(n),
    }
    for i in range(2, count + 2):
        chain[f"conv{i}"] = layers.BinaryConv(n, n, **options)
        chain[f"norm{i}"] = layers.BatchNorm(n)
    norm = chain.pop(f"norm{count + 1}")
    chain |= {f"pool{count + 1}": layers.MaxPool(), f"norm{count + 1}": norm}
    last = count + 2
    chain["flatten"] = layers.Flatten()
    chain[f"dense{last}"] = layers.BinaryDense(16 * 16 * n, 10, **options)
    chain[f"norm{last}"] = layers.BatchNorm(10)
    return layers.Sequential(chain, memory=compute.memory)


_MNIST, _CIFAR = (28, 28, 1), (32, 32, 3)
_MLP_4096 = functools.partial(mlp, widths=(4096, 4096, 4096))
PROBLEMS: Mapping[str, Problem] = MappingProxyType(
    {
        "mlp-4096-b100": Problem(_MLP_4096, _MNIST, 100),
        "mlp-4096-b1000": Problem(_MLP_4096, _MNIST, 1000),
        "mlp-1024-b100": Problem(functools.partial(mlp, widths=(1024, 1024)), _MNIST, 100),
        "larq-cifar10-b50": Problem(_larq, _CIFAR, 50, eps=1e-3, momentum=0.999),
        "convnet-b50": Problem(_convnet, _CIFAR, 50),
        "blocks-b32": Problem(functools.partial(_blocks, count=20, n=64), _CIFAR, 32),
    }
)
"""784-4096-4096-4096-10 and 784-1024-1024-10; the CIFAR-10 networks of Larq's tutorial and of the
paper; 20 binary convolutions of 64 channels on 32x32 images."""


def describe_net(model: nnx.Module, eps: float, momentum: float) -> plain.Net:
    """The network as plain JAX and torch build it."""
    names = getattr(model, "names", ())
    found, flatten = [], False
    for name in names:
        kind = name.rstrip("0123456789")
        if kind in ("dense", "conv"):
            number = int(name[len(kind) :])
            padding = getattr(getattr(model, name), "padding", "SAME")
            pool = f"pool{number}" in names
            found.append(plain.Layer(number, kind, padding, pool, flatten))
        flatten = kind == "flatten"
    return plain.Net(tuple(found), eps, momentum)
