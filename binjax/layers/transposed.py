"""Transposed convolutions: on bits, one ordinary convolution for each phase of the output."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from binjax.layers.composed import ComposedLayer, check_padding_nd, several


class BinaryConvTranspose(ComposedLayer):
    """Transposed 2-D convolution of ``quantize(x)`` ``[n, h, w, n_in]``: it enlarges images.

    ``y[i·s + a - before] += x[i] kernel[a]`` along both axes, with a kernel
    ``[kh, kw, n_in, n_out]`` (Keras keeps it as ``[kh, kw, n_out, n_in]``). Sizes are Keras's:
    ``size·s`` for "SAME", ``size·s + max(k - s, 0)`` for "VALID", or with ``output_padding``
    ``(size - 1)·s + k - 2·(k // 2) + output_padding`` and without the division for "VALID".

    Args:
        n_in, n_out: channels.
        kernel_size, strides: (vertical, horizontal), or one for both.
        padding: ``"SAME"`` or ``"VALID"``.
        output_padding: added to the output's size, less than the stride; default none.
        **options: see :class:`BinaryConv1D`.

    Raises:
        ValueError: sizes below 1, unknown padding, an output padding that is not below the stride.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        kernel_size: int | Sequence[int] = (3, 3),
        *,
        strides: int | Sequence[int] = (1, 1),
        padding: str = "SAME",
        output_padding: int | Sequence[int] | None = None,
        rngs: nnx.Rngs,
        **options: Any,
    ):
        _set_geometry(self, 2, kernel_size, strides, padding, output_padding)
        super().__init__((*self.kernel_size, n_in, n_out), rngs=rngs, **options)

    kernel_size: tuple[int, ...]
    strides: tuple[int, ...]
    padding: str
    output_padding: tuple[int, ...] | None

    def macs(self, output_shape: Sequence[int]) -> int:
        """The whole kernel for every input."""
        return math.prod(self.kernel.shape) * math.prod(_input_sizes(self, output_shape))

    def check(self, x: jax.Array) -> None:
        """``[n, h, w, n_in]``."""
        if x.ndim != 4 or x.shape[-1] != self.n_in:
            raise ValueError(
                f"BinaryConvTranspose takes [n, h, w, {self.n_in}] inputs, got shape {x.shape}"
            )

    def _compose(self, x: jax.Array, kernel: jax.Array, packed: bool) -> jax.Array:
        full = _spread(self, x, kernel, self.strides, packed)
        return _crop(self, full, x.shape[1:3])


