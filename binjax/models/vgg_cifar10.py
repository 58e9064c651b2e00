"""BinaryNet.pytorch's VGG for CIFAR-10, binary and real."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flax import nnx

from binjax.layers import (
    Activation,
    BinaryConv,
    BinaryDense,
    Dropout,
    Flatten,
    MaxPool,
    PixelScale,
    Sequential,
)
from binjax.models.ends import check_real_stem, check_size, real_conv, real_dense
from binjax.models.options import DEFAULT_COMPUTE, TORCH_INIT, Compute, torch_norm


def vgg_cifar10_binary(
    input_shape: Sequence[int],
    n_classes: int,
    *,
    inflation_ratio: int = 3,
    pixels: bool | PixelScale = False,
    compute: Compute = DEFAULT_COMPUTE,
    rngs: nnx.Rngs,
) -> Sequential:
    """384, 384-P, 768, 768-P, 1536, 512-P convolutions 3x3, dense 1024, 1024, classes.

    All kernels are binary, all layers have biases, the norm behind the last has no parameters.
    The order is convolution, max-pool, norm, sign. On 32x32x3 images and 10 classes: 36,461,450
    parameters (itayhubara/BinaryNet.pytorch ``vgg_cifar10_binary.py``, whose hard tanh and
    unsaturated sign are ``ste_sign`` together; its log-softmax belongs to the loss). Its latent
    weights are not clipped and get every gradient; here kernels have ``ste_sign`` too.

    Args:
        input_shape: (height, width, channels).
        n_classes: scores per image.
        inflation_ratio: multiplies the channels of all convolutions but the last.
        pixels, compute, rngs: see :func:`binjax.models.mlp`.

    Raises:
        ValueError: images below 8x8, an inflation ratio below 1.
    """
    if inflation_ratio < 1:
        raise ValueError(
            f"vgg_cifar10_binary: inflation_ratio is {inflation_ratio}, must be positive"
        )
    check_size("vgg_cifar10_binary", input_shape, 8)
    shared: dict[str, Any] = {
        "use_bias": True,
        "kernel_init": TORCH_INIT,
        "backend": compute.backend,
        "dtype": compute.dtype,
        "rngs": rngs,
    }
    height, width, n = input_shape
    channels = [n_out * inflation_ratio for n_out in (128, 128, 256, 256, 512)]
    layers: dict[str, nnx.Module] = {}
    for i, n_out in enumerate((*channels, 512), start=1):
        first = i == 1
        layers[f"conv{i}"] = BinaryConv(
            n,
            n_out,
            input_quantizer=None if first else "ste_sign",
            pixels=pixels if first else False,
            **shared,
        )
        if i % 2 == 0:
            layers[f"pool{i}"] = MaxPool()
        layers[f"norm{i}"] = torch_norm(n_out)
        n = n_out
    layers["flatten"] = Flatten()
    n *= (height // 8) * (width // 8)
    for i, n_out in enumerate((1024, 1024, n_classes), start=7):
        layers[f"dense{i}"] = BinaryDense(n, n_out, **shared)
        layers[f"norm{i}"] = torch_norm(n_out, affine=i < 9)
        n = n_out
    return Sequential(layers, memory=compute.memory)


def vgg_cifar10(
    input_shape: Sequence[int],
    n_classes: int,
    *,
    pixels: bool | PixelScale = False,
    compute: Compute = DEFAULT_COMPUTE,
    rngs: nnx.Rngs,
) -> Sequential:
    """The real twin, not inflated: ReLU, dropout .5 in front of the last two dense layers.

    14,029,706 parameters on 32x32x3 images and 10 classes (itayhubara/BinaryNet.pytorch
    ``vgg_cifar10.py``, in which a comma is missing). Arguments and errors as for
    :func:`vgg_cifar10_binary`.
    """
    check_real_stem("vgg_cifar10", pixels)
    check_size("vgg_cifar10", input_shape, 8)
    options: dict[str, Any] = {"kernel_init": TORCH_INIT, "compute": compute, "rngs": rngs}
    height, width, n = input_shape
    layers: dict[str, nnx.Module] = {}
    for i, n_out in enumerate((128, 128, 256, 256, 512, 512), start=1):
        layers[f"conv{i}"] = real_conv(n, n_out, 3, **options)
        if i == 1:
            layers["norm1"], layers["relu1"] = torch_norm(n_out), Activation("relu")
        else:
            if i % 2 == 0:
                layers[f"pool{i}"] = MaxPool()
            layers[f"relu{i}"], layers[f"norm{i}"] = Activation("relu"), torch_norm(n_out)
        n = n_out
    layers["flatten"] = Flatten()
    n *= (height // 8) * (width // 8)
    add_real_head(layers, n, 1024, n_classes, 7, options)
    return Sequential(layers, memory=compute.memory)


def add_real_head(
    layers: dict[str, nnx.Module],
    n: int,
    width: int,
    n_classes: int,
    start: int,
    options: dict[str, Any],
) -> None:
    """Two dense layers with norm, ReLU and dropout .5, and one for the classes; in place."""
    for i in (start, start + 1):
        layers[f"dense{i}"] = real_dense(n, width, use_bias=False, **options)
        layers[f"norm{i}"], layers[f"relu{i}"] = torch_norm(width), Activation("relu")
        layers[f"dropout{i}"] = Dropout(0.5)
        n = width
    layers[f"dense{start + 2}"] = real_dense(n, n_classes, **options)
