"""The training loop: epochs, evaluation, files, resuming. Prints nothing itself."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import jax

from binjax import checkpoint, data
from binjax.checkpoint import CheckpointError
from binjax.config import Config
from binjax.train.begin import begin
from binjax.train.diagnose import find_bad_layer
from binjax.train.evaluation import evaluate_split, summarize_totals
from binjax.train.parallel import Agreement, make_placement
from binjax.train.run import Diverged, Interrupted, Reporter, Run, Silent, stop_signals
from binjax.train.rundir import RunFolder
from binjax.train.sets import fit_scaling, load_data
from binjax.train.state import TrainState
from binjax.train.task import make_task
from binjax.train.teacher import load_distillation

_POLL_SECONDS = 0.25


def fit(
    config: Config,
    folder: RunFolder,
    reporter: Reporter,
    *,
    resume: bool,
    argv: Sequence[str] = (),
) -> dict[str, Any]:
    """Train to the last epoch, evaluate the best epoch's model on the test set.

    Where ``jax.distributed`` is initialized, all processes call this alike. Then process 0 alone
    uses the folder and the reporter; an error in one ends the others only when they next exchange
    something, so leave them without JAX's orderly shutdown, which would wait for them.

    Args:
        config: what to train.
        folder: where its files go; may hold the same run's earlier files if ``resume``.
        reporter: told of progress.
        resume: go on from the newest good checkpoint in the folder, if there is a run.
        argv: the command line, for environment.json.

    Returns:
        The last line of metrics.jsonl, with ``test_accuracy``.

    Raises:
        ValueError: ``ConfigError``, ``DataError``, ``CheckpointError`` or :class:`RunError`,
            each one line for the user.
        Diverged: the loss was not finite.
        Interrupted: a signal asked to stop.
    """
    dataset = load_data(config, reporter.warn)
    config = fit_scaling(config, dataset)
    placement = make_placement(config)
    distill = load_distillation(config, dataset, reporter.warn)
    sizes = dataset.image_shape, dataset.n_classes, len(dataset.train)
    task = make_task(config, *sizes, placement, distill)
    writer = checkpoint.Writer(folder.checkpoints, config.checkpoint.keep)
    run = Run(task, dataset, folder, reporter if placement.lead else Silent(), writer)
    run.progress.data = dataset.fingerprint()
    placement.check_same("settings", config.model_dump(exclude={"data": {"dir", "file"}}))
    placement.check_same("images", run.progress.data)
    with ExitStack() as held:
        stop = Agreement(placement, held.enter_context(stop_signals()))
        state = begin(run, resume, argv, held)
        if task.warning is not None:
            run.reporter.warn(task.warning)
        run.reporter.start(config, run.step, task.steps_per_epoch, task.products)
        while run.progress.epoch < config.epochs:
            state = _epoch(run, state, stop)
        return _finish(run, state)


def _epoch(run: Run, state: TrainState, stop: Agreement) -> TrainState:
    task, progress, options = run.task, run.progress, run.task.config.checkpoint
    run.clock = time.perf_counter()
    if progress.batch == 0:
        state = task.begin_epoch(state)
        progress.epoch_seconds = 0.0
    batches = data.train_batches(
        run.dataset.train, task.batch_size, task.config.seed, progress.epoch, progress.batch
    )
    polled, waiting = run.clock, None
    placement = task.placement
    for batch in batches:
        state, metrics = task.step(state, *placement.split(*batch))
        if placement.blocks:
            jax.block_until_ready(metrics)
        progress.batch += 1
        now = time.perf_counter()
        if now - polled > _POLL_SECONDS:
            if waiting is not None:
                _report(run, state, waiting)
            polled, waiting = now, metrics
        at_end = progress.batch == task.steps_per_epoch
        if not at_end and stop.reached():
            _save_and_stop(run, state)
        if options.every_steps and progress.batch % options.every_steps == 0 and not at_end:
            _check_finite(run, state)
            run.count_time()
            run.save(state)
    _check_finite(run, state)
    run.count_time()
    state = task.end_epoch(state)
    _end_epoch(run, state)
    if progress.epoch < task.config.epochs and stop.reached():
        _save_and_stop(run, state)
    return state


def _report(run: Run, state: TrainState, metrics: dict[str, jax.Array]) -> None:
    # When this is called depends on a clock: several processes find out at the epoch's end.
    if run.task.placement.processes == 1 and int(metrics["failed_step"]) >= 0:
        _check_finite(run, state)
    numbers = {name: float(metrics[name]) for name in ("loss", "accuracy")}
    run.reporter.progress(run.progress.epoch + 1, run.progress.batch, numbers)


def _end_epoch(run: Run, state: TrainState) -> None:
    task, progress = run.task, run.progress
    images_per_second = progress.batch * task.batch_size / max(progress.epoch_seconds, 1e-9)
    progress.epoch, progress.batch = progress.epoch + 1, 0
    step = progress.epoch * task.steps_per_epoch
    train = summarize_totals(state.totals)
    line: dict[str, Any] = {
        "epoch": progress.epoch,
        "step": step,
        "train_loss": train["loss"],
        "train_accuracy": train["accuracy"],
    }
    if len(run.dataset.validation):
        found = evaluate_split(task, state.params, state.stats, run.dataset.validation)
        line |= {"validation_loss": found["loss"], "validation_accuracy": found["accuracy"]}
    accuracy = line.get("validation_accuracy")
    best = progress.best_accuracy
    # An epoch in which kernels were still real is none of a binary network.
    binary = progress.epoch >= task.binary_from * task.config.epochs
    better = binary and accuracy is not None and (best is None or accuracy > best)
    if better:
        progress.best_accuracy = accuracy
        progress.best_epoch, progress.best_step = progress.epoch, step
    line |= {
        "learning_rate": float(task.schedule(step - 1)),
        "layers": _telemetry(run, state),
        "images_per_second": round(images_per_second, 1),
        "seconds": round(progress.seconds, 3),
    }
    run.record(line)
    run.reporter.evaluated(line)
    due = progress.epoch % task.config.checkpoint.every_epochs == 0
    if due or better or progress.epoch == task.config.epochs:
        run.save(state)


def _telemetry(run: Run, state: TrainState) -> dict[str, dict[str, float]]:
    some = run.dataset.validation if len(run.dataset.validation) else run.dataset.train
    images, labels, valid = next(data.eval_batches(some, run.task.batch_size))
    some_images, some_labels = run.task.placement.split(images[:valid], labels[:valid])
    found = jax.device_get(run.task.telemetry(state, some_images))
    if run.task.probe is not None:
        for layer, value in run.task.probe(state, some_images, some_labels).items():
            found[layer]["gradient_cosine"] = value
    return {
        layer: {name: round(float(value), 6) for name, value in values.items()}
        for layer, values in found.items()
    }


def _check_finite(run: Run, state: TrainState) -> None:
    failed = int(state.failed_step)
    if failed < 0:
        return
    epoch, batch = divmod(failed, run.task.steps_per_epoch)
    images, labels = next(
        data.train_batches(
            run.dataset.train, run.task.batch_size, run.task.config.seed, epoch, batch
        )
    )
    why = find_bad_layer(run.task, run.task.placement.local(state), images, labels)
    run.writer.wait()
    good = checkpoint.steps(run.folder.checkpoints)
    last = f"the last good checkpoint is step {good[-1]}" if good else "there is no checkpoint yet"
    raise Diverged(f"{run.folder.root}: step {failed}: {why}; training stopped, {last}")


def _save_and_stop(run: Run, state: TrainState) -> None:
    _check_finite(run, state)
    if run.progress.batch:
        run.count_time()
    run.writer.wait()
    if run.step not in checkpoint.steps(run.folder.checkpoints):
        run.save(state)
    run.writer.wait()
    raise Interrupted(run.folder)


def _finish(run: Run, state: TrainState) -> dict[str, Any]:
    run.writer.wait()
    progress, task = run.progress, run.task
    epoch, tested = progress.epoch, state
    if progress.best_step not in (None, run.step):
        best, found = task.placement.lead_does(lambda: _best(run, state), state)
        epoch, tested = best["epoch"], task.placement.replicate(found)
    test = evaluate_split(task, tested.params, tested.stats, run.dataset.test)
    line = {
        "epoch": progress.epoch,
        "step": run.step,
        "best_epoch": epoch,
        "test": True,
        "test_loss": test["loss"],
        "test_accuracy": test["accuracy"],
        "seconds": round(progress.seconds, 3),
    }
    if progress.best_accuracy is not None:
        line["validation_accuracy"] = progress.best_accuracy
    run.record(line)
    return line


def _best(run: Run, state: TrainState) -> tuple[dict[str, Any], Any]:
    progress = run.progress
    try:
        found = checkpoint.restore(run.folder.checkpoints, progress.best_step or 0, state)
    except CheckpointError as error:
        run.reporter.warn(f"{error}; the last epoch is tested, not the best")
        return {"epoch": progress.epoch}, run.task.placement.local(state)
    return {"epoch": progress.best_epoch}, found.tree
