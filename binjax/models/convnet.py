"""The VGG-like convolutional networks of the BinaryNet paper for CIFAR-10 and SVHN."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from flax import nnx

from binjax.layers import BinaryConv, BinaryDense, Flatten, MaxPool, PixelScale, Sequential
from binjax.layers.quantize import QuantizerLike
from binjax.models.options import (
    DEFAULT_COMPUTE,
    DEFAULT_NORM,
    Compute,
    make_initializer,
    make_last_norm,
    make_norm,
)


def cifar10_convnet(
    input_shape: Sequence[int],
    n_classes: int,
    *,
    channels: Sequence[int] = (128, 256, 512),
    widths: Sequence[int] = (1024, 1024),
    norm: Mapping[str, Any] = DEFAULT_NORM,
    input_quantizer: QuantizerLike = "ste_sign",
    kernel_quantizer: QuantizerLike = "ste_sign",
    use_bias: bool = True,
    kernel_init: str = "glorot_uniform",
    pixels: bool | PixelScale = False,
    compute: Compute = DEFAULT_COMPUTE,
    rngs: nnx.Rngs,
) -> Sequential:
    """Pairs of 3x3 convolutions, a 2x2 max-pool behind each pair, then dense layers.

    Order in a block: convolution (zero padding), max-pool, norm; the sign stands in front of the
    next layer. With the defaults on 32x32x3 images and 10 classes: 14,033,566 trainable
    parameters, 14,022,016 of them binary (MatthieuCourbariaux/BinaryNet ``cifar10.py``).

    Args:
        input_shape: (height, width, channels).
        n_classes: scores per image.
        channels: of each pair of convolutions.
        widths: of the dense layers before the last.
        norm, input_quantizer, kernel_quantizer, use_bias, kernel_init, pixels, compute, rngs: see
            :func:`binjax.models.mlp`.

    Raises:
        ValueError: the image is too small for the max-pools.
    """
    height, width, n_in = input_shape
    shrink = 2 ** len(channels)
    if min(height, width) < shrink:
        raise ValueError(
            f"images of {height}x{width} are too small for {len(channels)} max-pools of 2x2; "
            f"at least {shrink}x{shrink} is needed"
        )
    shared: dict[str, Any] = {
        "kernel_quantizer": kernel_quantizer,
        "use_bias": use_bias,
        "kernel_init": make_initializer(kernel_init),
        "dtype": compute.dtype,
        "rngs": rngs,
    }
    layers: dict[str, nnx.Module] = {}
    for i, n_out in enumerate((n for n in channels for _ in range(2)), start=1):
        layers[f"conv{i}"] = BinaryConv(
            n_in,
            n_out,
            input_quantizer=None if i == 1 else input_quantizer,
            pixels=pixels if i == 1 else False,
            backend=compute.backend,
            **shared,
        )
        if i % 2 == 0:
            layers[f"pool{i}"] = MaxPool()
        layers[f"norm{i}"] = make_norm(norm, n_out)
        n_in = n_out
    layers["flatten"] = Flatten()
    n_in *= (height // shrink) * (width // shrink)
    first = 2 * len(channels) + 1
    for i, n_out in enumerate((*widths, n_classes), start=first):
        last = i == first + len(widths)
        layers[f"dense{i}"] = BinaryDense(
            n_in, n_out, input_quantizer=input_quantizer, backend=compute.backend, **shared
        )
        layers[f"norm{i}"] = make_last_norm(norm, n_out) if last else make_norm(norm, n_out)
        n_in = n_out
    return Sequential(layers, memory=compute.memory)


svhn_convnet = partial(cifar10_convnet, channels=(64, 128, 256))
"""The SVHN network: :func:`cifar10_convnet` with half the channels; 6,406,494 trainable
parameters, 6,397,632 of them binary (MatthieuCourbariaux/BinaryNet ``svhn.py``)."""
