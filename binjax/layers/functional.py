"""NNX modules used functionally: split once, then plain dicts and a pure forward pass."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx

from binjax.layers.recording import Passed, flatten_passed


def split(model: nnx.Module) -> tuple[nnx.GraphDef[Any], Any, Any]:
    """A model as (graph definition, params, other variables), the latter two plain dicts."""
    graphdef, params, stats = nnx.split(model, nnx.Param, ...)  # type: ignore[misc]
    return graphdef, nnx.to_pure_dict(params), nnx.to_pure_dict(stats)


def apply(
    graphdef: nnx.GraphDef[Any],
    params: Any,
    stats: Any,
    images: jax.Array,
    *,
    train: bool,
    key: jax.Array | None = None,
) -> tuple[jax.Array, Any]:
    """Scores ``[n, classes]`` and the new ``stats``; pure."""
    model = nnx.merge(graphdef, params, stats)
    scores = model(images, train=train, key=key)
    return scores, nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.Param)))


def apply_watched(
    graphdef: nnx.GraphDef[Any],
    params: Any,
    stats: Any,
    images: jax.Array,
    names: Sequence[str],
    *,
    train: bool,
    key: jax.Array | None = None,
) -> tuple[jax.Array, Any, dict[str, jax.Array]]:
    """As :func:`apply`, and what the named layers of :class:`~binjax.layers.Sequential` put out.

    Raises:
        ValueError: a name that no layer of a chain has (with ``memory`` other than ``"full"`` only
            the last layer of each block of the chain has one).
    """
    model = nnx.merge(graphdef, params, stats)
    scores, state = nnx.capture(model, Passed)(images, train=train, key=key)  # type: ignore[no-untyped-call]
    seen = flatten_passed(state)
    missing = [name for name in names if name not in seen]
    if missing:
        near = difflib.get_close_matches(missing[0], seen, n=3, cutoff=0)
        raise ValueError(f"no layer {missing[0]!r}; nearest: {', '.join(near)}")
    _, _, _, moved = nnx.split(model, nnx.Param, Passed, ...)  # type: ignore[misc]
    return scores, nnx.to_pure_dict(moved), {name: seen[name] for name in names}
