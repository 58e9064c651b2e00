"""Transposed convolutions: on bits, one ordinary convolution for each phase of the output."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from binjax.layers.arguments import channels, check_padding, several
from binjax.layers.composed import ComposedLayer


class _Phases(NamedTuple):
    """Of the outputs along an axis: ``kinds``, which see taps ``every`` apart."""

    kinds: int
    every: int
    step: int


class _Transposed(ComposedLayer):
    """What both have in common: arguments, sizes, borders."""

    axes: int

    def __init__(
        self,
        n_in: int,
        n_out: int,
        kernel_size: int | Sequence[int] = 3,
        *,
        strides: int | Sequence[int] = 1,
        padding: str = "SAME",
        output_padding: int | Sequence[int] | None = None,
        dilation: int | Sequence[int] = 1,
        rngs: nnx.Rngs,
        **options: Any,
    ):
        name = type(self).__name__
        n_in, n_out, _ = channels(name, n_in, n_out)
        self.kernel_size = several(name, "kernel_size", kernel_size, self.axes)
        self.strides = several(name, "strides", strides, self.axes)
        self.dilation = several(name, "dilation", dilation, self.axes)
        if not isinstance(padding, str):
            raise ValueError(f'{name} padding is {padding!r}; choose "SAME" or "VALID"')
        check_padding(name, padding, self.axes)
        self.padding = padding
        self.output_padding: tuple[int, ...] | None = None
        if output_padding is not None:
            extra = several(name, "output_padding", output_padding, self.axes, least=0)
            if any(e >= s for e, s in zip(extra, self.strides, strict=True)):
                raise ValueError(
                    f"{name}: output_padding is {output_padding}; wanted {self.axes} numbers below "
                    f"the strides {self.strides}"
                )
            self.output_padding = extra
        super().__init__((*self.kernel_size, n_in, n_out), options, rngs=rngs)

    def macs(self, output_shape: Sequence[int]) -> int:
        """The whole kernel for every input."""
        sizes = (self._input_size(size, axis) for axis, size in enumerate(output_shape[:-1]))
        return math.prod(self.kernel.shape) * math.prod(sizes)

    def check(self, x: jax.Array) -> None:
        """``[n, *sizes, n_in]``."""
        if x.ndim != self.axes + 2 or x.shape[-1] != self.n_in:
            sizes = "dhw"[-self.axes :]
            raise ValueError(
                f"{type(self).__name__} takes [n, {', '.join(sizes)}, {self.n_in}] inputs, got "
                f"shape {x.shape}"
            )

    def output_size(self, size: int, axis: int) -> int:
        """Of an input of this size along a spatial axis."""
        window, stride, same = self._window(axis), self.strides[axis], self.padding == "SAME"
        if self.output_padding is None:
            return size * stride + (0 if same else max(window - stride, 0))
        ends = window - (2 * (window // 2) if same else 0) + self.output_padding[axis]
        return (size - 1) * stride + ends

    def _input_size(self, size: int, axis: int) -> int:
        # The output's grows by the stride from one input size to the next.
        return (size - self.output_size(1, axis)) // self.strides[axis] + 1

    def _window(self, axis: int) -> int:
        return (self.kernel_size[axis] - 1) * self.dilation[axis] + 1

    def _full(self, size: int, axis: int) -> int:
        return (size - 1) * self.strides[axis] + max(self._window(axis), self.strides[axis])

    def _planes(self, x: jax.Array, kernel: jax.Array, packed: bool) -> jax.Array:
        """All of a transposed 2-D convolution along the last two spatial axes.

        Outputs whose taps are those from ``first`` on, ``every`` apart, see ``x[i]``,
        ``x[i - step]``, … : a convolution with these taps in reverse.
        """
        down, right = (self._phases(axis) for axis in (self.axes - 2, self.axes - 1))
        total: jax.Array | None = None
        for top in range(down.kinds):
            for left in range(right.kinds):
                taps = kernel[top :: down.every, left :: right.every][::-1, ::-1]
                steps = (down.step, right.step)
                border = tuple(
                    ((k - 1) * s,) * 2 for k, s in zip(taps.shape[:2], steps, strict=True)
                )
                y = self._conv(x, taps, packed, border=border, dilation=steps)
                rows = self._spread(x.shape[1], y.shape[1], top, self.axes - 2)
                columns = self._spread(x.shape[2], y.shape[2], left, self.axes - 1)
                y = jax.lax.pad(y, jnp.zeros((), y.dtype), ((0, 0, 0), rows, columns, (0, 0, 0)))
                total = y if total is None else total + y
        assert total is not None
        return total

    def _phases(self, axis: int) -> _Phases:
        k, s, d = self.kernel_size[axis], self.strides[axis], self.dilation[axis]
        common = math.gcd(s, d)
        return _Phases(min(s // common, k), s // common, d // common)

    def _spread(self, size: int, n: int, tap: int, axis: int) -> tuple[int, int, int]:
        """``lax.pad``'s numbers that put ``n`` values a stride apart, beginning at a tap."""
        stride, low = self.strides[axis], tap * self.dilation[axis]
        return low, self._full(size, axis) - low - (n - 1) * stride - 1, stride - 1

    def _crop(self, full: jax.Array, sizes: Sequence[int]) -> jax.Array:
        pads = [(0, 0, 0)]
        for axis, size in enumerate(sizes):
            wanted, stride = self.output_size(size, axis), self.strides[axis]
            # The border of the convolution whose transpose this is.
            total = max((-(-wanted // stride) - 1) * stride + self._window(axis) - wanted, 0)
            before = total // 2 if self.padding == "SAME" else 0
            pads.append((-before, before + wanted - full.shape[axis + 1], 0))
        return jax.lax.pad(full, jnp.zeros((), full.dtype), (*pads, (0, 0, 0)))


class BinaryConvTranspose(_Transposed):
    """Transposed 2-D convolution of ``quantize(x)`` ``[n, h, w, n_in]``: it enlarges images.

    ``y[i·s + a·d - before] += x[i] kernel[a]`` along both axes, with a kernel
    ``[kh, kw, n_in, n_out]`` (Keras keeps it as ``[kh, kw, n_out, n_in]``; a quantizer's scale is
    one number per output channel here). Sizes are Keras's: with a window ``r = (k - 1)·d + 1``,
    ``size·s`` for "SAME", ``size·s + max(r - s, 0)`` for "VALID", or with ``output_padding``
    ``(size - 1)·s + r - 2·(r // 2) + output_padding`` and without the division for "VALID".

    Args:
        n_in, n_out: channels.
        kernel_size, strides, dilation: (vertical, horizontal), or one for both.
        padding: ``"SAME"`` or ``"VALID"``.
        output_padding: added to the output's size, less than the stride; default none.
        **options: see :class:`BinaryConv1D`.

    Raises:
        ValueError: sizes below 1, unknown padding, an output padding that is not below the stride.
        TypeError: an unknown option.
    """

    axes = 2

    def _compose(self, x: jax.Array, kernel: jax.Array, packed: bool) -> jax.Array:
        return self._crop(self._planes(x, kernel, packed), x.shape[1:3])


class BinaryConvTranspose3D(_Transposed):
    """As :class:`BinaryConvTranspose` in three dimensions: ``[n, d, h, w, n_in]``.

    The kernel is ``[kd, kh, kw, n_in, n_out]``.
    """

    axes = 3
    sums = True

    def _compose(self, x: jax.Array, kernel: jax.Array, packed: bool) -> jax.Array:
        n, depth = x.shape[:2]
        flat = x.reshape(-1, *x.shape[2:])
        total: jax.Array | None = None
        for tap in range(self.kernel_size[0]):
            y = self._planes(flat, kernel[tap], packed)
            y = y.reshape(n, depth, *y.shape[1:])
            slices = self._spread(depth, depth, tap, 0)
            y = jax.lax.pad(y, jnp.zeros((), y.dtype), ((0, 0, 0), slices, *((0, 0, 0),) * 3))
            total = y if total is None else total + y
        assert total is not None
        return self._crop(total, x.shape[1:4])
