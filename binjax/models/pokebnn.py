"""PokeBNN: binary convolutions with shortcuts, gates and learned slopes around each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from binjax.layers import (
    Activation,
    AvgPool,
    BinaryConv,
    BinaryDense,
    DPReLU,
    GlobalAvgPool,
    PixelScale,
    Sequential,
)
from binjax.models.ends import Stem, check_real_stem, check_size, small_stem
from binjax.models.options import DEFAULT_COMPUTE, Compute, torch_norm

_STAGES = ((3, 64), (4, 128), (6, 256), (3, 512))
_STEM = 64
_REDUCTION = 8
_INPUTS = {"kind": "bounded_sign", "bound": 3.0}


def pokebnn(
    input_shape: Sequence[int],
    n_classes: int,
    *,
    width: float = 1.0,
    stem_filters: int = 32,
    stem: Stem = "auto",
    pixels: bool | PixelScale = False,
    compute: Compute = DEFAULT_COMPUTE,
    rngs: nnx.Rngs,
) -> Sequential:
    """PokeBNN on ResNet-50's skeleton of 16 bottlenecks.

    Blocks' inputs are signs whose gradients pass up to 3, kernels signs times half their largest
    magnitude. The stem and the last layer have 8 bits, gates 4 (:func:`binjax.ste.absmax`). On
    224x224x3 images and 1000 classes the arithmetic effort (ACE) is 4.09e9 of convolutions and
    gates, 0.13e9 of the last layer.

    Args:
        input_shape: (height, width, channels).
        n_classes: scores per image.
        width: multiplies the channels of the blocks: the paper has 0.5 to 2.
        stem_filters: channels of the first convolution, groups of the second; must divide 64.
        stem: ``"imagenet"``, 4x4 windows side by side; ``"cifar"``, a 3x3 convolution of stride 1;
            ``"auto"``, the latter for images less than 50 pixels high.
        pixels: must be false: the first layer has 8-bit kernels.
        compute, rngs: see :func:`binjax.models.mlp`.

    Raises:
        ValueError: images below 8x8, an unknown stem, a width that is no multiple of 1/4 (below it:
            of 1/64, at least 1/8), stem_filters that do not divide 64.

    References:
        Zhang, Zhang & Lew 2022, "PokeBNN"; google/aqt ``imagenet/pokebnn.py``.
    """
    check_real_stem("pokebnn", pixels)
    check_size("pokebnn", input_shape, 8)
    small = small_stem("pokebnn", stem, input_shape)
    _check_width(width)
    if stem_filters < 1 or _STEM % stem_filters:
        raise ValueError(f"pokebnn: stem_filters is {stem_filters}; it must divide {_STEM}")
    side, stride = (3, 1) if small else (4, 4)
    first = _eight_bits(
        input_shape[2],
        stem_filters,
        side,
        stride,
        "SAME" if small else "VALID",
        compute=compute,
        rngs=rngs,
    )
    second = _eight_bits(
        stem_filters, _STEM, 3, 1, "SAME", groups=stem_filters, compute=compute, rngs=rngs
    )
    layers: dict[str, nnx.Module] = {
        "conv1": first,
        "norm1": torch_norm(stem_filters),
        "dprelu1": DPReLU(stem_filters),
        "conv2": second,
        "norm2": torch_norm(_STEM),
        "dprelu2": DPReLU(_STEM),
    }
    n, block = _STEM, 0
    for stage, (repeats, features) in enumerate(_STAGES):
        for i in range(repeats):
            stride = 2 if i == 0 and stage > 0 else 1
            inner = int(features * width)
            layers[f"block{block}"] = Bottleneck(n, inner, stride, compute, rngs)
            n, block = 4 * inner, block + 1
    layers["mean"] = GlobalAvgPool()
    layers["dense"] = BinaryDense(
        n,
        n_classes,
        input_quantizer=_levels(8),
        kernel_quantizer=_levels(8, "channel"),
        use_bias=True,
        dtype=compute.dtype,
        rngs=rngs,
    )
    return Sequential(layers, memory=compute.memory)


class Bottleneck(nnx.Module):
    """Three convolutions, 1x1, 3x3 and 1x1, the last with a shortcut around all of them too.

    Args:
        n_in: channels.
        features: channels of the first two; the third has four times as many.
        stride: of the second.
        compute, rngs: see :func:`binjax.models.mlp`.
    """

    def __init__(self, n_in: int, features: int, stride: int, compute: Compute, rngs: nnx.Rngs):
        self.conv1 = PokeConv(n_in, features, 1, 1, compute, rngs)
        self.conv2 = PokeConv(features, features, 3, stride, compute, rngs)
        self.conv3 = PokeConv(features, 4 * features, 1, 1, compute, rngs, gamma=0.0)

    def __call__(
        self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> jax.Array:
        """x: ``[n, h, w, n_in]``; the result has 4·features channels."""
        y = self.conv2(self.conv1(x, train=train), train=train)
        return self.conv3(y, train=train, block_input=x)


class PokeConv(nnx.Module):
    """``norm(gate(x) · dprelu(norm(conv(sign(x))) + shortcuts))``: figure 2 of the paper.

    Args:
        n_in, n_out: channels.
        side: of the kernel.
        stride: of the convolution.
        gamma: the scale of the norm behind the convolution at the start.
        compute, rngs: see :func:`binjax.models.mlp`.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        side: int,
        stride: int,
        compute: Compute,
        rngs: nnx.Rngs,
        *,
        gamma: float = 1.0,
    ):
        conv = BinaryConv(
            n_in,
            n_out,
            (side, side),
            strides=(stride, stride),
            padding="SAME",
            input_quantizer=_INPUTS,
            kernel_quantizer="absmax_sign",
            backend=compute.backend,
            dtype=compute.dtype,
            rngs=rngs,
        )
        norm, self.norm = torch_norm(n_out), torch_norm(n_out)
        assert norm.scale is not None
        norm.scale[...] = jnp.full(n_out, gamma)
        self.body = Sequential({"conv": conv, "norm": norm}, memory=compute.memory)
        self.dprelu = DPReLU(n_out)
        self.gate = _gate(n_in, n_out, compute, rngs)

    def __call__(
        self,
        x: jax.Array,
        *,
        train: bool = False,
        key: jax.Array | None = None,
        block_input: jax.Array | None = None,
    ) -> jax.Array:
        """x: ``[n, h, w, n_in]``; block_input: of the shortcut around the whole block."""
        y = self.body(x, train=train)
        y = y + fit(x, y.shape, widen="zeros")
        if block_input is not None:
            y = y + fit(block_input, y.shape, widen="tile")
        scale = self.gate(x, train=train)
        y = self.dprelu(y) * scale.astype(y.dtype)[:, None, None, :]
        return self.norm(y, train=train)


