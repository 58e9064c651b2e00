"""What the training loop costs beyond its jitted step.

    python scripts/bench_loop.py --data-dir DIR      # MNIST; without it the embedded set

Trains the 784-1024-1024-10 MLP at batch 100, alternating, in one process:

* bare: the jitted step over batches that lie on the device already, nothing else;
* train: an epoch's training part as `binjax train` runs it (loader, progress, statistics);
* epoch: the whole epoch, with validation, telemetry, metrics.jsonl and the checkpoint;
* saving: the training part with a checkpoint every 100 steps.

It first checks that bare and train end at the same weights, bit for bit, then prints medians and
their ratios to bare. Last, with the device waited for after every step: the median step while no
checkpoint is being written and while one is.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from binjax import checkpoint, data, train
from binjax import config as configs
from binjax.train import RunFolder


class Clock:
    """A reporter that notes when epochs end."""

    def __init__(self) -> None:
        self.epochs: list[tuple[float, float]] = []  # training seconds, whole seconds
        self._seconds, self._began = 0.0, 0.0

    def warn(self, message: str) -> None:
        raise RuntimeError(message)

    def start(self, config: configs.Config, step: int, steps_per_epoch: int) -> None:
        self._began = time.perf_counter()

    def progress(self, epoch: int, step: int, metrics: dict[str, float]) -> None:
        pass

    def evaluated(self, line: dict[str, Any]) -> None:
        now = time.perf_counter()
        self.epochs.append((line["seconds"] - self._seconds, now - self._began))
        self._seconds, self._began = line["seconds"], now


def bare_epochs(task: train.Task, dataset: data.Dataset) -> tuple[Any, list[float]]:
    """The step over resident batches: final state, seconds of each epoch."""
    config, state, seconds = task.config, task.init(), []
    for epoch in range(config.epochs):
        batches = [
            jax.device_put(batch)
            for batch in data.train_batches(dataset.train, config.batch_size, config.seed, epoch)
        ]
        jax.block_until_ready(batches)
        state = jax.block_until_ready(task.begin_epoch(state))
        began = time.perf_counter()
        for images, labels in batches:
            state, _ = task.step(state, images, labels)
        jax.block_until_ready(state)
        seconds.append(time.perf_counter() - began)
    return state, seconds


def fit_epochs(config: configs.Config, expected: Any = None) -> Clock:
    """`train.fit` in a temporary folder: its times; the weights must be those expected."""
    clock = Clock()
    with tempfile.TemporaryDirectory(prefix="bench_loop_") as root:
        folder = RunFolder(root)
        train.fit(config, folder, clock, resume=False)
        if expected is not None:
            step = checkpoint.steps(folder.checkpoints)[-1]
            saved = checkpoint.restore(folder.checkpoints, step, expected).tree
            pairs = zip(
                jax.tree.leaves(saved.params), jax.tree.leaves(expected.params), strict=True
            )
            if not all(np.array_equal(a, np.asarray(b)) for a, b in pairs):
                raise SystemExit("bare and train differ: the work compared would be unequal")
    return clock


def step_times(
    task: train.Task, dataset: data.Dataset, steps: int = 400, every: int = 80
) -> tuple[list[float], list[float]]:
    """Seconds of single steps: with no checkpoint being written, and with one."""
    copy = jax.jit(lambda state: jax.tree.map(jnp.copy, state))
    batches = list(data.train_batches(dataset.train, task.batch_size, 0, 0))
    quiet: list[float] = []
    busy: list[float] = []
    state = task.init()
    jax.block_until_ready(copy(task.step(state, *batches[0])[0]))
    state = task.init()
    with tempfile.TemporaryDirectory(prefix="bench_loop_") as root:
        writer = checkpoint.Writer(Path(root), keep=1)
        for i in range(steps):
            began = time.perf_counter()
            saving = i % every == every - 1
            if saving:
                writer.submit(i, copy(state), {})
            state, metrics = task.step(state, *batches[i % len(batches)])
            jax.block_until_ready(metrics)
            (busy if saving or writer.busy() else quiet).append(time.perf_counter() - began)
        writer.wait()
    return quiet[5:], busy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data-dir", help="folder with the MNIST files")
    parser.add_argument("--epochs", type=int, default=3, help="per round; the first is dropped")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--csv", type=Path, help="write the medians here")
    args = parser.parse_args()

    table: dict[str, Any] = {
        "epochs": args.epochs,
        "model": {
            "kind": "mlp",
            "widths": [1024, 1024],
            "input_dropout": 0.0,
            "hidden_dropout": 0.0,
            "use_bias": False,
        },
        "optimizer": {"kind": "adam", "learning_rate": 0.003, "glorot_scale": "exact"},
    }
    if args.data_dir:
        table["data"] = {"name": "mnist", "dir": args.data_dir}
    config = configs.validate(table, "bench_loop")
    often = config.checkpoint.model_copy(update={"every_steps": 100})
    saving = config.model_copy(update={"checkpoint": often})
    dataset = train.load_data(config)
    task = train.make_task(config, dataset.image_shape, dataset.n_classes, len(dataset.train))
    times: dict[str, list[float]] = {"bare": [], "train": [], "epoch": [], "saving": []}
    for round_ in range(args.rounds):
        state, bare = bare_epochs(task, dataset)
        clock = fit_epochs(config, state if round_ == 0 else None)
        saved = fit_epochs(saving)
        times["bare"] += bare[1:]
        times["train"] += [training for training, _ in clock.epochs[1:]]
        times["epoch"] += [whole for _, whole in clock.epochs[1:]]
        times["saving"] += [training for training, _ in saved.epochs[1:]]
    quiet, busy = step_times(task, dataset)

    base = statistics.median(times["bare"])
    print(f"{dataset.name}, {task.steps_per_epoch} steps an epoch, medians")
    rows = []
    for name, seconds in times.items():
        median = statistics.median(seconds)
        rows.append((f"{name} epoch", f"{median:.4f}", f"{median / base:.3f}", len(seconds)))
        print(f"{name:7} {median:8.3f} s an epoch   {median / base:6.3f} x bare   n={len(seconds)}")
    alone = statistics.median(quiet)
    for name, seconds in (("step", quiet), ("step during a save", busy)):
        median = statistics.median(seconds)
        rows.append((name, f"{median:.5f}", f"{median / alone:.3f}", len(seconds)))
        print(f"{name:19} {median * 1e3:6.2f} ms   {median / alone:6.3f} x   n={len(seconds)}")
    if args.csv:
        with args.csv.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("part", "median_seconds", "ratio", "n"))
            writer.writerows(rows)


if __name__ == "__main__":
    main()
