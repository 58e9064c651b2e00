"""Reader of IDX files, the format of MNIST and Fashion-MNIST.

Format: http://yann.lecun.com/exdb/mnist/ ("the IDX file format"): two zero bytes, a type code,
the number of dimensions, the dimensions as big-endian uint32, then the elements, big-endian, C
order.
"""

from __future__ import annotations

import gzip
import lzma
import math
import zlib
from contextlib import ExitStack
from pathlib import Path
from typing import IO, cast

import numpy as np
import numpy.typing as npt

from binjax.data.errors import DataError, unreadable

_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_MAX_DIMENSIONS = 8
_GZIP_MAGIC, _XZ_MAGIC = b"\x1f\x8b", b"\xfd7zXZ\x00"
# Largest possible expansion: deflate 1032:1 (zlib.net/zlib_tech.html); LZMA about 7,000:1.
_MAX_EXPANSION = {"raw": 1, "gzip": 1040, "xz": 10_000}
_CHUNK = 1 << 20
_AGAIN = "get the file again"


def read_idx(path: str | Path) -> npt.NDArray[np.generic]:
    """Read an IDX file, plain or compressed with gzip or xz.

    The compression is recognised by content, not by the file's name.

    Args:
        path: the file.

    Returns:
        Array of the shape in the file's header, native byte order: uint8 for the image sets,
        else int8, int16, int32, float32 or float64, as the type code says.

    Raises:
        DataError: the file is missing, unreadable, not IDX, corrupted, truncated, or has bytes
            after its data; the message has the expected and the found number of bytes.
    """
    path = Path(path)
    with ExitStack() as stack:
        try:
            file = stack.enter_context(path.open("rb"))
            start = file.read(6)
            size = file.seek(0, 2)
            file.seek(0)
        except OSError as error:
            raise unreadable(path, error) from None
        kind = _compression(start)
        stream = _open(kind, file, stack)
        dtype, shape, header_size = _read_header(stream, path)
        n_bytes = math.prod(shape) * dtype.itemsize
        if header_size + n_bytes > size * _MAX_EXPANSION[kind]:
            found_size = str(size) if kind == "raw" else f"{size}, compressed with {kind}"
            raise _wrong_size(path, shape, header_size + n_bytes, found_size)
        data = np.empty(n_bytes, np.uint8)
        found = header_size + _fill(stream, data, path)
        if found == header_size + n_bytes:
            found += _count_rest(stream, path, found)
        if found != header_size + n_bytes:
            raise _wrong_size(path, shape, header_size + n_bytes, str(found))
    try:
        array = data.view(dtype).reshape(shape)
    except ValueError:
        raise DataError(f"{path}: IDX header gives an impossible shape {shape}; {_AGAIN}") from None
    return array.astype(dtype.newbyteorder("="), copy=False)


def _compression(start: bytes) -> str:
    if start.startswith(_GZIP_MAGIC):
        return "gzip"
    return "xz" if start.startswith(_XZ_MAGIC) else "raw"


def _open(kind: str, file: IO[bytes], stack: ExitStack) -> IO[bytes]:
    if kind == "gzip":
        return cast("IO[bytes]", stack.enter_context(gzip.GzipFile(fileobj=file)))
    if kind == "xz":
        return cast("IO[bytes]", stack.enter_context(lzma.LZMAFile(file)))
    return file


def _read(stream: IO[bytes], n: int, path: Path, position: int) -> bytes:
    """Up to n bytes; a broken compressed stream becomes a `DataError`."""
    try:
        return stream.read(n)
    except EOFError:
        raise DataError(
            f"{path}: compressed data end too early, after {position} bytes or a little more; "
            f"{_AGAIN}"
        ) from None
    except (gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
        raise DataError(
            f"{path}: corrupted compressed data near byte {position} ({error}); {_AGAIN}"
        ) from None
    except OSError as error:
        raise unreadable(path, error) from None


def _read_header(stream: IO[bytes], path: Path) -> tuple[np.dtype, tuple[int, ...], int]:
    magic = _read(stream, 4, path, 0)
    if len(magic) < 4:
        raise DataError(f"{path}: truncated: expected an IDX header, found {len(magic)} bytes")
    if magic[:2] != b"\0\0" or magic[2] not in _TYPES:
        raise DataError(
            f"{path}: not an IDX file: it starts with {magic.hex(' ')}, expected 00 00, a type "
            f"code and a number of dimensions; {_AGAIN}"
        )
    n_dims = magic[3]
    if not 1 <= n_dims <= _MAX_DIMENSIONS:
        raise DataError(
            f"{path}: IDX header gives {n_dims} dimensions, expected 1 to {_MAX_DIMENSIONS}; "
            f"{_AGAIN}"
        )
    sizes = _read(stream, 4 * n_dims, path, 4)
    if len(sizes) < 4 * n_dims:
        raise DataError(
            f"{path}: truncated: expected a header of {4 + 4 * n_dims} bytes, found "
            f"{4 + len(sizes)}; {_AGAIN}"
        )
    shape = tuple(int(n) for n in np.frombuffer(sizes, ">u4"))
    return np.dtype(_TYPES[magic[2]]), shape, 4 + len(sizes)


def _fill(stream: IO[bytes], data: npt.NDArray[np.uint8], path: Path) -> int:
    """Read into `data` until it is full or the stream ends; return the number of bytes."""
    position = 0
    while position < data.size:
        chunk = _read(stream, min(_CHUNK, data.size - position), path, position)
        if not chunk:
            break
        data[position : position + len(chunk)] = np.frombuffer(chunk, np.uint8)
        position += len(chunk)
    return position


def _count_rest(stream: IO[bytes], path: Path, position: int) -> int:
    """Bytes left in the stream. Reading on to the end also checks gzip's and xz's own checksum."""
    n = 0
    while chunk := _read(stream, _CHUNK, path, position + n):
        n += len(chunk)
    return n


def _wrong_size(path: Path, shape: tuple[int, ...], expected: int, found: str) -> DataError:
    return DataError(
        f"{path}: wrong size: expected {expected} bytes for shape {shape}, found {found}; {_AGAIN}"
    )
