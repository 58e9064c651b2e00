"""Larq Zoo's binary AlexNet, all of whose kernels are binary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
from binjax.models.ends import Stem, check_size, least_size, pooled, small_stem
from binjax.models.options import DEFAULT_COMPUTE, Compute


def binary_alexnet(
    input_shape: Sequence[int],
    n_classes: int,
    *,
    inflation_ratio: int = 1,
    stem: Stem = "auto",
    pixels: bool | PixelScale = False,
    compute: Compute = DEFAULT_COMPUTE,
    rngs: nnx.Rngs,
) -> Sequential:
    """Five binary convolutions, three binary dense layers, a batch norm behind each.

    Order in a block: convolution (zero padding), 3x3 max-pool of stride 2 behind the first,
    second and fifth, norm without scale. On 224x224x3 images and 1000 classes: 61,827,776
    one-bit and 20,944 32-bit parameters (larq/zoo ``binary_alex_net.py``, after Hubara et al.
    2016).

    Args:
        input_shape: (height, width, channels).
        n_classes: scores per image.
        inflation_ratio: multiplies the channels of all convolutions but the last.
        stem: ``"imagenet"``, an 11x11 convolution of stride 4; ``"cifar"``, 3x3 of stride 1;
            ``"auto"``, the latter for images less than 50 pixels high.
        pixels, compute, rngs: see :func:`binjax.models.mlp`.

    Raises:
        ValueError: images too small for the pools, an unknown stem, an inflation ratio below 1.
    """
    if inflation_ratio < 1:
        raise ValueError(f"binary_alexnet: inflation_ratio is {inflation_ratio}, must be positive")
    small = small_stem("binary_alexnet", stem, input_shape)
    window, stride = (3, 1) if small else (11, 4)
    check_size("binary_alexnet", input_shape, least_size(lambda side: last_map(side, stride) > 0))
    shared: dict[str, Any] = {"backend": compute.backend, "dtype": compute.dtype, "rngs": rngs}
    height, width, n = input_shape
    layers: dict[str, nnx.Module] = {}
    for i, (n_out, taps, pool) in enumerate(
        (
            (64 * inflation_ratio, window, True),
            (192 * inflation_ratio, 5, True),
            (384 * inflation_ratio, 3, False),
            (384 * inflation_ratio, 3, False),
            (256, 3, True),
        ),
        start=1,
    ):
        first = i == 1
        layers[f"conv{i}"] = BinaryConv(
            n,
            n_out,
            (taps, taps),
            strides=(stride, stride) if first else (1, 1),
            input_quantizer=None if first else "ste_sign",
            pixels=pixels if first else False,
            **shared,
        )
        if pool:
            layers[f"pool{i}"] = MaxPool((3, 3), (2, 2))
        layers[f"norm{i}"] = _norm(n_out)
        n = n_out
    layers["flatten"] = Flatten()
    n *= last_map(height, stride) * last_map(width, stride)
    for i, n_out in enumerate((4096, 4096, n_classes), start=6):
        layers[f"dense{i}"] = BinaryDense(n, n_out, **shared)
        layers[f"norm{i}"] = _norm(n_out)
        n = n_out
    return Sequential(layers, memory=compute.memory)


def last_map(side: int, stride: int) -> int:
    """The side of AlexNet's last map: a convolution with a border, then three 3x3 pools without."""
    side = -(-side // stride)
    for _ in range(3):
        side = pooled(side, 3, 2)
    return side


def _norm(n: int) -> BatchNorm:
    return BatchNorm(n, eps=1e-3, momentum=0.9, use_scale=False)
