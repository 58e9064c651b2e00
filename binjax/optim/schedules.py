"""Learning-rate schedules of the references that optax has not."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike


def shift_decay(init_value: float, every: int) -> optax.Schedule:
    """``init_value`` halved after every ``every`` steps: the "right shift" of the Torch code.

    Raises:
        ValueError: ``every`` < 1.
    """
    if every < 1:
        raise ValueError(f"shift_decay: every is {every}, must be at least 1 step")

    def schedule(count: ArrayLike) -> jax.Array:
        return jnp.ldexp(jnp.asarray(init_value, jnp.float32), -(jnp.asarray(count) // every))

    return schedule


def exponential_epoch_decay(
    init_value: float, end_value: float, epochs: int, steps_per_epoch: int
) -> optax.Schedule:
    """From ``init_value`` to ``end_value`` by a constant factor at each epoch's end (Theano)."""
    rate = (end_value / init_value) ** (1 / epochs)
    return optax.exponential_decay(init_value, steps_per_epoch, rate, staircase=True)


def piecewise(boundaries: Sequence[int], values: Sequence[float]) -> optax.Schedule:
    """``values[i]`` from step ``boundaries[i]`` on: a regime of BinaryNet.pytorch, in steps.

    Args:
        boundaries: ascending steps, the first is 0.
        values: one for each.

    Raises:
        ValueError: boundaries that do not ascend from 0, or of another number than values.
    """
    ascending = all(a < b for a, b in itertools.pairwise(boundaries))
    if len(boundaries) != len(values) or not boundaries or boundaries[0] != 0 or not ascending:
        raise ValueError(
            f"piecewise: boundaries {list(boundaries)} must ascend from 0, one for each of "
            f"{len(values)} values"
        )
    starts, table = jnp.asarray(boundaries), jnp.asarray(values, jnp.float32)

    def schedule(count: ArrayLike) -> jax.Array:
        return table[jnp.searchsorted(starts, jnp.asarray(count), side="right") - 1]

    return schedule
