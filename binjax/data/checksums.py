"""SHA-256 of files, and whether the files of a set are what they should be."""

from __future__ import annotations

import gzip
import hashlib
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from binjax.data import embedded
from binjax.data.errors import unknown_name, unreadable
from binjax.data.paths import find_directory, find_file, search_folders
from binjax.data.sources import SOURCES, RemoteFile, Source

SUMS_FILE = "SHA256SUMS"
_SUMS_LINE = re.compile(r"([0-9a-f]{64}) [ *](\S+)")
_CHUNK = 1 << 20


@dataclass(frozen=True)
class FileStatus:
    """What was found of one file.

    Attributes:
        path: where it is, or, if missing, where `fetch` would put it.
        status: "unverified": it is there, but no checksum of it is known.
        expected: sha256, hexadecimal, None if unknown. For a recompressed or plain copy of a .gz
            file it is that of the content.
        found: likewise; None if missing or if the content cannot be decompressed.
    """

    path: Path
    status: Literal["ok", "missing", "damaged", "unverified"]
    expected: str | None
    found: str | None


def verify(
    name: str,
    directory: str | Path | None = None,
    *,
    sources: Mapping[str, Source] = SOURCES,
) -> list[FileStatus]:
    """Check every file of a set against its sha256.

    Files extracted from an archive have no published checksum: they are checked against the
    `SHA256SUMS` that `fetch` writes beside them when it extracts the (verified) archive.

    Args:
        name: one of `DATASETS`.
        directory: as for `load`.
        sources: table of sets.

    Returns:
        One status per file.

    Raises:
        DataError: unknown name, named folder missing, or a file that cannot be read.
    """
    if name == embedded.NAME:
        folder = embedded.folder()
        return [_compare(folder / file, sha256) for file, sha256 in embedded.SHA256.items()]
    source = find_source(name, sources)
    root = find_directory(directory)
    folders = search_folders(root, name)
    statuses = []
    for file in source.files:
        if file.members:
            statuses += [member_status(m, folders, root / name) for m in file.members]
        else:
            statuses.append(file_status(file, folders, root / name))
    return statuses


def find_source(name: str, sources: Mapping[str, Source]) -> Source:
    """The entry of `sources`; an unknown name is a `DataError` with the nearest names."""
    if name not in sources:
        raise unknown_name(name, (embedded.NAME, *sources))
    return sources[name]


def file_status(file: RemoteFile, folders: list[Path], target: Path) -> FileStatus:
    """Status of a file that is used as downloaded."""
    path = find_file(file.name, folders)
    if path is None:
        return FileStatus(target / file.name, "missing", file.sha256, None)
    status = _compare(path, file.sha256)
    if status.status == "ok" or file.content_sha256 is None:
        return status
    content = _content_sha256(path)
    if content == file.content_sha256:
        return FileStatus(path, "ok", content, content)
    return FileStatus(path, "damaged", file.content_sha256, content)


def member_status(member: str, folders: list[Path], target: Path) -> FileStatus:
    """Status of a file extracted from an archive."""
    file = member.rsplit("/", 1)[-1]
    path = find_file(file, folders)
    if path is None:
        return FileStatus(target / file, "missing", None, None)
    return _compare(path, read_sums(path.parent).get(file))


def read_sums(folder: Path) -> dict[str, str]:
    """File name → sha256 from the folder's `SHA256SUMS`; empty if there is none."""
    try:
        text = (folder / SUMS_FILE).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise unreadable(folder / SUMS_FILE, error) from None
    matches = filter(None, map(_SUMS_LINE.fullmatch, text.splitlines()))
    return {match[2]: match[1] for match in matches}


def add_sums(folder: Path, sums: Mapping[str, str]) -> None:
    """Add entries to the folder's `SHA256SUMS` (the format of `sha256sum -c`), atomically."""
    merged = {**read_sums(folder), **sums}
    part = folder / f"{SUMS_FILE}.part"
    part.write_text("".join(f"{merged[f]}  {f}\n" for f in sorted(merged)), encoding="utf-8")
    part.replace(folder / SUMS_FILE)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hexadecimal; a `DataError` if it cannot be read."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise unreadable(path, error) from None


def _compare(path: Path, expected: str | None) -> FileStatus:
    if not path.is_file():
        return FileStatus(path, "missing", expected, None)
    found = sha256_of(path)
    if expected is None:
        return FileStatus(path, "unverified", None, found)
    return FileStatus(path, "ok" if found == expected else "damaged", expected, found)


def _content_sha256(path: Path) -> str | None:
    """SHA-256 of what is inside a gzip file, or of a plain file; None if it is broken."""
    try:
        with path.open("rb") as file:
            compressed = file.read(2) == b"\x1f\x8b"
        if not compressed:
            return sha256_of(path)
        digest = hashlib.sha256()
        with gzip.open(path) as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
        return digest.hexdigest()
    except (OSError, EOFError, zlib.error):
        return None
