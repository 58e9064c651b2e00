"""The CIFAR-10 network of Larq's tutorial."""

from __future__ import annotations

from collections.abc import Sequence

from flax import nnx

from binjax.layers import (
    BatchNorm,
    BinaryConv,
    BinaryDense,
    Flatten,
    MaxPool,
    PixelScale,
    Sequential,
)
from binjax.models.options import DEFAULT_COMPUTE, Compute

_CONVOLUTIONS = ((128, False), (128, True), (256, False), (256, True), (512, False), (512, True))


def larq_cifar10(
    input_shape: Sequence[int],
    n_classes: int,
    *,
    pixels: bool | PixelScale = False,
    compute: Compute = DEFAULT_COMPUTE,
    rngs: nnx.Rngs,
) -> Sequential:
    """128-128-256-256-512-512 convolutions 3x3, dense 1024-1024-classes, no biases.

    The first convolution is VALID, the others SAME with zero padding; every second one is
    followed by a 2x2 max-pool; batch norm (eps 1e-3, momentum .999, no scale) after each. On
    32x32x3 images and 10 classes Keras counts 10,363,550 parameters, 10,355,850 of them
    trainable (docs.larq.dev, "BinaryNet on CIFAR10").

    ``pixels`` and ``compute`` are as for :func:`binjax.models.mlp`.

    Raises:
        ValueError: the image is too small for the max-pools.
    """
    height, width, n_in = input_shape
    if min(height, width) < 10:
        raise ValueError(f"images of {height}x{width} are too small; at least 10x10 is needed")
    layers: dict[str, nnx.Module] = {}
    for i, (n_out, pool) in enumerate(_CONVOLUTIONS, start=1):
        layers[f"conv{i}"] = BinaryConv(
            n_in,
            n_out,
            padding="VALID" if i == 1 else "SAME",
            input_quantizer=None if i == 1 else "ste_sign",
            pixels=pixels if i == 1 else False,
            backend=compute.backend,
            dtype=compute.dtype,
            rngs=rngs,
        )
        if pool:
            layers[f"pool{i}"] = MaxPool()
        layers[f"norm{i}"] = _norm(n_out)
        n_in = n_out
    layers["flatten"] = Flatten()
    n_in *= ((height - 2) // 8) * ((width - 2) // 8)
    for i, n_out in enumerate((1024, 1024, n_classes), start=len(_CONVOLUTIONS) + 1):
        layers[f"dense{i}"] = BinaryDense(
            n_in, n_out, backend=compute.backend, dtype=compute.dtype, rngs=rngs
        )
        layers[f"norm{i}"] = _norm(n_out)
        n_in = n_out
    return Sequential(layers, memory=compute.memory)


def _norm(n: int) -> BatchNorm:
    return BatchNorm(n, eps=1e-3, momentum=0.999, use_scale=False)
