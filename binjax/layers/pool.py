"""Max-pooling whose gradient is fast on CPUs."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx


class MaxPool(nnx.Module):
    """Maximum over windows of an NHWC array, VALID; strides default to the window.

    Of equal values in a window the first one, row by row, gets the gradient.
    """

    def __init__(self, window: Sequence[int] = (2, 2), strides: Sequence[int] | None = None):
        self.window = _pair("window", window)
        self.strides = self.window if strides is None else _pair("strides", strides)

    def __call__(
        self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> jax.Array:
        """x: ``[n, h, w, c]``."""
        if self.strides == self.window:
            return tiled_max(x, self.window)
        pooled: jax.Array = nnx.max_pool(x, self.window, strides=self.strides)  # type: ignore[no-untyped-call]
        return pooled


def tiled_max(x: jax.Array, window: tuple[int, int]) -> jax.Array:
    """Maximum over windows side by side: ``[n, h, w, c]`` to ``[n, h // wh, w // ww, c]``.

    The gradient of XLA's own window reduction takes fifty times as long on CPUs. Kept for this one
    is the place of each maximum, a byte. NaN wins.
    """
    high, wide = x.shape[1] // window[0], x.shape[2] // window[1]
    return _tiled_max(x[:, : high * window[0], : wide * window[1]], window)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _tiled_max(x: jax.Array, window: tuple[int, int]) -> jax.Array:
    return functools.reduce(jnp.maximum, _places(x, window))


def _places(x: jax.Array, window: tuple[int, int]) -> list[jax.Array]:
    """Per place in the window, row by row, the elements that stand there in all windows."""
    down, right = window
    return [x[:, i::down, j::right] for i in range(down) for j in range(right)]


def _tiled_max_fwd(x: jax.Array, window: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
    best, *others = _places(x, window)
    at = jnp.zeros(best.shape, jnp.uint8 if len(others) < 256 else jnp.int32)
    for place, values in enumerate(others, start=1):
        better = (values > best) | (jnp.isnan(values) & ~jnp.isnan(best))
        at = jnp.where(better, jnp.asarray(place, at.dtype), at)
        best = jnp.where(better, values, best)
    return best, at


def _tiled_max_bwd(window: tuple[int, int], at: jax.Array, g: jax.Array) -> tuple[jax.Array]:
    (down, right), (n, high, wide, channels) = window, g.shape
    place = jnp.arange(down * right).astype(at.dtype).reshape(1, 1, down, 1, right, 1)
    # [n, high, down, wide, right, channels]
    here = at[:, :, None, :, None, :] == place
    spread = jnp.where(here, g[:, :, None, :, None, :], jnp.zeros((), g.dtype))
    return (spread.reshape(n, high * down, wide * right, channels),)


_tiled_max.defvjp(_tiled_max_fwd, _tiled_max_bwd)


def _pair(name: str, value: Sequence[int]) -> tuple[int, int]:
    pair = tuple(value)
    if len(pair) != 2 or min(pair) < 1:
        raise ValueError(f"MaxPool {name} is two positive integers, not {value}")
    return pair[0], pair[1]
