"""The files of a run folder: config, environment, metrics. Nothing is ever half-written."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from binjax import checkpoint
from binjax import config as configs
from binjax.config import Config

_DECISIVE = ("products", "python", "versions", "device", "devices", "cores")
_PACKAGES = ("binjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


class RunError(ValueError):
    """A run folder that cannot be used; the message is one line."""


def write_atomic(path: Path, text: str) -> None:
    """Write a text file under a temporary name, flush it to disk, rename it.

    Raises:
        RunError: the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror}") from None


class RunFolder:
    """Paths and text files of one run."""

    def __init__(self, root: str | os.PathLike[str]):
        self.root = Path(root)
        self.config = self.root / "config.toml"
        self.metrics = self.root / "metrics.jsonl"
        self.checkpoints = self.root / "checkpoints"

    def exists(self) -> bool:
        """Whether a run has been started here."""
        return self.config.exists()

    def make(self) -> None:
        """Make the folders, if missing.

        Raises:
            RunError: they cannot be made.
        """
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{self.root}: cannot be made: {error.strerror}") from None

    def check_free(self) -> None:
        """Refuse to begin where a run has been.

        Raises:
            RunError: the folder holds a run or a part of one already.
        """
        if self.exists():
            raise RunError(
                f"{self.root}: holds a run already; go on with it (--resume auto) "
                "or give --out another folder"
            )
        if self.metrics.exists() or checkpoint.steps(self.checkpoints):
            raise RunError(
                f"{self.root}: holds metrics.jsonl or checkpoints of a run but no config.toml; "
                "give --out another folder"
            )

    def create(
        self, config: Config, argv: Sequence[str], summary: str, how: Mapping[str, Any]
    ) -> None:
        """Write summary.txt, environment.json and, last, config.toml.

        ``how`` goes into the environment: ``devices`` over which batches are split, ``products``
        per layer.

        Raises:
            RunError: they cannot be written.
        """
        environment = json.dumps(describe_environment(config, argv, how), indent=1)
        write_atomic(self.root / "summary.txt", summary)
        write_atomic(self.root / "environment.json", environment + "\n")
        write_atomic(self.config, configs.dump(config))

    def check_same(self, config: Config) -> None:
        """Refuse to go on with a run under other settings.

        Where things are, how often the run is saved, over which devices it is split and, unless
        a rate or an annealed quantizer depends on it, how long it trains may change.

        Raises:
            RunError: other settings differ.
            binjax.config.ConfigError: the run's config.toml cannot be read.
        """
        may_change = ["data.dir", "data.file", "data.memory_gib", "checkpoint", "parallel"]
        if not _depends_on_epochs(config):
            may_change.append("epochs")
        keys = configs.differences(configs.load(self.config), config, ignore=may_change)
        if keys:
            raise RunError(
                f"{self.root}: holds a run with other settings ({', '.join(keys)}); "
                "give --out another folder"
            )

    def note(self, config: Config) -> None:
        """Write config.toml anew if it says something else."""
        if configs.load(self.config) != config:
            write_atomic(self.config, configs.dump(config))

    def append(self, line: Mapping[str, Any]) -> None:
        """Add one line to metrics.jsonl and flush it to disk."""
        try:
            with self.metrics.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise RunError(f"{self.metrics}: cannot be written: {error.strerror}") from None

    def lines(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; one that a kill cut short at the end is left out.

        Raises:
            RunError: a line is not what the loop writes.
        """
        try:
            texts = self.metrics.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        found: list[dict[str, Any]] = []
        for text in texts[:-1]:
            try:
                line = json.loads(text)
                complete = isinstance(line, dict) and isinstance(line.get("step"), int)
            except ValueError:
                complete = False
            if not complete:
                raise RunError(
                    f"{self.metrics}: line {len(found) + 1} is damaged; remove it or give --out "
                    "another folder"
                )
            found.append(line)
        return found

    def rewind(self, step: int) -> list[dict[str, Any]]:
        """Drop the metrics of steps after ``step``, which will be computed again."""
        kept = [line for line in self.lines() if line["step"] <= step and "test" not in line]
        if self.metrics.exists():
            write_atomic(self.metrics, "".join(json.dumps(line) + "\n" for line in kept))
        return kept

    def note_start(self, config: Config, argv: Sequence[str], how: Mapping[str, Any]) -> list[str]:
        """Add to environment.json that the run goes on, where, and ``how`` as for :meth:`create`.

        Returns:
            What is other than at the first start, and may change the last bits of results.
        """
        path = self.root / "environment.json"
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            record = {}
        record = {"devices": 1, "products": how["products"]} | record
        now = describe_environment(config, argv, how)
        changed = [k for k in _DECISIVE if record.get(k) != now[k]]
        record.setdefault("resumed", []).append(now)
        write_atomic(path, json.dumps(record, indent=1) + "\n")
        return changed

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out of an existing folder; ends with the process at the latest.

        Raises:
            RunError: another process trains here.
        """
        with (self.root / ".lock").open("w") as file:
            try:
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunError(
                    f"{self.root}: another process trains here; give --out another folder"
                ) from None
            except (ImportError, OSError):
                pass  # no locks on this system (Windows) or this file system
            yield


_WHOLE_RUN = (
    *("exponential", "cosine", "linear"),
    *("ede", "rbnn", "libra_pb", "recu", "adabin_weights", "progressive_sign"),
)
"""Schedules and annealed quantizers that are told how long the training is."""


def _depends_on_epochs(config: Config) -> bool:
    optimizer, model = config.optimizer, config.model
    parts = [
        optimizer.schedule,
        getattr(optimizer, "gamma_schedule", None),
        getattr(optimizer, "threshold_schedule", None),
        *(case.schedule for case in optimizer.cases or ()),
        getattr(optimizer.others, "schedule", None),
        getattr(model, "input_quantizer", None),
        getattr(model, "kernel_quantizer", None),
    ]
    annealed = any(getattr(part, "kind", None) in _WHOLE_RUN for part in parts)
    return annealed or getattr(model, "progressive", False)


def describe_environment(
    config: Config, argv: Sequence[str], how: Mapping[str, Any]
) -> dict[str, Any]:
    """argv, seed, versions, git commit, device: what is needed to repeat a run.

    ``device`` is what the machine has; ``how`` is added, see :meth:`RunFolder.create`.
    """
    import jax

    device = jax.devices()[0]
    return {
        "argv": list(argv),
        "seed": config.seed,
        "python": sys.version.split()[0],
        "versions": {name: _version(name) for name in _PACKAGES},
        "git_commit": _git_commit(),
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "device": f"{device.platform}: {device.device_kind} x {jax.device_count()}",
        "processes": jax.process_count(),
        **how,
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
