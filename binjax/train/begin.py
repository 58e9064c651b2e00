"""How a run begins, or goes on: its folder, its first state."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import jax
from flax import nnx

from binjax import checkpoint, data
from binjax.summary import summarize, table
from binjax.train.initialize import load_weights, start_from
from binjax.train.run import Progress, Run
from binjax.train.rundir import RunError
from binjax.train.state import TrainState
from binjax.train.task import Task


def begin(run: Run, resume: bool, argv: Sequence[str], held: ExitStack) -> TrainState:
    """The run's first state, or that of its newest good checkpoint; on the run's devices.

    Args:
        run: its folder is made, or found; process 0 does.
        resume: go on, if there is a run.
        argv: the command line.
        held: keeps the folder locked.
    """
    placement = run.task.placement
    like = jax.eval_shape(run.task.init)

    def work() -> tuple[dict[str, Any], Any]:
        state = _open(run, resume, argv, held)
        return run.progress.as_meta(), state

    progress, state = placement.lead_does(work, like)
    run.progress = Progress(**progress)
    placed: TrainState = placement.replicate(state)
    return placed


def _open(run: Run, resume: bool, argv: Sequence[str], held: ExitStack) -> Any:
    """The run folder made, or found and locked while ``held``; the state, not placed yet."""
    config, folder = run.task.config, run.folder
    how = {"devices": run.task.placement.n_devices, "products": run.task.products}
    resuming = resume and folder.exists()
    if resuming:
        folder.check_same(config)
    else:
        folder.check_free()
        state = _start(run)
    folder.make()
    held.enter_context(folder.locked())
    held.callback(run.writer.wait)
    if not resuming:
        folder.create(config, argv, _summary(run.task, run.dataset), how)
        return state
    state = _restore(run)
    folder.note(config)
    for changed in folder.note_start(config, argv, how):
        run.reporter.warn(f"{folder.root}: {changed} changed since the start; bits may differ")
    return state


def _start(run: Run) -> TrainState:
    """The initial state, from another run's weights if there are any."""
    config, state = run.task.config, run.task.init()
    weights = load_weights(config, run.dataset, run.reporter.warn)
    if weights is None or config.init_from is None:
        return state
    state, report = start_from(state, weights, config.init_from)
    if report.kept:
        some = ", ".join(report.kept[:5]) + (" …" if len(report.kept) > 5 else "")
        run.reporter.warn(
            f"init_from: {len(report.copied)} arrays come from {config.init_from}, "
            f"{len(report.kept)} do not: {some}"
        )
    return run.task.ready(state)


def _summary(task: Task, dataset: data.Dataset) -> str:
    state = jax.eval_shape(task.init)
    model = nnx.merge(task.graphdef, state.params, state.stats)
    return table(summarize(model, dataset.image_shape)) + "\n"


def _restore(run: Run) -> Any:
    like = jax.eval_shape(run.task.init)
    restored, problems = checkpoint.restore_latest(run.folder.checkpoints, like)
    for problem in problems:
        run.reporter.warn(f"{problem}; falling back to the one before")
    if restored is None:
        run.folder.rewind(0)
        return _start(run)
    run.progress = Progress(**restored.meta)
    if run.step > run.task.config.epochs * run.task.steps_per_epoch:
        raise RunError(
            f"{run.folder.root}: is in epoch {run.progress.epoch + 1} already, "
            f"epochs = {run.task.config.epochs} is less; give --out another folder"
        )
    if run.progress.data != run.dataset.fingerprint():
        raise RunError(
            f"{run.folder.root}: was trained on other images than those in "
            f"{run.task.config.data.dir or 'the data folder'}; give --out another folder"
        )
    checkpoint.set_aside(run.folder.checkpoints, restored.step)
    run.folder.rewind(restored.step)
    return restored.tree