class BinaryConvTranspose3D(ComposedLayer):
    """As :class:`BinaryConvTranspose` in three dimensions: ``[n, d, h, w, n_in]``.

    The kernel is ``[kd, kh, kw, n_in, n_out]``.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        kernel_size: int | Sequence[int] = 3,
        *,
        strides: int | Sequence[int] = 1,
        padding: str = "SAME",
        output_padding: int | Sequence[int] | None = None,
        rngs: nnx.Rngs,
        **options: Any,
    ):
        _set_geometry(self, 3, kernel_size, strides, padding, output_padding)
        super().__init__((*self.kernel_size, n_in, n_out), rngs=rngs, **options)

    kernel_size: tuple[int, ...]
    strides: tuple[int, ...]
    padding: str
    output_padding: tuple[int, ...] | None

    def macs(self, output_shape: Sequence[int]) -> int:
        """The whole kernel for every input."""
        return math.prod(self.kernel.shape) * math.prod(_input_sizes(self, output_shape))

    def check(self, x: jax.Array) -> None:
        """``[n, d, h, w, n_in]``."""
        if x.ndim != 5 or x.shape[-1] != self.n_in:
            raise ValueError(
                f"BinaryConvTranspose3D takes [n, d, h, w, {self.n_in}] inputs, got {x.shape}"
            )

    def _compose(self, x: jax.Array, kernel: jax.Array, packed: bool) -> jax.Array:
        n, depth = x.shape[:2]
        flat = x.reshape(-1, *x.shape[2:])
        stride, taps = self.strides[0], self.kernel_size[0]
        full: jax.Array | None = None
        for tap in range(taps):
            y = _spread(self, flat, kernel[tap], self.strides[1:], packed)
            y = y.reshape(n, depth, *y.shape[1:])
            if full is None:
                shape = (n, (depth - 1) * stride + max(taps, stride), *y.shape[2:])
                full = jnp.zeros(shape, y.dtype)
            full = full.at[:, tap : tap + (depth - 1) * stride + 1 : stride].add(y)
        assert full is not None
        return _crop(self, full, x.shape[1:4])


def _set_geometry(
    layer: Any,
    n: int,
    kernel_size: int | Sequence[int],
    strides: int | Sequence[int],
    padding: str,
    output_padding: int | Sequence[int] | None,
) -> None:
    name = type(layer).__name__
    layer.kernel_size = several(name, "kernel_size", kernel_size, n)
    layer.strides = several(name, "strides", strides, n)
    if not isinstance(padding, str):
        raise ValueError(f'{name} padding is {padding!r}; choose "SAME" or "VALID"')
    check_padding_nd(name, padding, n)
    layer.padding = padding
    extra: tuple[int, ...] | None = None
    if output_padding is not None:
        extra = (output_padding,) * n if isinstance(output_padding, int) else tuple(output_padding)
        if len(extra) != n or not all(
            0 <= e < s for e, s in zip(extra, layer.strides, strict=False)
        ):
            raise ValueError(
                f"{name}: output_padding is {output_padding}; wanted {n} numbers below the strides "
                f"{layer.strides}"
            )
    layer.output_padding = extra


def _spread(
    layer: ComposedLayer, x: jax.Array, kernel: jax.Array, strides: Sequence[int], packed: bool
) -> jax.Array:
    """All of a transposed 2-D convolution: ``(size - 1)·s + max(k, s)`` along both axes."""
    (down, right), (high, wide) = strides, kernel.shape[:2]
    n_out = kernel.shape[3]
    rows, columns = x.shape[1:3]
    shape = ((rows - 1) * down + max(high, down), (columns - 1) * right + max(wide, right))
    full = jnp.zeros((x.shape[0], *shape, n_out), x.dtype)
    for top in range(min(down, high)):
        for left in range(min(right, wide)):
            # Every stride-th tap, in reverse: the outputs i·stride + top see x[i], x[i - 1], …
            taps = kernel[top::down, left::right][::-1, ::-1]
            border = ((taps.shape[0] - 1,) * 2, (taps.shape[1] - 1,) * 2)
            y = layer._conv(x, taps, packed, border=border)
            full = full.at[
                :,
                top : top + (y.shape[1] - 1) * down + 1 : down,
                left : left + (y.shape[2] - 1) * right + 1 : right,
            ].set(y)
    return full


def _input_sizes(layer: Any, output_shape: Sequence[int]) -> list[int]:
    sizes = []
    for axis, (size, k, s) in enumerate(
        zip(output_shape, layer.kernel_size, layer.strides, strict=False)
    ):
        same = layer.padding == "SAME"
        if layer.output_padding is not None:
            ends = k - (2 * (k // 2) if same else 0) + layer.output_padding[axis]
            sizes.append((size - ends) // s + 1)
        else:
            sizes.append((size if same else size - max(k - s, 0)) // s)
    return sizes


def _crop(layer: Any, full: jax.Array, sizes: Sequence[int]) -> jax.Array:
    for axis, size in enumerate(sizes, start=1):
        k, s = layer.kernel_size[axis - 1], layer.strides[axis - 1]
        same = layer.padding == "SAME"
        if layer.output_padding is not None:
            wanted = (size - 1) * s + k - (2 * (k // 2) if same else 0)
            wanted += layer.output_padding[axis - 1]
        else:
            wanted = size * s if same else size * s + max(k - s, 0)
        # The border of the convolution whose transpose this is.
        total = max((-(-wanted // s) - 1) * s + k - wanted, 0) if same else 0
        before = total // 2
        missing = max(before + wanted - full.shape[axis], 0)
        if missing:
            pads = [(0, 0)] * full.ndim
            pads[axis] = (0, missing)
            full = jnp.pad(full, pads)
        full = jax.lax.slice_in_dim(full, before, before + wanted, axis=axis)
    return full
