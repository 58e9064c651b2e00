"""Convolutions in one and three dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from binjax.layers.arguments import channels, check_padding, several
from binjax.layers.composed import ComposedLayer, spans


class BinaryConv1D(ComposedLayer):
    """1-D convolution of ``quantize(x)`` ``[n, t, n_in]``; kernel ``[k, n_in/groups, n_out]``.

    Args:
        n_in, n_out: channels.
        kernel_size, stride, dilation: integers.
        padding: ``"SAME"``, ``"VALID"``, ``"CAUSAL"`` (an output sees no later input) or
            ``((before, after),)``.
        pad_value: what padding puts around the *quantized* input: 0, ±1, or any other number for
            a product of floats.
        groups: of channels.
        **options: ``input_quantizer``, ``kernel_quantizer``, ``dropout``, ``use_bias``,
            ``kernel_init``, ``backend``, ``dtype``, ``param_dtype``: see
            :class:`binjax.layers.BinaryDense`.

    Raises:
        ValueError: sizes below 1, unknown padding, causal padding with another value than 0,
            groups that do not divide the channels.
        TypeError: an unknown option.
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
        groups: int = 1,
        rngs: nnx.Rngs,
        **options: Any,
    ):
        name = "BinaryConv1D"
        (self.kernel_size,) = several(name, "kernel_size", kernel_size, 1)
        (self.stride,), (self.dilation,) = (
            several(name, "stride", stride, 1),
            several(name, "dilation", dilation, 1),
        )
        if padding == "CAUSAL":
            check_causal(name, pad_value)
        self.padding = padding if padding == "CAUSAL" else check_padding(name, padding, 1)
        n_in, n_out, groups = channels(name, n_in, n_out, groups)
        shape = (self.kernel_size, n_in // groups, n_out)
        super().__init__(shape, options, groups=groups, pad_value=pad_value, rngs=rngs)

    def check(self, x: jax.Array) -> None:
        """``[n, t, n_in]``."""
        if x.ndim != 3 or x.shape[-1] != self.n_in:
            raise ValueError(f"BinaryConv1D takes [n, t, {self.n_in}] inputs, got shape {x.shape}")

    def _compose(self, x: jax.Array, kernel: jax.Array, packed: bool) -> jax.Array:
        reach = (self.kernel_size - 1) * self.dilation
        padding = ((reach, 0),) if self.padding == "CAUSAL" else self.padding
        (along,) = spans(
            x.shape[1:2], (self.kernel_size,), (self.stride,), (self.dilation,), padding
        )
        y = self._conv(
            x[:, None],
            kernel[None],
            packed,
            strides=(1, self.stride),
            border=((0, 0), along),
            pad_value=self.pad_value,
            dilation=(1, self.dilation),
        )
        return y[:, 0]


class BinaryConv3D(ComposedLayer):
    """3-D convolution of ``quantize(x)`` ``[n, d, h, w, n_in]``.

    The kernel is ``[kd, kh, kw, n_in/groups, n_out]``. On bits it is a sum of 2-D convolutions, one
    for each slice of the kernel, and as exact.

    Args:
        n_in, n_out: channels.
        kernel_size, strides, dilation: three integers, or one for all.
        padding: ``"SAME"``, ``"VALID"`` or three pairs (before, after).
        pad_value, groups, **options: see :class:`BinaryConv1D`.

    Raises:
        ValueError: sizes below 1, unknown padding, groups that do not divide the channels.
        TypeError: an unknown option.
    """

    sums = True

    def __init__(
        self,
        n_in: int,
        n_out: int,
        kernel_size: int | Sequence[int] = 3,
        *,
        strides: int | Sequence[int] = 1,
        padding: str | Sequence[Sequence[int]] = "SAME",
        pad_value: float = 0.0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        rngs: nnx.Rngs,
        **options: Any,
    ):
        name = "BinaryConv3D"
        self.kernel_size = several(name, "kernel_size", kernel_size, 3)
        self.strides = several(name, "strides", strides, 3)
        self.dilation = several(name, "dilation", dilation, 3)
        self.padding = check_padding(name, padding, 3)
        n_in, n_out, groups = channels(name, n_in, n_out, groups)
        shape = (*self.kernel_size, n_in // groups, n_out)
        super().__init__(shape, options, groups=groups, pad_value=pad_value, rngs=rngs)

    def check(self, x: jax.Array) -> None:
        """``[n, d, h, w, n_in]``."""
        if x.ndim != 5 or x.shape[-1] != self.n_in:
            raise ValueError(
                f"BinaryConv3D takes [n, d, h, w, {self.n_in}] inputs, got shape {x.shape}"
            )

    def _compose(self, x: jax.Array, kernel: jax.Array, packed: bool) -> jax.Array:
        (low, high), *border = spans(
            x.shape[1:4], self.kernel_size, self.strides, self.dilation, self.padding
        )
        if self.pad_value != 0:
            x = jnp.pad(x, ((0, 0), (low, high), *((0, 0),) * 3), constant_values=self.pad_value)
            low = high = 0
        stride, step = self.strides[0], self.dilation[0]
        depth = x.shape[1]
        n_out = max((depth + low + high - (self.kernel_size[0] - 1) * step - 1) // stride + 1, 0)
        total: jax.Array | None = None
        for tap in range(self.kernel_size[0]):
            # Output i sees slice i·stride + tap·step - low; those outside are zeros.
            at = [i * stride + tap * step - low for i in range(n_out)]
            inside = [i for i, d in enumerate(at) if 0 <= d < depth]
            first, last = (inside[0], inside[-1]) if inside else (0, -1)
            part = x[:, at[first] : at[last] + 1 : stride] if inside else x[:, :0]
            flat = part.reshape(-1, *part.shape[2:])
            y = self._conv(
                flat,
                kernel[tap],
                packed,
                strides=self.strides[1:],  # type: ignore[arg-type]
                border=tuple(border),
                pad_value=self.pad_value,
                dilation=self.dilation[1:],  # type: ignore[arg-type]
            )
            y = y.reshape(*part.shape[:2], *y.shape[1:])
            y = jnp.pad(y, ((0, 0), (first, n_out - 1 - last), *((0, 0),) * 3))
            total = y if total is None else total + y
        assert total is not None
        return total


def check_causal(layer: str, pad_value: float) -> None:
    """Refuse causal padding with another value than 0.

    Raises:
        ValueError: it is.
    """
    if pad_value != 0:
        raise ValueError(
            f"{layer}: causal padding puts zeros in front, pad_value is {pad_value!r}; take 0, or "
            "explicit padding"
        )
