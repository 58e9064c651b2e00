"""Extraction of chosen members of a .tar.gz."""

from __future__ import annotations

import hashlib
import lzma
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from binjax.data.errors import DataError

_CHUNK = 1 << 20


def extract(archive: Path, targets: Mapping[str, Path]) -> dict[str, str]:
    """Extract members, each through a temporary name and a rename.

    Nothing but the asked members' bytes leaves the archive: no other member, link, mode or owner.

    Args:
        archive: the .tar.gz (or any tar) file.
        targets: member name → file to write; the files' folders must exist.

    Returns:
        Member name → sha256 of its bytes.

    Raises:
        DataError: damaged archive; a member missing or not a plain file; or a member anywhere in
            it whose name would leave the folder (absolute, or with ".."), in which case nothing
            at all is extracted.
        OSError: a target cannot be written.
    """
    try:
        with tarfile.open(archive) as tar:
            members = {_safe_name(member.name, archive): member for member in tar.getmembers()}
            wanted = {}
            for name in targets:
                member = members.get(name)
                if member is None or not member.isreg():
                    problem = "lacks" if member is None else "has a link or special file as"
                    raise DataError(f"{archive}: {problem} {name}; get the archive again")
                wanted[name] = member
            return {name: _write(tar, wanted[name], targets[name]) for name in targets}
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{archive}: damaged archive ({error}); get it again") from None


def _safe_name(name: str, archive: Path) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
        raise DataError(f"{archive}: refused: member {name!r} points outside the archive's folder")
    return str(path)


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> str:
    part = target.with_name(f".{target.name}.part")
    digest, size = hashlib.sha256(), 0
    stream = tar.extractfile(member)
    assert stream is not None, "extractfile gives a stream for a regular member"
    try:
        with stream, part.open("wb") as out:
            while chunk := stream.read(_CHUNK):
                out.write(chunk)
                digest.update(chunk)
                size += len(chunk)
        if size != member.size:
            raise tarfile.ReadError(f"{member.name}: {size} of {member.size} bytes")
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return digest.hexdigest()
