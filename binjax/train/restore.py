"""A finished run's network, from its best or last checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
from flax import nnx

from binjax import checkpoint
from binjax.checkpoint import CheckpointError
from binjax.config import Config
from binjax.data import Dataset
from binjax.layers import apply
from binjax.train.rundir import RunFolder
from binjax.train.task import Task, make_task


@dataclass(frozen=True)
class Trained:
    """A trained network.

    Attributes:
        task: its graph and jitted functions.
        params, stats: its variables, plain dicts.
        epoch, step: after which they were saved.
    """

    task: Task
    params: Any
    stats: Any
    epoch: int
    step: int

    def model(self) -> nnx.Module:
        """The network as a module."""
        model: nnx.Module = nnx.merge(self.task.graphdef, self.params, self.stats)
        return model

    def scores(self) -> Callable[[Any], jax.Array]:
        """``scores(images)``: uint8 ``[n, h, w, c]`` to ``[n, classes]`` in evaluation, jitted."""
        graphdef, preprocess = self.task.graphdef, self.task.preprocess

        @jax.jit
        def scores(params: Any, stats: Any, images: jax.Array) -> jax.Array:
            return apply(graphdef, params, stats, preprocess(images), train=False)[0]

        return lambda images: scores(self.params, self.stats, images)


def restore_run(
    config: Config,
    folder: RunFolder,
    dataset: Dataset,
    warn: Callable[[str], None],
    *,
    last: bool = False,
) -> Trained:
    """The network of a run's best epoch (by validation accuracy), or of its last checkpoint.

    Args:
        config: of the run, perhaps with another back end.
        folder: the run's files.
        dataset: what it was trained on.
        warn: told of damaged checkpoints that were passed over.
        last: the newest checkpoint, not the best epoch's.

    Raises:
        ValueError: no usable checkpoint; one line for the user.
    """
    task = make_task(config, dataset.image_shape, dataset.n_classes, len(dataset.train))
    like = jax.eval_shape(task.init)
    restored, problems = checkpoint.restore_latest(folder.checkpoints, like)
    for problem in problems:
        warn(f"{problem}; falling back to the one before")
    if restored is None:
        raise CheckpointError(f"{folder.root}: has no checkpoint yet")
    best = restored.meta["best_step"]
    if not last and best not in (None, restored.step):
        try:
            restored = checkpoint.restore(folder.checkpoints, best, like)
        except CheckpointError as error:
            warn(f"{error}; step {restored.step} is tested, not the best")
    tree = restored.tree
    return Trained(task, tree.params, tree.stats, restored.meta["epoch"], restored.step)
