"""Accuracy and loss of a model over a split."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from binjax.config import Config
from binjax.data import Split, eval_batches
from binjax.train.restore import restore_run
from binjax.train.rundir import RunFolder
from binjax.train.sets import load_data
from binjax.train.state import Totals
from binjax.train.task import Task


def evaluate_split(task: Task, params: Any, stats: Any, split: Split) -> dict[str, float]:
    """``{"loss", "accuracy"}`` over all examples of a non-empty split."""
    placement = task.placement
    totals = placement.replicate(Totals.zero())
    for images, labels, valid in eval_batches(split, task.batch_size):
        rows, classes = placement.split(images, labels)
        totals = task.evaluate(params, stats, totals, rows, classes, valid)
        if placement.blocks:
            jax.block_until_ready(totals)
    return summarize_totals(totals)


def summarize_totals(totals: Totals) -> dict[str, float]:
    """Means of sums; waits for the device."""
    images = int(totals.images)
    return {"loss": float(totals.loss) / images, "accuracy": int(totals.correct) / images}


def evaluate_run(
    config: Config, folder: RunFolder, warn: Callable[[str], None], *, last: bool = False
) -> dict[str, Any]:
    """Test a run's best epoch (by validation accuracy), or its last checkpoint; on one device.

    Args:
        config: of the run.
        folder: the run's files.
        warn: told of damaged checkpoints that were passed over.
        last: the newest checkpoint, not the best epoch's.

    Returns:
        ``test_accuracy``, ``test_loss``, ``epoch``, ``step``, ``images``.

    Raises:
        ValueError: missing data, no usable checkpoint; one line for the user.
    """
    dataset = load_data(config, warn)
    trained = restore_run(config, folder, dataset, warn, last=last)
    found = evaluate_split(trained.task, trained.params, trained.stats, dataset.test)
    return {
        "test_accuracy": found["accuracy"],
        "test_loss": found["loss"],
        "epoch": trained.epoch,
        "step": trained.step,
        "images": len(dataset.test),
    }
