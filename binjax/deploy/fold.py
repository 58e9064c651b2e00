"""Batch normalization and sign as integer thresholds, exact by construction.

What follows a binary product up to the next sign maps each of its integer sums to a bit, channel
by channel. That map is monotone, since rounding is. So per channel it is a comparison with one
integer, which is found by evaluating the network's own float expression, with its own rounding, at
integers, and not by solving for it: algebra on the parameters flips decisions near ties.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from binjax.deploy.graph import largest_sum, sum_step
from binjax.deploy.operations import (
    Conv,
    Dense,
)

Sums = Callable[[Any, jax.Array], jax.Array]
"""A function of variables and of sums, ``int32[rows, channels]``, element by element."""

_CHUNK = 1 << 22  # sums evaluated at a time


class Folded(NamedTuple):
    """Thresholds of one layer: bit = (sum >= threshold) ^ flip.

    Attributes:
        threshold: int32 ``[channels]``, from the smallest sum ("always") to one above the largest
            ("never").
        flip: bool ``[channels]``.
    """

    threshold: np.ndarray
    flip: np.ndarray


def find_thresholds(bit: Sums, variables: Any, op: Dense | Conv) -> Folded:
    """The thresholds that give a layer's bits, by bisection in all channels at once.

    Args:
        bit: the bits of sums, boolean; monotone in each channel.
        variables: what it depends on.
        op: the layer, for the range of its sums.
    """
    step, low = sum_step(op), -largest_sum(op)
    last = 2 * largest_sum(op) // step  # sums are low + step * i, i from 0 to last
    evaluate = jax.jit(bit)

    def at(i: np.ndarray) -> np.ndarray:
        sums = (low + step * i).astype(np.int32)[None]
        bits: np.ndarray = np.asarray(evaluate(variables, jnp.asarray(sums)))[0]
        return bits

    first = at(np.zeros(op.outputs, np.int64))
    changes = first != at(np.full(op.outputs, last))
    # The bit at `same` is that of the smallest sum, at `other` it is not.
    same, other = np.zeros(op.outputs, np.int64), np.full(op.outputs, last)
    while (other - same).max() > 1:
        middle = (same + other) // 2
        as_first = at(middle) == first
        same, other = np.where(as_first, middle, same), np.where(as_first, other, middle)
    threshold = np.where(changes, low + step * other, low)
    return Folded(threshold.astype(np.int32), np.where(changes, first, ~first))


class Mismatch(NamedTuple):
    """A sum for which a threshold and the float expression disagree."""

    channel: int
    sum: int
    threshold_bit: bool
    float_bit: bool


def check_thresholds(
    bit: Sums, variables: Any, op: Dense | Conv, folded: Folded
) -> tuple[int, Mismatch | None]:
    """Compare a layer's thresholds with its float expression at every reachable sum.

    Returns:
        How many (sum, channel) pairs were compared, and the first that differs.
    """
    threshold, flip = jnp.asarray(folded.threshold)[None], jnp.asarray(folded.flip)[None]

    @jax.jit
    def differ(variables: Any, sums: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        wanted = bit(variables, sums)
        wrong = wanted != ((sums >= threshold) ^ flip)
        at = jnp.argmax(wrong.reshape(-1))
        return wrong.any(), at, wanted.reshape(-1)[at]

    count = 0
    for sums in all_sums(op):
        rows = jnp.broadcast_to(sums[:, None], (len(sums), op.outputs))
        wrong, at, wanted = differ(variables, rows)
        if bool(wrong):
            row, channel = divmod(int(at), op.outputs)
            return count, Mismatch(channel, int(sums[row]), not bool(wanted), bool(wanted))
        count += len(sums) * op.outputs
    return count, None


def rising(before: Sums, variables: Any, op: Dense | Conv) -> np.ndarray:
    """Whether a monotone function of sums never falls: bool ``[channels]``."""
    ends = np.array([[-largest_sum(op)], [largest_sum(op)]], np.int32)
    low, high = np.asarray(
        jax.jit(before)(variables, jnp.broadcast_to(ends, (2, op.outputs))), np.float64
    )
    grows: np.ndarray = high >= low
    return grows


def turning(before: Sums, variables: Any, op: Dense | Conv) -> int | None:
    """A channel in which a function of sums both rises and falls; None if there is none."""
    evaluate = jax.jit(before)
    last: np.ndarray | None = None
    grows, falls = np.zeros(op.outputs, bool), np.zeros(op.outputs, bool)
    for sums in all_sums(op):
        rows = np.broadcast_to(sums[:, None], (len(sums), op.outputs))
        values = np.asarray(evaluate(variables, jnp.asarray(rows)), np.float32)
        steps = np.diff(values if last is None else np.concatenate([last, values]), axis=0)
        grows, falls = grows | (steps > 0).any(0), falls | (steps < 0).any(0)
        last = values[-1:]
    both = np.flatnonzero(grows & falls)
    return int(both[0]) if both.size else None


def all_sums(op: Dense | Conv) -> Iterator[np.ndarray]:
    """Every sum a layer can reach, in runs of bounded length."""
    largest, step = largest_sum(op), sum_step(op)
    rows = max(_CHUNK // op.outputs, 1) * step
    for start in range(-largest, largest + 1, rows):
        yield np.arange(start, min(start + rows, largest + 1), step, dtype=np.int32)
