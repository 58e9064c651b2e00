"""The state of training, as one pytree."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Totals(NamedTuple):
    """Sums over the examples seen so far: loss float32, right answers int32, images int32."""

    loss: jax.Array
    correct: jax.Array
    images: jax.Array

    @classmethod
    def zero(cls) -> Totals:
        """Nothing seen yet."""
        return cls(jnp.float32(0), jnp.int32(0), jnp.int32(0))


class TrainState(NamedTuple):
    """Everything a step reads and writes; a step donates it.

    Attributes:
        params: plain nested dict of the ``nnx.Param`` arrays.
        stats: likewise of all other variables (batch statistics).
        opt_state: of the optax transformation.
        key: uint32 ``[2]``, fixed for the run; a step draws from ``fold_in(key, step)``.
        step: int32, steps taken.
        totals: of this epoch's training examples.
        epoch_signs: bits of the binary kernels at the epoch's start, by layer, see
            :func:`binjax.metrics.pack_planes`.
        start_signs: at the start of the run.
        flips: of each step of this epoch the share of binary weights that it flipped, summed, by
            layer; empty if steps do not count them.
        failed_step: int32, the first step whose loss or gradient was not finite, else -1. From
            then on steps change nothing.
    """

    params: Any
    stats: Any
    opt_state: Any
    key: jax.Array
    step: jax.Array
    totals: Totals
    epoch_signs: dict[str, jax.Array]
    start_signs: dict[str, jax.Array]
    flips: dict[str, jax.Array]
    failed_step: jax.Array


def binary_weights(params: Any, mask: Any) -> dict[str, jax.Array]:
    """The latent weights by their layer's path, such as ``"conv2"``.

    Args:
        params: the plain dict of parameters.
        mask: bools of its structure, from ``binjax.optim.variable_mask(model, BinaryWeight)``.
    """
    flags = dict(jax.tree_util.tree_flatten_with_path(mask)[0])
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    return {
        jax.tree_util.keystr(path[:-1], simple=True, separator="/"): leaf
        for path, leaf in leaves
        if flags[path]
    }
