"""BinaryNet.pytorch's AlexNet ("one weird trick"), binary and real."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flax import nnx

from binjax.layers import (
    Activation,
    BinaryConv,
    BinaryDense,
    Flatten,
    MaxPool,
    PixelScale,
    Sequential,
)
from binjax.models.ends import (
    Stem,
    check_real_stem,
    check_size,
    least_size,
    pooled,
    real_conv,
    small_stem,
)
from binjax.models.options import DEFAULT_COMPUTE, TORCH_INIT, Compute, torch_norm
from binjax.models.vgg_cifar10 import add_real_head

_POOLED = (1, 2, 5)


def alexnet_binary(
    input_shape: Sequence[int],
    n_classes: int,
    *,
    inflation_ratio: int = 3,
    stem: Stem = "auto",
    pixels: bool | PixelScale = False,
    compute: Compute = DEFAULT_COMPUTE,
    rngs: nnx.Rngs,
) -> Sequential:
    """Convolutions 192-576-1152-768-256, dense 4096, 4096, classes, all binary, with biases.

    A 3x3 max-pool of stride 2 stands behind convolutions 1, 2 and 5, a norm behind every layer. On
    224x224x3 images and 1000 classes: 77,196,920 parameters (itayhubara/BinaryNet.pytorch
    ``alexnet_binary.py``, whose last norm has 1000 channels for any number of classes: ours has
    as many as there are). Kernels have ``ste_sign``; upstream's latent weights are not clipped and
    get every gradient.

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
        raise ValueError(f"alexnet_binary: inflation_ratio is {inflation_ratio}, must be positive")
    small = small_stem("alexnet_binary", stem, input_shape)
    check_size("alexnet_binary", input_shape, least_size(lambda side: _last_map(side, small) > 0))
    if pixels and not small:
        raise ValueError(
            'alexnet_binary: its first layer takes pixels with stem = "cifar" only; pixels = False '
            "takes scaled images"
        )
    shared: dict[str, Any] = {
        "use_bias": True,
        "kernel_init": TORCH_INIT,
        "backend": compute.backend,
        "dtype": compute.dtype,
        "rngs": rngs,
    }
    channels = [n * inflation_ratio for n in (64, 192, 384, 256)]
    n = input_shape[2]
    layers: dict[str, nnx.Module] = {}
    for i, n_out in enumerate((*channels, 256), start=1):
        first = i == 1
        window, stride, padding = _window(i, small)
        layers[f"conv{i}"] = BinaryConv(
            n,
            n_out,
            (window, window),
            strides=(stride, stride),
            padding="SAME" if first and small else ((padding, padding), (padding, padding)),
            input_quantizer=None if first else "ste_sign",
            pixels=pixels if first else False,
            **shared,
        )
        if i in _POOLED:
            layers[f"pool{i}"] = MaxPool((3, 3), (2, 2))
        layers[f"norm{i}"] = torch_norm(n_out)
        n = n_out
    layers["flatten"] = Flatten()
    n *= _last_map(input_shape[0], small) * _last_map(input_shape[1], small)
    for i, n_out in enumerate((4096, 4096, n_classes), start=6):
        layers[f"dense{i}"] = BinaryDense(n, n_out, **shared)
        layers[f"norm{i}"] = torch_norm(n_out)
        n = n_out
    return Sequential(layers, memory=compute.memory)


def alexnet(
    input_shape: Sequence[int],
    n_classes: int,
    *,
    stem: Stem = "auto",
    pixels: bool | PixelScale = False,
    compute: Compute = DEFAULT_COMPUTE,
    rngs: nnx.Rngs,
) -> Sequential:
    """The real twin, not inflated: ReLU, dropout .5 in front of the last two dense layers.

    61,110,184 parameters on 224x224x3 images and 1000 classes (itayhubara/BinaryNet.pytorch
    ``alexnet.py``). Arguments and errors as for :func:`alexnet_binary`.
    """
    check_real_stem("alexnet", pixels)
    small = small_stem("alexnet", stem, input_shape)
    check_size("alexnet", input_shape, least_size(lambda side: _last_map(side, small) > 0))
    options: dict[str, Any] = {"kernel_init": TORCH_INIT, "compute": compute, "rngs": rngs}
    n = input_shape[2]
    layers: dict[str, nnx.Module] = {}
    for i, n_out in enumerate((64, 192, 384, 256, 256), start=1):
        window, stride, padding = _window(i, small)
        border = ((padding, padding), (padding, padding))
        layers[f"conv{i}"] = real_conv(n, n_out, window, stride=stride, padding=border, **options)
        if i in _POOLED:
            layers[f"pool{i}"] = MaxPool((3, 3), (2, 2))
        if i == 1:
            layers["norm1"], layers["relu1"] = torch_norm(n_out), Activation("relu")
        else:
            layers[f"relu{i}"], layers[f"norm{i}"] = Activation("relu"), torch_norm(n_out)
        n = n_out
    layers["flatten"] = Flatten()
    n *= _last_map(input_shape[0], small) * _last_map(input_shape[1], small)
    add_real_head(layers, n, 4096, n_classes, 6, options)
    return Sequential(layers, memory=compute.memory)


def _window(i: int, small: bool) -> tuple[int, int, int]:
    """Taps, stride and padding of the i-th convolution."""
    if i == 1:
        return (3, 1, 1) if small else (11, 4, 2)
    return (5, 1, 2) if i == 2 else (3, 1, 1)


def _last_map(side: int, small: bool) -> int:
    window, stride, padding = _window(1, small)
    side = pooled(side + 2 * padding, window, stride)
    for _ in range(3):
        side = pooled(side, 3, 2)
    return side
