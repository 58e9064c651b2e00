"""Which layer made the loss infinite or not a number."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from binjax.layers import Sequential, capture
from binjax.train.state import TrainState
from binjax.train.task import Task


def find_bad_layer(task: Task, state: TrainState, images: np.ndarray) -> str:
    """What is wrong first, on the way from the input to the loss, as a phrase.

    Args:
        state: frozen before the failing step.
        images: that step's batch, uint8 ``[n, h, w, c]``.
    """
    for name, leaf in _leaves(state.params) + _leaves(state.stats):
        if not np.all(np.isfinite(leaf)):
            return f"{name} is not finite"
    model = nnx.merge(task.graphdef, state.params, state.stats)
    recorded = capture(model, task.preprocess(jnp.asarray(images)))
    for layer in _in_order(model, list(recorded)):
        for values in recorded[layer].values():
            if not np.all(np.isfinite(values)):
                return f"the output of layer {layer} is not finite"
    return "the loss itself is not finite"


def _leaves(tree: object) -> list[tuple[str, np.ndarray]]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [
        (jax.tree_util.keystr(path, simple=True, separator="/"), np.asarray(leaf))
        for path, leaf in leaves
    ]


def _in_order(model: nnx.Module, layers: list[str]) -> list[str]:
    names = model.names if isinstance(model, Sequential) else ()
    order = {name: i for i, name in enumerate(names)}
    return sorted(layers, key=lambda layer: order.get(layer.split("/")[0], len(order)))
