"""Downloading the public sets. Nothing else in this package opens a connection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from binjax.data import embedded
from binjax.data.archive import extract
from binjax.data.checksums import (
    FileStatus,
    add_sums,
    file_status,
    find_source,
    member_status,
    sha256_of,
    verify,
)
from binjax.data.download import download, unwritable
from binjax.data.errors import DataError
from binjax.data.paths import find_directory, find_file, search_folders
from binjax.data.sources import SOURCES, RemoteFile, Source

__all__ = ["SOURCES", "FileStatus", "RemoteFile", "Source", "fetch", "verify"]


def fetch(
    name: str,
    directory: str | Path | None = None,
    *,
    sources: Mapping[str, Source] = SOURCES,
    progress: bool = False,
) -> list[Path]:
    """Make a set's files present and right; download what is missing or damaged.

    New files go to `directory`/`name`; a damaged file is replaced where it lies. An archive that
    is already there is used and kept; one that had to be downloaded is deleted after extraction.

    Args:
        name: one of `DATASETS`; the embedded set needs no download.
        directory: as for `load`, but made if it does not exist.
        sources: table of sets.
        progress: whether to show bars on stderr.

    Returns:
        The paths of the set's files, as `load` reads them.

    Raises:
        DataError: unknown name; pooch missing (only if something must be downloaded); a folder
            that cannot be written; every mirror failed (with each mirror's reason).
    """
    if name == embedded.NAME:
        return [embedded.folder() / file for file in embedded.SHA256]
    source = find_source(name, sources)
    root = find_directory(directory, must_exist=False)
    folders = search_folders(root, name)
    paths = []
    for file in source.files:
        if file.members:
            paths += _fetch_members(file, source.mirrors, folders, root / name, progress)
        else:
            paths.append(_fetch_file(file, source.mirrors, folders, root / name, progress))
    return paths


def _fetch_file(
    file: RemoteFile, mirrors: Sequence[str], folders: list[Path], target: Path, progress: bool
) -> Path:
    status = file_status(file, folders, target)
    if status.status == "ok":
        return status.path
    if status.path.name != file.name:
        raise DataError(
            f"{status.path}: damaged, and it would be read before a new {file.name}: "
            "remove it and fetch again"
        )
    return download(file, mirrors, status.path.parent, progress=progress)


def _fetch_members(
    file: RemoteFile, mirrors: Sequence[str], folders: list[Path], target: Path, progress: bool
) -> list[Path]:
    statuses = {member: member_status(member, folders, target) for member in file.members}
    targets = {
        member: status.path
        for member, status in statuses.items()
        if status.status in ("missing", "damaged")
    }
    if targets:
        archive = find_file(file.name, folders)
        if archive is not None and sha256_of(archive) == file.sha256:
            _extract(archive, targets)
        else:
            archive = download(file, mirrors, target, progress=progress)
            _extract(archive, targets)
            archive.unlink()
    return [status.path for status in statuses.values()]


def _extract(archive: Path, targets: Mapping[str, Path]) -> None:
    folder = archive.parent
    try:
        for folder in {path.parent for path in targets.values()}:
            folder.mkdir(parents=True, exist_ok=True)
        sums = extract(archive, targets)
        for member, path in targets.items():
            folder = path.parent
            add_sums(folder, {path.name: sums[member]})
    except OSError as error:
        raise unwritable(folder, error) from None
