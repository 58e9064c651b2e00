"""Pooling of packed images."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from binjax.xnor.arguments import as_shaped
from binjax.xnor.geometry import Geometry, Padding, pads, pair


def packed_max_pool(
    xp: ArrayLike,
    window: Sequence[int],
    strides: Sequence[int] | None = None,
    padding: Padding = "VALID",
) -> jax.Array:
    """Maximum of ±1 values over windows: the OR of their bits.

    Args:
        xp: ``uint32[n, h, w, ...]``, packed along the last axis.
        window: (height, width).
        strides: (vertical, horizontal); None is the window's.
        padding: "SAME", "VALID", or ``((top, bottom), (left, right))``, none negative. The
            border contributes 0 bits, that is -1, the smallest value.

    Returns:
        ``uint32[n, oh, ow, ...]``.

    Raises:
        TypeError: dtype other than uint32.
        ValueError: fewer than four axes, or an option out of range.
    """
    xp = as_shaped(xp)
    if xp.dtype != jnp.uint32:
        raise TypeError(f"xp has dtype {xp.dtype}, packed words are uint32")
    if xp.ndim < 4:
        raise ValueError(f"xp has shape {xp.shape}; expected [n, h, w, ..., words]")
    window = pair("window", window)
    strides = window if strides is None else pair("strides", strides)
    vertical, horizontal = pads(xp.shape[1:3], window, strides, padding, (1, 1))
    geometry = Geometry(1, strides, (1, 1), (*vertical, *horizontal), -1)
    high, wide = geometry.output(xp.shape[1:3], window)
    shape = (xp.shape[0], high, wide, *xp.shape[3:])
    if 0 in shape:
        return jnp.zeros(shape, jnp.uint32)
    rest = xp.ndim - 3
    image = jnp.pad(xp, [(0, 0), vertical, horizontal] + [(0, 0)] * rest)

    def tap(i: int, j: int) -> jax.Array:
        down, right = strides
        end = (i + (high - 1) * down + 1, j + (wide - 1) * right + 1)
        limit = (shape[0], *end, *shape[3:])
        return lax.slice(image, (0, i, j) + (0,) * rest, limit, (1, down, right) + (1,) * rest)

    taps = [tap(i, j) for i in range(window[0]) for j in range(window[1])]
    return functools.reduce(operator.or_, taps)
