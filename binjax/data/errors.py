"""The one exception of this package."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class DataError(ValueError):
    """A problem with data that the user can act on.

    The message is one line: what was wrong, which file, what to do.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


def unknown_name(name: str, known: Iterable[str]) -> DataError:
    """A `DataError` for a dataset name that does not exist, with the nearest ones that do."""
    names = list(known)
    near = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names)}"
    return DataError(f"unknown dataset {name!r}: {hint}")


def unreadable(path: str | Path, error: OSError) -> DataError:
    """A `DataError` for a file that cannot be opened or read."""
    return DataError(f"{path}: cannot be read ({error.strerror or error}); check path and rights")
