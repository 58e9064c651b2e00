"""Depthwise and separable convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx

from binjax.layers.arguments import check_padding, several
from binjax.layers.binary import BinaryConv
from binjax.layers.conv_nd import check_causal
from binjax.layers.quantize import QuantizerLike
from binjax.ste.arguments import integer
from binjax.xnor.geometry import Padding


class BinaryDepthwiseConv(BinaryConv):
    """Each channel convolved alone: :class:`BinaryConv` with as many groups as channels.

    The kernel is ``[kh, kw, 1, n_in·depth_multiplier]``; outputs of one channel stand together,
    as in Keras.

    Args:
        n_in: channels.
        kernel_size: (height, width).
        depth_multiplier: outputs per channel.
        **options: see :class:`BinaryConv`.

    Raises:
        ValueError: a multiplier below 1.
    """

    def __init__(
        self,
        n_in: int,
        kernel_size: int | Sequence[int] = (3, 3),
        *,
        depth_multiplier: int = 1,
        rngs: nnx.Rngs,
        **options: Any,
    ):
        name = "BinaryDepthwiseConv"
        n_in = integer(f"{name}: n_in", n_in)
        n_out = n_in * integer(f"{name}: depth_multiplier", depth_multiplier)
        super().__init__(n_in, n_out, kernel_size, groups=n_in, rngs=rngs, **options)


class BinarySeparableConv(nnx.Module):
    """A depthwise convolution and a 1x1 one behind it.

    Larq's layer quantizes nothing between the two, so that its second product is one of floats;
    ``between_quantizer`` makes it one of bits.

    Args:
        n_in, n_out: channels.
        kernel_size, strides, padding, pad_value, dilation, depth_multiplier: of the depthwise
            convolution.
        input_quantizer, depthwise_quantizer: of its operands.
        between_quantizer, pointwise_quantizer: of the 1x1 convolution's.
        use_bias: of the 1x1 convolution.
        backend: see :class:`BinaryDense`; "auto" or "float".
        **options: ``kernel_init``, ``dtype``, ``param_dtype`` of both.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        kernel_size: int | Sequence[int] = (3, 3),
        *,
        strides: int | Sequence[int] = (1, 1),
        padding: Padding = "SAME",
        pad_value: float = 0.0,
        dilation: int | Sequence[int] = (1, 1),
        depth_multiplier: int = 1,
        input_quantizer: QuantizerLike = "ste_sign",
        depthwise_quantizer: QuantizerLike = "ste_sign",
        between_quantizer: QuantizerLike = None,
        pointwise_quantizer: QuantizerLike = "ste_sign",
        use_bias: bool = False,
        rngs: nnx.Rngs,
        **options: Any,
    ):
        self.depthwise = BinaryDepthwiseConv(
            n_in,
            kernel_size,
            strides=strides,
            padding=padding,
            pad_value=pad_value,
            dilation=dilation,
            depth_multiplier=depth_multiplier,
            input_quantizer=input_quantizer,
            kernel_quantizer=depthwise_quantizer,
            rngs=rngs,
            **options,
        )
        self.pointwise = BinaryConv(
            n_in * depth_multiplier,
            n_out,
            (1, 1),
            input_quantizer=between_quantizer,
            kernel_quantizer=pointwise_quantizer,
            use_bias=use_bias,
            rngs=rngs,
            **options,
        )

    def __call__(
        self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> jax.Array:
        """x: ``[n, h, w, n_in]``."""
        first, second = (None if key is None else jax.random.fold_in(key, i) for i in range(2))
        return self.pointwise(self.depthwise(x, train=train, key=first), train=train, key=second)


class BinarySeparableConv1D(BinarySeparableConv):
    """:class:`BinarySeparableConv` along time: ``[n, t, n_in]`` to ``[n, t, n_out]``.

    Kernels are ``[1, k, 1, n_in·depth_multiplier]`` and ``[1, 1, n_in·depth_multiplier, n_out]``.

    Args:
        n_in, n_out: channels.
        kernel_size, stride, dilation: integers.
        padding: ``"SAME"``, ``"VALID"``, ``"CAUSAL"`` or ``((before, after),)``.
        pad_value: of the depthwise convolution; 0 with causal padding.
        **options: see :class:`BinarySeparableConv`.

    Raises:
        ValueError: sizes below 1, unknown padding, causal padding with another value than 0.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        kernel_size: int = 3,
        *,
        stride: int = 1,
        padding: str | Sequence[Sequence[int]] = "SAME",
        pad_value: float = 0.0,
        dilation: int = 1,
        rngs: nnx.Rngs,
        **options: Any,
    ):
        name = "BinarySeparableConv1D"
        (k,) = several(name, "kernel_size", kernel_size, 1)
        (step,), (reach,) = (
            several(name, "stride", stride, 1),
            several(name, "dilation", dilation, 1),
        )
        border: Padding
        if padding == "CAUSAL":
            check_causal(name, pad_value)
            border = ((0, 0), ((k - 1) * reach, 0))
        else:
            along = check_padding(name, padding, 1)
            border = along if isinstance(along, str) else ((0, 0), *along)
        super().__init__(
            n_in,
            n_out,
            (1, k),
            strides=(1, step),
            padding=border,
            pad_value=pad_value,
            dilation=(1, reach),
            rngs=rngs,
            **options,
        )

    def __call__(
        self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> jax.Array:
        """x: ``[n, t, n_in]``."""
        n_in = self.depthwise.n_in
        if x.ndim != 3 or x.shape[-1] != n_in:
            raise ValueError(
                f"BinarySeparableConv1D takes [n, t, {n_in}] inputs, got shape {x.shape}"
            )
        return super().__call__(x[:, None], train=train, key=key)[:, 0]
