"""Both ends of the zoo's networks, which are real: stems chosen by image size, classifiers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import jax
from flax import nnx

from binjax.layers import BinaryConv, BinaryDense
from binjax.models.options import Compute
from binjax.xnor.geometry import Padding

Stem = Literal["auto", "imagenet", "cifar"]
"""What stands in front of the blocks: ``"imagenet"``, the published layers, which shrink images;
``"cifar"``, layers that don't; ``"auto"``, the latter for images less than 50 pixels high."""

Initializer = Callable[..., jax.Array]
glorot_uniform = nnx.initializers.glorot_uniform()
glorot_normal = nnx.initializers.glorot_normal()
he_normal = nnx.initializers.he_normal()


def small_stem(model: str, stem: Stem, input_shape: Sequence[int]) -> bool:
    """Whether a network begins without shrinking its images.

    The limit of 50 pixels is that of larq/zoo's ``resnet_e.py`` and ``densenet.py``.

    Raises:
        ValueError: unknown stem.
    """
    if stem not in get_args(Stem):
        names = ", ".join(map(repr, get_args(Stem)))
        raise ValueError(f"{model}: stem is {stem!r}; choose {names}")
    return stem == "cifar" or (stem == "auto" and input_shape[0] < 50)


def check_real_stem(model: str, pixels: object) -> None:
    """Refuse 8-bit pixels for a network whose first kernel is real.

    Raises:
        ValueError: they were asked for.
    """
    if pixels:
        raise ValueError(f"{model}: its first layer is real; pixels must be false")


def check_size(model: str, input_shape: Sequence[int], least: int) -> None:
    """Refuse images below ``least x least``.

    Raises:
        ValueError: they are.
    """
    height, width, _ = input_shape
    if min(height, width) < least:
        raise ValueError(
            f"{model}: images of {height}x{width} are too small; at least {least}x{least} is needed"
        )


def least_size(fits: Callable[[int], bool]) -> int:
    """The smallest side of an image for which a network's windows fit."""
    return next(size for size in range(1, 1024) if fits(size))


def pooled(size: int, window: int, stride: int) -> int:
    """The side of a map behind a pool without padding; 0 if the window does not fit."""
    return max((size - window) // stride + 1, 0)


def real_conv(
    n_in: int,
    n_out: int,
    kernel_size: int,
    *,
    stride: int = 1,
    padding: Padding = "SAME",
    groups: int = 1,
    use_bias: bool = False,
    kernel_init: Initializer = glorot_uniform,
    compute: Compute,
    rngs: nnx.Rngs,
) -> BinaryConv:
    """A convolution with a square real kernel, of inputs as they are."""
    return BinaryConv(
        n_in,
        n_out,
        (kernel_size, kernel_size),
        strides=(stride, stride),
        padding=padding,
        groups=groups,
        input_quantizer=None,
        kernel_quantizer=None,
        use_bias=use_bias,
        kernel_init=kernel_init,
        dtype=compute.dtype,
        rngs=rngs,
    )


def real_dense(
    n_in: int,
    n_out: int,
    *,
    use_bias: bool = True,
    kernel_init: Initializer = glorot_uniform,
    compute: Compute,
    rngs: nnx.Rngs,
) -> BinaryDense:
    """A dense layer with real inputs and kernel."""
    return BinaryDense(
        n_in,
        n_out,
        input_quantizer=None,
        kernel_quantizer=None,
        use_bias=use_bias,
        kernel_init=kernel_init,
        dtype=compute.dtype,
        rngs=rngs,
    )
