"""NNX modules used functionally: split once, then plain dicts and a pure forward pass."""

from __future__ import annotations

from typing import Any

import jax
from flax import nnx


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
