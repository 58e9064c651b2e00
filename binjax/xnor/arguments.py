"""Argument checks shared by the packed operations: one line that names what is wrong."""

from __future__ import annotations

import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from binjax.packing import check_words

LARGEST_K = 1 << 30  # so that thresholds and 2 popcount fit into int32

Shaped = jax.Array | np.ndarray


def as_shaped(x: ArrayLike) -> Shaped:
    """X itself where it is an array: a conversion could narrow its dtype before it is checked."""
    return x if isinstance(x, jax.Array | np.ndarray) else jnp.asarray(x)


def check_k(k: Any, name: str = "k") -> int:
    """Number of elements of a packed axis.

    Raises:
        TypeError: not an integer (under ``jit`` it has to be static).
        ValueError: below 1, or 2^30 and above.
    """
    if isinstance(k, jax.core.Tracer):
        raise TypeError(f"{name} is a traced value; it must be a static Python integer")
    try:
        value = operator.index(k)
    except TypeError:
        raise TypeError(f"{name} is {k!r}; it must be an integer") from None
    if not 1 <= value < LARGEST_K:
        raise ValueError(f"{name} is {value}; binary products take from 1 to 2**30 - 1 elements")
    return value


def check_packed(name: str, words: ArrayLike, n: int, ndim: int, axes: str) -> Shaped:
    """Packed words of ``ndim`` axes and ``n`` elements in the last.

    Raises:
        TypeError: dtype other than uint32.
        ValueError: another rank or number of words.
    """
    words = as_shaped(words)
    if words.ndim != ndim:
        raise ValueError(f"{name} has shape {words.shape}; expected {axes}")
    check_words(words, n, name)
    return words


def check_per_feature(name: str, values: ArrayLike, n: int, dtype: Any) -> Shaped:
    """One value per output feature.

    Raises:
        TypeError: another dtype.
        ValueError: a shape other than ``(n,)``.
    """
    values = as_shaped(values)
    if values.dtype != dtype:
        raise TypeError(f"{name} has dtype {values.dtype}; it must be {jnp.dtype(dtype)}")
    if values.shape != (n,):
        raise ValueError(f"{name} has shape {values.shape}; expected ({n},), one per feature")
    return values


def check_thresholds(threshold: ArrayLike, flip: ArrayLike, n: int, k: int) -> tuple[Any, Any]:
    """Thresholds int32[n] and flips bool[n]; the values only where they are concrete.

    Raises:
        TypeError: other dtypes.
        ValueError: other shapes, or a threshold outside [-k, k + 1], where -k is "always" and
            k + 1 "never".
    """
    threshold = check_per_feature("threshold", threshold, n, jnp.int32)
    flip = check_per_feature("flip", flip, n, jnp.bool_)
    if n and is_readable(threshold):
        values = np.asarray(threshold)
        low, high = int(values.min()), int(values.max())
        if low < -k or high > k + 1:
            wrong = low if low < -k else high
            raise ValueError(
                f"threshold has the value {wrong}; sums of {k} products of ±1 need thresholds in "
                f"[{-k}, {k + 1}]"
            )
    return threshold, flip


def check_floating(name: str, x: ArrayLike) -> Shaped:
    """An array of a floating dtype, without NaN where it can be read.

    Raises:
        TypeError: another dtype.
        ValueError: NaN in a concrete array.
    """
    x = as_shaped(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(
            f"{name} has dtype {x.dtype}; it must be floating (for words, see packed_matmul "
            "and packed_conv)"
        )
    refuse_nan(name, x)
    return x


def refuse_nan(name: str, x: Shaped) -> None:
    """Refuse NaN, which has no sign to pack, in an array whose values are there.

    Raises:
        ValueError: NaN.
    """
    if not (jnp.issubdtype(x.dtype, jnp.floating) and is_readable(x)):
        return
    with jax.ensure_compile_time_eval():  # the values may be there inside of a trace
        found = bool(np.isnan(x).any() if isinstance(x, np.ndarray) else _any_nan(x))
    if found:
        where = tuple(int(i) for i in np.argwhere(np.isnan(np.asarray(x, np.float64)))[0])
        raise ValueError(f"{name} is NaN at {where}; NaN has no sign, clean it before packing")


@jax.jit
def _any_nan(x: jax.Array) -> jax.Array:
    return jnp.isnan(x).any()


def is_readable(x: Shaped) -> bool:
    """Whether the values are there: not under ``jit`` or ``grad``, not on other hosts."""
    if isinstance(x, jax.core.Tracer):
        return False
    return not isinstance(x, jax.Array) or x.is_fully_addressable
