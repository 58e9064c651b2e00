"""How a run tells of itself: a rich progress bar, or plain lines when not at a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from binjax.cli.tensorboard import EventLog
from binjax.config import Config
from binjax.train import RunFolder


def make_reporter(folder: RunFolder, *, quiet: bool) -> TextReporter:
    """The reporter that fits where stdout goes."""
    events = EventLog(folder.root)
    if quiet:
        return QuietReporter(events)
    return BarReporter(events) if sys.stdout.isatty() else TextReporter(events)


def warn(message: str) -> None:
    """One line on stderr."""
    print(f"binjax: warning: {message}", file=sys.stderr, flush=True)


def _grouped(products: Mapping[str, str]) -> str:
    """Layers by kernel, in the order of their first one."""
    layers: dict[str, list[str]] = {}
    for layer, kernel in products.items():
        layers.setdefault(kernel, []).append(layer)
    return "; ".join(f"{', '.join(names)} {kernel}" for kernel, names in layers.items())


class TextReporter:
    """A line an epoch, and one every ten seconds within an epoch."""

    interval = 10.0

    def __init__(self, events: EventLog):
        self._events = events
        self._told = self._seen_at = time.monotonic()
        self._seen, self._speed, self._compiled = 0, 0.0, False
        self._config = Config()
        self._steps_per_epoch = 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._events.close()

    def warn(self, message: str) -> None:
        """On stderr."""
        warn(message)

    def start(
        self, config: Config, step: int, steps_per_epoch: int, products: Mapping[str, str]
    ) -> None:
        """Note the sizes; tell of the products."""
        self.say(f"products: {_grouped(products)}")
        self._config, self._steps_per_epoch = config, steps_per_epoch
        self._events.start(step // steps_per_epoch)
        self._seen, self._seen_at = step, time.monotonic()
        if step:
            self.say(f"going on after step {step}, in epoch {step // steps_per_epoch + 1}")

    def progress(self, epoch: int, step: int, metrics: dict[str, float]) -> None:
        """Tell of it if the last telling is long enough ago."""
        now = time.monotonic()
        done = (epoch - 1) * self._steps_per_epoch + step
        if not self._compiled:  # the time until here says nothing about speed
            self._compiled, self._seen, self._seen_at = True, done, now
            return
        self._speed = (done - self._seen) * self._config.batch_size / (now - self._seen_at)
        self._seen, self._seen_at = done, now
        if now - self._told >= self.interval:
            self._told = now
            self.show(epoch, step, metrics)

    def show(self, epoch: int, step: int, metrics: dict[str, float]) -> None:
        """Print where training is."""
        left = self._config.epochs * self._steps_per_epoch - self._seen
        eta = left * self._config.batch_size / max(self._speed, 1e-9)
        self.say(
            f"epoch {epoch}/{self._config.epochs} step {step}/{self._steps_per_epoch}  "
            f"loss {metrics['loss']:.4f}  accuracy {metrics['accuracy']:.3f}  "
            f"{self._speed:,.0f} images/s  {eta:,.0f} s left"
        )

    def evaluated(self, line: dict[str, Any]) -> None:
        """Print the epoch's line; write the event files."""
        self._events.write(line)
        self._told = self._seen_at = time.monotonic()
        self._seen = line["step"]
        validation = (
            f"  validation loss {line['validation_loss']:.4f} "
            f"accuracy {line['validation_accuracy']:.4f}"
            if "validation_loss" in line
            else ""
        )
        self.say(
            f"epoch {line['epoch']}/{self._config.epochs}  "
            f"train loss {line['train_loss']:.4f} accuracy {line['train_accuracy']:.4f}"
            f"{validation}  {line['images_per_second']:,.0f} images/s"
        )

    def say(self, text: str) -> None:
        """One line on stdout, at once."""
        print(text, flush=True)


class QuietReporter(TextReporter):
    """Warnings and event files only."""

    def say(self, text: str) -> None:
        """Nothing."""


class BarReporter(TextReporter):
    """A progress bar over all epochs; a line above it for each epoch."""

    interval = 0.25

    def __init__(self, events: EventLog):
        super().__init__(events)
        self._console = Console()
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()
        super().__exit__(kind, error, trace)

    def start(
        self, config: Config, step: int, steps_per_epoch: int, products: Mapping[str, str]
    ) -> None:
        """Draw the bar."""
        super().start(config, step, steps_per_epoch, products)
        total = config.epochs * steps_per_epoch
        epoch = f"{min(step // steps_per_epoch + 1, config.epochs)}/{config.epochs}"
        self._task = self._bar.add_task("", total=total, completed=step, epoch=epoch, text="")
        self._bar.start()

    def show(self, epoch: int, step: int, metrics: dict[str, float]) -> None:
        """Move the bar."""
        self._bar.update(
            self._task,
            completed=self._seen,
            epoch=f"{epoch}/{self._config.epochs}",
            text=f"loss {metrics['loss']:.4f} accuracy {metrics['accuracy']:.3f} "
            f"{self._speed:,.0f} images/s",
        )

    def say(self, text: str) -> None:
        """Above the bar."""
        self._console.print(text, highlight=False)
