"""One file from the first mirror that gives the right bytes."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from binjax.data.checksums import sha256_of
from binjax.data.errors import DataError
from binjax.data.sources import RemoteFile

_CHUNK = 1 << 16
_MAX_REASON = 160


def download(
    file: RemoteFile, mirrors: Sequence[str], folder: Path, *, progress: bool = False
) -> Path:
    """Download a file, trying each mirror in turn, and check its sha256.

    The bytes go to a temporary name beside the target and are renamed when they are right, so
    that an interrupted download never looks like a file.

    Args:
        file: what to download.
        mirrors: base URLs (http or https).
        folder: where to; made if needed.
        progress: whether to show a bar on stderr.

    Returns:
        The file's path.

    Raises:
        DataError: pooch is missing, the folder cannot be written, or every mirror failed.
    """
    try:
        import pooch  # type: ignore[import-untyped, unused-ignore]
        import requests
    except ImportError:
        raise DataError(
            f"{file.name}: downloading needs pooch: pip install 'binjax[data]'"
        ) from None
    reasons = []
    for mirror in mirrors:
        url = f"{mirror.rstrip('/')}/{file.name}"
        bar = _progress_bar(file.name) if progress else False
        part = _temporary(folder, file.name)
        try:
            # pooch annotates its third argument as required, and does not use it.
            pooch.HTTPDownloader(progressbar=bar, chunk_size=_CHUNK)(url, str(part), None)
            found = sha256_of(part)
            if found == file.sha256:
                part.replace(folder / file.name)
                return folder / file.name
            size = part.stat().st_size
            reasons.append(f"{url}: {size} bytes of sha256 {found}, expected {file.sha256}")
        except requests.RequestException as error:
            reasons.append(f"{url}: {_reason(error)}")
        except OSError as error:
            raise unwritable(folder, error) from None
        finally:
            part.unlink(missing_ok=True)
            if isinstance(bar, _RichBar):
                bar.close()
    raise DataError(
        f"{file.name}: no mirror gave the right file: {'; '.join(reasons)}; try again later, or "
        f"put the file into {folder} by hand"
    )


def unwritable(folder: Path, error: OSError) -> DataError:
    """A `DataError` for a folder into which nothing can be written."""
    return DataError(
        f"{folder}: cannot write ({error.strerror or error}); name another folder with "
        "--data.dir DIR"
    )


def _temporary(folder: Path, name: str) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, path = tempfile.mkstemp(prefix=f".{name}.", suffix=".part", dir=folder)
        os.close(handle)
        Path(path).chmod(0o644)  # mkstemp gives 0600, which would lock out users of a shared folder
    except OSError as error:
        raise unwritable(folder, error) from None
    return Path(path)


def _reason(error: Exception) -> str:
    # requests wraps urllib3's MaxRetryError, whose own text buries the cause at its end.
    cause = getattr(error.args[0], "reason", None) if error.args else None
    text = f"{type(error).__name__}: {cause or error}"
    return text if len(text) <= _MAX_REASON else text[: _MAX_REASON - 3] + "..."


def _progress_bar(label: str) -> Any:
    """What pooch takes as `progressbar`: True makes it use tqdm."""
    if importlib.util.find_spec("tqdm") is not None:
        return True
    return _RichBar(label) if importlib.util.find_spec("rich") is not None else False


class _RichBar:
    """A rich progress bar with the interface that pooch asks of a custom bar."""

    def __init__(self, label: str) -> None:
        from rich import progress
        from rich.console import Console

        self._progress = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.DownloadColumn(),
            progress.TransferSpeedColumn(),
            progress.TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._progress.add_task(label, total=None)
        self._progress.start()

    @property
    def total(self) -> float | None:
        return self._progress.tasks[0].total

    @total.setter
    def total(self, n_bytes: int) -> None:
        self._progress.update(self._task, total=n_bytes or None)

    def update(self, n_bytes: int) -> None:
        self._progress.advance(self._task, n_bytes)

    def reset(self) -> None:
        self._progress.update(self._task, completed=0)

    def close(self) -> None:
        self._progress.stop()
