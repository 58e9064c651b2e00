"""Which layer made the loss or a gradient infinite or not a number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from binjax.layers import Sequential, capture
from binjax.layers.recording import Recorded
from binjax.train.state import TrainState
from binjax.train.task import Task


def find_bad_layer(task: Task, state: TrainState, images: np.ndarray, labels: np.ndarray) -> str:
    """What is wrong first, on the way from the input to the gradients, as a phrase.

    Args:
        task: what was trained.
        state: as left by the failing step, which changed nothing but counters.
        images, labels: that step's batch.
    """
    for name, leaf in _leaves(state.params) + _leaves(state.stats):
        if not np.all(np.isfinite(leaf)):
            return f"{name} is not finite"

    @jax.jit  # where values are there, layers refuse what is to be found
    def record(params: Any, stats: Any, images: jax.Array) -> Recorded:
        return capture(nnx.merge(task.graphdef, params, stats), task.preprocess(images))

    recorded = record(state.params, state.stats, jnp.asarray(images))
    order = _order(nnx.merge(task.graphdef, state.params, state.stats))
    for layer in sorted(recorded, key=order):
        for values in recorded[layer].values():
            if not np.all(np.isfinite(values)):
                return f"the output of layer {layer} is not finite"
    state = state._replace(step=state.failed_step)
    (loss, _), gradients = jax.jit(task.gradient)(state, jnp.asarray(images), jnp.asarray(labels))
    if not np.isfinite(loss):
        return "the loss itself is not finite"
    for name, leaf in sorted(_leaves(gradients), key=lambda item: order(item[0]), reverse=True):
        if not np.all(np.isfinite(leaf)):
            return f"the gradient of {name} is not finite"
    return "the loss or a gradient was not finite"


def _leaves(tree: object) -> list[tuple[str, np.ndarray]]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [
        (jax.tree_util.keystr(path, simple=True, separator="/"), np.asarray(leaf))
        for path, leaf in leaves
    ]


def _order(model: nnx.Module) -> Callable[[str], int]:
    names = model.names if isinstance(model, Sequential) else ()
    positions = {name: i for i, name in enumerate(names)}
    return lambda path: positions.get(path.split("/")[0], len(positions))
