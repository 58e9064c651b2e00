"""TensorBoard event files of a run, where tensorboardX is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class EventLog:
    """Writes an epoch's numbers as scalars under ``RUN/events``; does nothing without the extra."""

    def __init__(self, root: Path):
        self._root = root / "events"
        self._writer: Any = None

    def start(self, first_epoch: int) -> None:
        """Open the file; epochs after ``first_epoch`` of an earlier file are superseded."""
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            return
        self._writer = SummaryWriter(str(self._root), purge_step=first_epoch + 1)

    def write(self, line: dict[str, Any]) -> None:
        """Add one line of metrics.jsonl."""
        if self._writer is None:
            return
        for name, value in line.items():
            if isinstance(value, float):
                self._writer.add_scalar(name, value, line["epoch"])
        for layer, values in line["layers"].items():
            for name, value in values.items():
                self._writer.add_scalar(f"{name}/{layer}", value, line["epoch"])

    def close(self) -> None:
        """Flush and close."""
        if self._writer is not None:
            self._writer.close()
