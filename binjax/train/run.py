"""What the parts of the training loop share: the run in progress, its reporter, its endings."""

from __future__ import annotations

import shlex
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from binjax import checkpoint, data
from binjax.config import Config
from binjax.train.rundir import RunError, RunFolder
from binjax.train.state import TrainState
from binjax.train.task import Task


class Reporter(Protocol):
    """Who tells the user how a run goes. Calls come from the loop's own thread."""

    def warn(self, message: str) -> None:
        """Something went wrong that the run survives."""

    def start(
        self, config: Config, step: int, steps_per_epoch: int, products: Mapping[str, str]
    ) -> None:
        """Training begins, after so many steps of an earlier start.

        ``products`` says per layer which kernel multiplies.
        """

    def progress(self, epoch: int, step: int, metrics: dict[str, float]) -> None:
        """``step`` steps of an epoch are dispatched; called every quarter of a second or so."""

    def evaluated(self, line: dict[str, Any]) -> None:
        """An epoch's line of metrics.jsonl."""


class Silent:
    """The reporter of processes that another one leads."""

    def warn(self, message: str) -> None:
        """Nothing."""

    def start(
        self, config: Config, step: int, steps_per_epoch: int, products: Mapping[str, str]
    ) -> None:
        """Nothing."""

    def progress(self, epoch: int, step: int, metrics: dict[str, float]) -> None:
        """Nothing."""

    def evaluated(self, line: dict[str, Any]) -> None:
        """Nothing."""


class Interrupted(Exception):
    """The run was asked to stop and has saved its state.

    Attributes:
        words: the command that goes on, for one process.
    """

    def __init__(self, folder: RunFolder):
        self.words = ["binjax", "train", str(folder.config), "--out", str(folder.root)]
        super().__init__(f"stopped; go on with: {shlex.join(self.words)}")


class Diverged(RunError):
    """The loss or a gradient became infinite or not a number."""


@dataclass
class Progress:
    """What a run has reached, beside the arrays; saved with every checkpoint."""

    epoch: int = 0  # epochs completed
    batch: int = 0  # steps taken in the epoch after them
    best_epoch: int | None = None
    best_step: int | None = None
    best_accuracy: float | None = None  # on the validation set, if there is one
    seconds: float = 0.0  # of training
    epoch_seconds: float = 0.0  # of them in this epoch
    data: str = ""  # fingerprint of the images

    def as_meta(self) -> dict[str, Any]:
        """For a checkpoint's metadata."""
        return dict(self.__dict__)


@dataclass
class Run:
    """One call of ``fit``: what is trained, where to, who is told, how far it is."""

    task: Task
    dataset: data.Dataset
    folder: RunFolder
    reporter: Reporter
    writer: checkpoint.Writer
    progress: Progress = field(default_factory=Progress)
    clock: float = 0.0

    @property
    def step(self) -> int:
        """Steps taken since the beginning."""
        return self.progress.epoch * self.task.steps_per_epoch + self.progress.batch

    def count_time(self) -> None:
        """Add the time since the clock was read last to the seconds of training."""
        now = time.perf_counter()
        self.progress.seconds += now - self.clock
        self.progress.epoch_seconds += now - self.clock
        self.clock = now

    def record(self, line: dict[str, Any]) -> None:
        """Add a line to metrics.jsonl; process 0 does."""
        if self.task.placement.lead:
            self.folder.append(line)

    def save(self, state: TrainState) -> None:
        """Checkpoint a copy of the state; the writing goes on in a thread. Process 0 does."""
        if not self.task.placement.lead:
            return
        copied = _copy(self.task.placement.local(state))
        self.writer.submit(self.step, copied, self.progress.as_meta(), self.progress.best_step)


_copy: Callable[[TrainState], TrainState] = jax.jit(lambda state: jax.tree.map(jnp.copy, state))


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """Turn Ctrl-C and SIGTERM into a flag for the loop; a second Ctrl-C interrupts at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def on_signal(number: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {s: signal.signal(s, on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