def fit(x: jax.Array, shape: Sequence[int], *, widen: str) -> jax.Array:
    """A shortcut brought to the shape of what it is added to (§3.3 of the paper).

    Too many channels: means of as many neighbours as there are times too many, what is over is
    dropped. Too few: zeros behind them, or the same again (``widen="tile"``). Larger images: means
    of 3x3 windows, stride 2, zeros beyond the border counted.
    """
    n, wanted = x.shape[-1], shape[-1]
    if n > wanted:
        share = n // wanted
        x = jnp.mean(x[..., : wanted * share].reshape(*x.shape[:-1], wanted, share), -1)
    elif n < wanted and widen == "tile":
        x = jnp.tile(x, (1, 1, 1, wanted // n))
    elif n < wanted:
        x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, wanted - n)))
    if x.shape[1:3] != tuple(shape[1:3]):
        x = AvgPool((3, 3), (2, 2), "SAME", count_padding=True)(x)
    return x


def _gate(n_in: int, n_out: int, compute: Compute, rngs: nnx.Rngs) -> Sequential:
    inner = n_in // _REDUCTION
    shared: dict[str, Any] = {"use_bias": True, "dtype": compute.dtype, "rngs": rngs}
    kernel = _levels(4, "channel")
    return Sequential(
        {
            "mean": GlobalAvgPool(),
            "reduce": BinaryDense(
                n_in, inner, input_quantizer=_levels(4), kernel_quantizer=kernel, **shared
            ),
            "relu": Activation("relu"),
            "expand": BinaryDense(
                inner,
                n_out,
                input_quantizer=_levels(4) | {"positive": True},
                kernel_quantizer=kernel,
                **shared,
            ),
            "sigmoid": Activation("shifted_relu6"),
        }
    )


def _eight_bits(
    n_in: int,
    n_out: int,
    side: int,
    stride: int,
    padding: str,
    *,
    groups: int = 1,
    compute: Compute,
    rngs: nnx.Rngs,
) -> BinaryConv:
    return BinaryConv(
        n_in,
        n_out,
        (side, side),
        strides=(stride, stride),
        padding=padding,
        groups=groups,
        input_quantizer=_levels(8),
        kernel_quantizer=_levels(8, "channel"),
        dtype=compute.dtype,
        rngs=rngs,
    )


def _levels(k_bit: int, per: str = "image") -> dict[str, Any]:
    return {"kind": "absmax", "k_bit": k_bit, "per": per}


def _check_width(width: float) -> None:
    least = _STAGES[0][1] * width
    # The first block's shortcut has the stem's channels: the same again, or means of some.
    fits = 4 * least <= _STEM or 4 * least % _STEM == 0
    if not (float(least).is_integer() and least >= _REDUCTION and fits):
        raise ValueError(
            f"pokebnn: width is {width}; {_STAGES[0][1]} times it must be an integer of at least "
            f"{_REDUCTION}, above {_STEM // 4} a multiple of {_STEM // 4}"
        )
