"""Where the files of a set are looked for."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from binjax.data.errors import DataError

ENVIRONMENT = "BINJAX_DATA_DIR"
ARCHIVE_FOLDERS = {
    "cifar10": "cifar-10-batches-bin",
    "cifar100": "cifar-100-binary",
    "stl10": "stl10_binary",
}


PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
"""Suffixes of files that Pillow decodes for us."""


def default_directory() -> Path:
    """`$BINJAX_DATA_DIR`, else `data` in :func:`cache_directory`."""
    if os.environ.get(ENVIRONMENT):
        return Path(os.environ[ENVIRONMENT]).expanduser()
    return cache_directory() / "data"


def cache_directory() -> Path:
    """`binjax` in the user's cache folder.

    The cache folder is `$XDG_CACHE_HOME` or `~/.cache`, on macOS `~/Library/Caches`, on Windows
    `%LOCALAPPDATA%`.
    """
    home = Path.home()
    if sys.platform == "win32":
        cache = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif os.environ.get("XDG_CACHE_HOME"):
        cache = Path(os.environ["XDG_CACHE_HOME"])
    else:
        cache = home / "Library" / "Caches" if sys.platform == "darwin" else home / ".cache"
    return cache / "binjax"


def find_directory(directory: str | Path | None = None, *, must_exist: bool = True) -> Path:
    """The root folder of the sets: `directory` if given, else `default_directory()`.

    Args:
        directory: the user's choice, or None.
        must_exist: whether a folder the user named (by argument or environment) must be there;
            the cache folder never has to.

    Returns:
        The folder.

    Raises:
        DataError: the named folder does not exist, or is no folder.
    """
    root = default_directory() if directory is None else Path(directory).expanduser()
    named = directory is not None or bool(os.environ.get(ENVIRONMENT))
    if named and not root.is_dir() and (must_exist or root.exists()):
        origin = ENVIRONMENT if directory is None else "data directory"
        problem = "is not a folder" if root.exists() else "does not exist"
        raise DataError(f"{origin} {root} {problem}; create it or name another (--data.dir DIR)")
    return root


def search_folders(root: Path, name: str) -> list[Path]:
    """The folders in which the files of set `name` may lie, first choice first."""
    folders = [root, root / name]
    if name in ARCHIVE_FOLDERS:
        archive = ARCHIVE_FOLDERS[name]
        folders += [root / archive, root / name / archive]
    return folders


def spellings(file: str) -> list[str]:
    """The names under which `file` is accepted.

    IDX files go by two customary names, each plain or with `.gz`.
    """
    if "-idx" not in file:
        return [file]
    stem = file.removesuffix(".gz")
    stems = (stem, stem.replace("-idx", ".idx"))
    return [s + suffix for s in stems for suffix in ("", ".gz")]


def find_file(file: str, folders: list[Path]) -> Path | None:
    """The first existing file among the spellings of `file` in `folders`, or None."""
    candidates = (folder / spelling for folder in folders for spelling in spellings(file))
    return next((path for path in candidates if path.is_file()), None)
