"""The residual network on which papers compare binarization methods, with their ingredients.

Depth 20 and 16-32-64 channels are those of IR-Net, ReCU, RBNN, FDA-BNN and AdaBin on CIFAR-10
(He et al. 2016, §4.2). The first convolution and the last dense layer are real, as there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx

from binjax.layers import (
    Activation,
    AvgPool,
    BatchNorm,
    BinaryConv,
    BinaryDense,
    DPReLU,
    GlobalAvgPool,
    Identity,
    LearnedScale,
    PixelScale,
    PReLU,
    RPReLU,
    Sequential,
)
from binjax.layers.quantize import QuantizerLike
from binjax.models.options import DEFAULT_COMPUTE, Compute

ActivationName = Literal["none", "relu", "hard_tanh", "prelu", "rprelu", "dprelu"]
ScaleName = Literal["none", "channel", "rank1"]
Shortcut = Literal["layer", "block"]
Downsample = Literal["conv", "pad"]


class Unit(nnx.Module):
    """One binary 3x3 convolution with its norm, scales, shortcut and activation.

    ``activation(norm(scale * conv(x)) + shortcut(x))``, or with ``norm_first``
    ``activation(scale * conv(norm(x)) + shortcut(x))`` as XNOR-Net orders them.

    Args:
        n_in, n_out: channels.
        image: (height, width) of the input.
        stride: of the convolution, and of its shortcut.
        shortcut: whether there is one around this convolution.
        downsample: how a shortcut changes its shape: ``"conv"``, 2x2 averages and a real 1x1
            convolution with norm (Bi-Real Net); ``"pad"``, every second pixel and channels of
            zeros on both sides (He et al. 2016, option A).
        scale: learned factors behind the convolution: one a channel, or ``"rank1"``, the product
            of one per row, column and channel (Bulat & Tzimiropoulos 2019, XNOR-Net++, eq. 6).
        input_scale: multiply by the mean absolute input under the window, K in XNOR-Net
            (Rastegari et al. 2016, §3.2).
        activation, norm_first: see above.
        input_quantizer, kernel_quantizer: see :class:`binjax.layers.BinaryDense`.
        compute, rngs: see :func:`binjax.models.mlp`.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        image: Sequence[int],
        *,
        stride: int,
        shortcut: bool,
        downsample: Downsample,
        scale: ScaleName,
        input_scale: bool,
        activation: ActivationName,
        norm_first: bool,
        input_quantizer: QuantizerLike,
        kernel_quantizer: QuantizerLike,
        compute: Compute,
        rngs: nnx.Rngs,
    ):
        self.norm_first, self.input_scale, self.stride = norm_first, input_scale, stride
        conv = BinaryConv(
            n_in,
            n_out,
            strides=(stride, stride),
            input_quantizer=input_quantizer,
            kernel_quantizer=kernel_quantizer,
            backend=compute.backend,
            dtype=compute.dtype,
            rngs=rngs,
        )
        layers: dict[str, nnx.Module] = {"conv": conv}
        if scale != "none":
            shape = (-(-image[0] // stride), -(-image[1] // stride), n_out)
            layers["scale"] = LearnedScale(shape if scale == "rank1" else n_out)
        if not norm_first and not input_scale:
            layers["norm"] = BatchNorm(n_out)
        self.body = Sequential(layers, memory=compute.memory)
        self.norm = BatchNorm(n_in if norm_first else n_out) if norm_first or input_scale else None
        self.shortcut = _shortcut(n_in, n_out, stride, downsample, rngs) if shortcut else None
        self.activation = _activation(activation, n_out)

    def __call__(
        self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> jax.Array:
        """x: ``[n, h, w, n_in]``."""
        inner = self.norm(x, train=train) if self.norm is not None and self.norm_first else x
        y = self.body(inner, train=train, key=key)
        if self.input_scale:
            y = y * mean_under_window(inner, self.stride).astype(y.dtype)
        if self.norm is not None and not self.norm_first:
            y = self.norm(y, train=train)
        if self.shortcut is not None:
            y = y + self.shortcut(x, train=train)
        out: jax.Array = self.activation(y, train=train)
        return out


def mean_under_window(x: jax.Array, stride: int) -> jax.Array:
    """K of XNOR-Net: ``|x|`` averaged over channels and 3x3 windows, ``[n, oh, ow, 1]``.

    Zero padding counts as zeros, as where K is a convolution of A with a constant kernel
    (Rastegari et al. 2016, §3.2). Gradients flow through it.
    """
    mean = jnp.mean(jnp.abs(x), -1, keepdims=True)
    window = jnp.full((3, 3, 1, 1), 1 / 9, mean.dtype)
    return jax.lax.conv_general_dilated(
        mean, window, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


class Block(nnx.Module):
    """Two units; a shortcut around both where the units have none of their own."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        image: Sequence[int],
        *,
        stride: int,
        shortcut: Shortcut,
        downsample: Downsample,
        rngs: nnx.Rngs,
        **options: Any,
    ):
        own = {"shortcut": shortcut == "layer", "downsample": downsample, "rngs": rngs, **options}
        self.unit1 = Unit(n_in, n_out, image, stride=stride, **own)
        half = [-(-size // stride) for size in image]
        self.unit2 = Unit(n_out, n_out, half, stride=1, **own)
        around = shortcut == "block"
        self.shortcut = _shortcut(n_in, n_out, stride, downsample, rngs) if around else None

    def __call__(
        self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> jax.Array:
        """x: ``[n, h, w, n_in]``."""
        first, second = (None if key is None else jax.random.fold_in(key, i) for i in range(2))
        y = self.unit2(self.unit1(x, train=train, key=first), train=train, key=second)
        return y if self.shortcut is None else y + self.shortcut(x, train=train)


class PadShortcut(nnx.Module):
    """Every ``stride``-th pixel, with channels of zeros on both sides (option A)."""

    def __init__(self, n_in: int, n_out: int, stride: int):
        self.stride, self.before = stride, (n_out - n_in) // 2
        self.behind = n_out - n_in - self.before

    def __call__(
        self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> jax.Array:
        """x: ``[n, h, w, n_in]``."""
        x = x[:, :: self.stride, :: self.stride]
        return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (self.before, self.behind)))


def _shortcut(
    n_in: int, n_out: int, stride: int, downsample: Downsample, rngs: nnx.Rngs
) -> nnx.Module:
    if stride == 1 and n_in == n_out:
        return Identity()
    if downsample == "pad":
        return PadShortcut(n_in, n_out, stride)
    conv = BinaryConv(n_in, n_out, (1, 1), input_quantizer=None, kernel_quantizer=None, rngs=rngs)
    window = (stride, stride)
    layers = {"pool": AvgPool(window, padding="SAME"), "conv": conv, "norm": BatchNorm(n_out)}
    return Sequential(layers)


def _activation(name: ActivationName, n: int) -> nnx.Module:
    match name:
        case "prelu":
            return PReLU(n)
        case "rprelu":
            return RPReLU(n)
        case "dprelu":
            return DPReLU(n)
        case "none":
            return Identity()
    return Activation(name)


def cifar_resnet(
    input_shape: Sequence[int],
    n_classes: int,
    *,
    depth: int = 20,
    width: int = 16,
    input_quantizer: QuantizerLike = "ste_sign",
    kernel_quantizer: QuantizerLike = "ste_sign",
    shortcut: Shortcut = "layer",
    downsample: Downsample = "conv",
    scale: ScaleName = "none",
    input_scale: bool = False,
    activation: ActivationName = "none",
    norm_first: bool = False,
    pixels: bool | PixelScale = False,
    compute: Compute = DEFAULT_COMPUTE,
    rngs: nnx.Rngs,
) -> Sequential:
    """ResNet for small images: a real 3x3 stem, three stages of binary blocks, a real dense layer.

    Args:
        input_shape: (height, width, channels).
        n_classes: scores per image.
        depth: 6n + 2: two convolutions in each of n blocks of each stage.
        width: channels of the first stage; the others have two and four times as many.
        shortcut: around every convolution ("layer", Bi-Real Net) or every two ("block").
        input_quantizer, kernel_quantizer, downsample, scale, input_scale, activation,
            norm_first: see :class:`Unit`.
        pixels: must be false: the stem is real.
        compute, rngs: see :func:`binjax.models.mlp`.

    Raises:
        ValueError: a depth that is not 6n + 2, an unknown option, images below 4x4.
    """
    height, wide, n_in = input_shape
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(f"cifar_resnet: depth is {depth}, must be 6n + 2, such as 8, 14 or 20")
    if min(height, wide) < 4:
        raise ValueError(f"images of {height}x{wide} are too small; at least 4x4 is needed")
    if pixels:
        raise ValueError("cifar_resnet: its first layer is real; pixels must be false")
    _check("shortcut", shortcut, Shortcut)
    _check("downsample", downsample, Downsample)
    _check("scale", scale, ScaleName)
    _check("activation", activation, ActivationName)
    stem = BinaryConv(
        n_in,
        width,
        input_quantizer=None,
        kernel_quantizer=None,
        kernel_init=nnx.initializers.he_normal(),
        dtype=compute.dtype,
        rngs=rngs,
    )
    layers: dict[str, nnx.Module] = {"stem": stem, "norm": BatchNorm(width)}
    n, image = width, (height, wide)
    for stage, n_out in enumerate((width, 2 * width, 4 * width), start=1):
        for block in range(1, (depth - 2) // 6 + 1):
            stride = 2 if stage > 1 and block == 1 else 1
            layers[f"stage{stage}_block{block}"] = Block(
                n,
                n_out,
                image,
                stride=stride,
                shortcut=shortcut,
                downsample=downsample,
                scale=scale,
                input_scale=input_scale,
                activation=activation,
                norm_first=norm_first,
                input_quantizer=input_quantizer,
                kernel_quantizer=kernel_quantizer,
                compute=compute,
                rngs=rngs,
            )
            n, image = n_out, (-(-image[0] // stride), -(-image[1] // stride))
    layers["pool"] = GlobalAvgPool()
    layers["dense"] = BinaryDense(
        n, n_classes, input_quantizer=None, kernel_quantizer=None, use_bias=True, rngs=rngs
    )
    return Sequential(layers, memory=compute.memory)


def _check(option: str, value: str, choices: Any) -> None:
    if value not in get_args(choices):
        known = ", ".join(map(repr, get_args(choices)))
        raise ValueError(f"cifar_resnet: {option} is {value!r}; choose {known}")
