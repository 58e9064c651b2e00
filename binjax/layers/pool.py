"""Pooling; of maxima with a gradient that is fast on CPUs."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from binjax.layers.arguments import check_padding, two
from binjax.xnor.geometry import Padding, Pair, pads


class MaxPool(nnx.Module):
    """Maximum over windows of an NHWC array; strides default to the window.

    Of equal values in a window the first one, row by row, gets the gradient.

    Args:
        window, strides: (vertical, horizontal), or one number for both.
        padding: ``"VALID"``, ``"SAME"`` or ``((top, bottom), (left, right))``, smaller than the
            window; what is outside never wins.

    Raises:
        ValueError: anything else.
    """

    def __init__(
        self,
        window: int | Sequence[int] = (2, 2),
        strides: int | Sequence[int] | None = None,
        padding: Padding = "VALID",
    ):
        self.window = two("MaxPool", "window", window)
        self.strides = self.window if strides is None else two("MaxPool", "strides", strides)
        self.padding = _check_pads("MaxPool", padding, self.window)

    def __call__(
        self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> jax.Array:
        """x: ``[n, h, w, c]``."""
        _check_image("MaxPool", x)
        border = pads(x.shape[1:3], self.window, self.strides, self.padding, (1, 1))
        if any(low or high for low, high in border):
            real = jnp.issubdtype(x.dtype, jnp.floating)
            lowest = -jnp.inf if real else np.iinfo(x.dtype).min
            x = jnp.pad(x, ((0, 0), *border, (0, 0)), constant_values=lowest)
        if self.strides == self.window:
            return tiled_max(x, self.window)
        pooled: jax.Array = nnx.max_pool(x, self.window, strides=self.strides)  # type: ignore[no-untyped-call]
        return pooled


class AvgPool(nnx.Module):
    """Mean over windows of an NHWC array; strides default to the window.

    Args:
        window, strides: (vertical, horizontal), or one number for both.
        padding: ``"VALID"``, ``"SAME"`` or ``((top, bottom), (left, right))``, smaller than the
            window.
        count_padding: divide by the whole window at the border too, as PyTorch does; else by the
            number of elements inside, as Keras does.

    Raises:
        ValueError: anything else.
    """

    def __init__(
        self,
        window: int | Sequence[int] = (2, 2),
        strides: int | Sequence[int] | None = None,
        padding: Padding = "VALID",
        *,
        count_padding: bool = False,
    ):
        self.window = two("AvgPool", "window", window)
        self.strides = self.window if strides is None else two("AvgPool", "strides", strides)
        self.padding = _check_pads("AvgPool", padding, self.window)
        self.count_padding = count_padding

    def __call__(
        self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> jax.Array:
        """x: ``[n, h, w, c]``."""
        _check_image("AvgPool", x)
        border = pads(x.shape[1:3], self.window, self.strides, self.padding, (1, 1))
        total = _window_sum(x, self.window, self.strides, border)
        if self.count_padding or not any(low or high for low, high in border):
            return total / (self.window[0] * self.window[1])
        inside = jnp.ones((1, *x.shape[1:3], 1), x.dtype)
        return total / _window_sum(inside, self.window, self.strides, border)


def _window_sum(
    x: jax.Array, window: tuple[int, int], strides: tuple[int, int], border: Sequence[Pair]
) -> jax.Array:
    sums: jax.Array = jax.lax.reduce_window(
        x,
        np.zeros((), x.dtype),  # a constant also under jit: else the sum has no gradient
        jax.lax.add,
        (1, *window, 1),
        (1, *strides, 1),
        ((0, 0), *border, (0, 0)),
    )
    return sums


class GlobalAvgPool(nnx.Module):
    """``[n, h, w, c]`` to the means over height and width, ``[n, c]``."""

    def __call__(
        self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> jax.Array:
        """x: ``[n, h, w, c]``."""
        _check_image("GlobalAvgPool", x)
        return jnp.mean(x, (1, 2))


def _check_pads(layer: str, padding: Padding, window: Pair) -> Padding:
    found = check_padding(layer, padding, 2)
    if not isinstance(found, str) and any(
        max(pair) >= size for pair, size in zip(found, window, strict=True)
    ):
        raise ValueError(
            f"{layer}: padding {found} makes windows of {window} that see nothing else; it must be "
            "smaller than the window"
        )
    return found


def _check_image(layer: str, x: jax.Array) -> None:
    if x.ndim != 4:
        raise ValueError(f"{layer} takes [n, h, w, c] inputs, got shape {x.shape}")


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
