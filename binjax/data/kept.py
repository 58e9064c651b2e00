"""Arrays that took long to compute, kept in a file whose damage is noticed.

A file is the sha256 of what follows, then the bytes of a .npz archive.
"""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray[Any, Any]]


def kept(
    path: Path, compute: Callable[[], Mapping[str, Any]], warn: Callable[[str], None]
) -> Arrays:
    """The arrays of a file; if there is none, or a damaged one, computed and written.

    Args:
        path: the file; its folder is made.
        compute: gives the arrays.
        warn: told, in a line, of a damaged file, which is never used, or of one that cannot be
            written, which is no error.

    Returns:
        Name → array, the same bits whether computed or read.
    """
    problem = None
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        pass
    except OSError as error:
        problem = f"cannot be read ({error.strerror or error})"
    else:
        if hashlib.sha256(content[32:]).digest() == content[:32]:
            with np.load(io.BytesIO(content[32:]), allow_pickle=False) as file:
                return dict(file)
        problem = "is damaged (its checksum is wrong)"
    if problem is not None:
        warn(f"{path}: {problem}; computed again")
    arrays = {name: np.asarray(array) for name, array in compute().items()}
    _write(path, arrays, warn)
    return arrays


def _write(path: Path, arrays: Arrays, warn: Callable[[str], None]) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    content = buffer.getbuffer()
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A name of its own: two runs may compute the same at the same time.
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            temporary = Path(file.name)
            file.write(hashlib.sha256(content).digest())
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        warn(f"{path}: cannot be written ({error.strerror or error}); computed again next time")
        if temporary is not None:
            temporary.unlink(missing_ok=True)
