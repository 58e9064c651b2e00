"""Equal blocks one after the other, as one loop in the compiled program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from binjax.layers.functional import apply, split
from binjax.layers.recording import unwatched
from binjax.ste.arguments import integer


class Repeat(nnx.Module):
    """``count`` blocks of one architecture under ``lax.scan``, each with variables of its own.

    The program holds one block, so that compiling takes as long as for one, and what a step keeps
    for its backward pass is what the block declares: with blocks of ``Sequential(memory="lean")``
    the bits of their inputs. (In an unrolled network the compiler may keep more.)

    Variables are stacked along a new first axis of length ``count``. ``scale_by_glorot`` would
    take that axis for taps of a kernel: mask it out there.

    Args:
        count: blocks, at least 1.
        build: ``build(rngs)`` makes one block, a module called ``block(x, train=..., key=...)``
            whose result has its input's shape and dtype. Block i gets ``fold_in(key, i)``.
        rngs: for initialization; every block draws anew.

    Raises:
        ValueError: a count below 1.
    """

    def __init__(self, count: int, build: Callable[[nnx.Rngs], nnx.Module], *, rngs: nnx.Rngs):
        self.count = count = integer("Repeat: count", count)
        parts = [split(build(rngs)) for _ in range(count)]
        params, stats = (
            jax.tree.map(lambda *leaves: jnp.stack(leaves), *(part[i] for part in parts))
            for i in (1, 2)
        )
        self.block = nnx.merge(parts[0][0], params, stats)

    def __call__(
        self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> jax.Array:
        """x: what a block takes."""
        graphdef, params, stats = split(unwatched(self.block))
        if hasattr(self, "__captures__"):
            self._record(x, params, stats)

        def step(x: jax.Array, own: Any) -> tuple[jax.Array, Any]:
            i, params, stats = own
            inner = None if key is None else jax.random.fold_in(key, i)
            return apply(graphdef, params, stats, x, train=train, key=inner)

        x, moved = jax.lax.scan(step, x, (jnp.arange(self.count), params, stats))
        nnx.update(self.block, moved)
        return x

    def _record(self, x: jax.Array, params: Any, stats: Any) -> None:
        # Inside a scan nothing can be recorded: the first block stands for all.
        first = jax.tree.map(lambda leaf: leaf[0], (params, stats))
        for state in first:
            nnx.update(self.block, state)
        self.block(x, train=False)
        for state in (params, stats):
            nnx.update(self.block, state)
