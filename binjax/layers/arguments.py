"""Arguments of layers: sizes, groups, paddings, dtypes, checked where a layer is made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax.typing import DTypeLike

from binjax.ste.arguments import integer
from binjax.xnor.geometry import Pair, integers

_PAIRS = {1: "((before, after),)", 2: "((top, bottom), (left, right))"}


def channels(layer: str, n_in: int, n_out: int, groups: int = 1) -> tuple[int, int, int]:
    """The three as integers.

    Raises:
        ValueError: one that is no integer above 0; groups that do not divide both numbers.
    """
    n_in, n_out = integer(f"{layer}: n_in", n_in), integer(f"{layer}: n_out", n_out)
    groups = integer(f"{layer}: groups", groups)
    if n_in % groups or n_out % groups:
        raise ValueError(
            f"{layer}: groups is {groups}; it must divide the {n_in} input and {n_out} output "
            "channels"
        )
    return n_in, n_out, groups


def several(
    layer: str, name: str, value: int | Sequence[int], n: int, least: int = 1
) -> tuple[int, ...]:
    """``n`` integers of at least ``least``; one stands for all.

    Raises:
        ValueError: anything else.
    """
    found = integers(value) or integers((value,)) * n
    if len(found) != n or min(found) < least:
        kind = "positive integers" if least == 1 else f"integers of at least {least}"
        raise ValueError(f"{layer} {name} is {value!r}; expected {n} {kind}")
    return found


def two(layer: str, name: str, value: int | Sequence[int]) -> Pair:
    """As :func:`several`, (vertical, horizontal)."""
    down, right = several(layer, name, value, 2)
    return down, right


def explicit_padding(layer: str, padding: Any, n: int) -> tuple[Pair, ...]:
    """``n`` pairs (before, after) as tuples.

    Raises:
        ValueError: anything else, a negative number.
    """
    pairs = [integers(axis) for axis in padding] if isinstance(padding, Sequence) else []
    if len(pairs) != n or any(len(axis) != 2 or min(axis) < 0 for axis in pairs):
        raise ValueError(f"{layer} padding is {padding!r}; expected {_pairs(n)}, none negative")
    return tuple((axis[0], axis[1]) for axis in pairs)


def check_padding(layer: str, padding: Any, n: int) -> str | tuple[Pair, ...]:
    """A padding of ``n`` axes as a hashable value.

    Raises:
        ValueError: it is neither "SAME", "VALID" nor ``n`` pairs, none negative.
    """
    if isinstance(padding, str) and padding in ("SAME", "VALID"):
        return padding
    try:
        return explicit_padding(layer, padding, n)
    except ValueError:
        raise ValueError(
            f'{layer} padding is {padding!r}; choose "SAME", "VALID" or {_pairs(n)}, none negative'
        ) from None


def check_dtype(layer: str, name: str, dtype: DTypeLike | None) -> DTypeLike | None:
    """``dtype`` itself, if it is floating or None.

    Raises:
        ValueError: anything else.
    """
    try:
        floating = dtype is None or jnp.issubdtype(jnp.dtype(dtype), jnp.floating)
    except TypeError:
        floating = False
    if not floating:
        raise ValueError(f'{layer}: {name} is {dtype!r}; expected a floating dtype, as "float32"')
    return dtype


def _pairs(n: int) -> str:
    return _PAIRS.get(n, f"{n} pairs (before, after)")
