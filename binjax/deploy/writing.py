"""Files that are whole or not there."""

from __future__ import annotations

import contextlib
import os
import uuid
from pathlib import Path

from binjax.deploy.operations import (
    DeployError,
)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file under a temporary name, flush it to disk, rename it; make its folder.

    Raises:
        DeployError: it cannot be written.
    """
    if not path.name or path.is_dir():
        raise DeployError(f"{path}: is a folder; give the name of a file")
    temporary = path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise DeployError(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
