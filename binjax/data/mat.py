"""Reader of numeric arrays in MATLAB files, level 5 (plain or compressed; not 7.3, which is HDF5).

Format: "MAT-File Format", The MathWorks, chapter 1. Not scipy: `scipy.io.loadmat` (1.17) ends the
whole process with a segmentation fault on some damaged files; here every length is checked.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from binjax.data.errors import DataError, unreadable

_HEADER = 128
_TYPES = {
    1: "i1",
    2: "u1",
    3: "i2",
    4: "u2",
    5: "i4",
    6: "u4",
    7: "f4",
    9: "f8",
    12: "i8",
    13: "u8",
}
_MATRIX, _COMPRESSED = 14, 15
_NUMERIC_CLASSES = range(6, 16)
_COMPLEX = 0x800

Element = tuple[int, memoryview]


class _Damaged(Exception):
    """What is wrong inside the file."""


def read_mat(path: str | Path, names: tuple[str, ...]) -> dict[str, npt.NDArray[Any]]:
    """Read real numeric arrays by name.

    Args:
        path: the file.
        names: the wanted variables; others are skipped.

    Returns:
        Those of the wanted that are there: arrays in MATLAB's index order (Fortran contiguous),
        read-only, of the type in which the values are stored (MATLAB stores a double array of
        small integers as uint8, for example).

    Raises:
        DataError: unreadable, not a level-5 file, truncated, damaged, or a wanted variable is
            not a real numeric array.
    """
    path = Path(path)
    try:
        data = memoryview(path.read_bytes())
    except OSError as error:
        raise unreadable(path, error) from None
    try:
        order = _byte_order(data)
        found = {}
        for kind, content in _elements(data[_HEADER:], order):
            if kind == _COMPRESSED:
                inner = memoryview(zlib.decompress(content))
                kind, content = next(_elements(inner, order), (0, inner))
            if kind == _MATRIX:
                name, parts = _name(content, order)
                if name in names:
                    found[name] = _array(name, parts, order)
    except (_Damaged, zlib.error) as error:
        raise DataError(
            f"{path}: not a readable MATLAB file ({error}); get the file again"
        ) from None
    return found


def _byte_order(data: memoryview) -> str:
    if len(data) < _HEADER:
        raise _Damaged(f"expected a header of {_HEADER} bytes, found {len(data)}")
    if bytes(data[124:128]) == b"\x00\x01IM":
        return "<"
    if bytes(data[124:128]) == b"\x01\x00MI":
        return ">"
    raise _Damaged("no level-5 header; files of version 7.3 are not supported")


def _elements(data: memoryview, order: str) -> Iterator[Element]:
    """The (type, content) of each data element."""
    position = 0
    while position < len(data):
        if len(data) - position < 8:
            raise _Damaged(f"{len(data) - position} bytes where an element should begin")
        kind, n_bytes = (int(n) for n in np.frombuffer(data, f"{order}u4", 2, position))
        if kind >> 16:  # small element: size, type and at most 4 bytes of content in 8 bytes
            kind, n_bytes = kind & 0xFFFF, kind >> 16
            start, end = position + 4, position + 8
            if n_bytes > 4:
                raise _Damaged(f"small element of {n_bytes} bytes")
        else:
            start = position + 8
            padding = 0 if kind == _COMPRESSED else -n_bytes % 8
            end = start + n_bytes + padding
        if start + n_bytes > len(data):
            raise _Damaged(f"element of {n_bytes} bytes, but only {len(data) - start} are left")
        yield kind, data[start : start + n_bytes]
        position = end


def _name(matrix: memoryview, order: str) -> tuple[str, list[Element]]:
    parts = list(_elements(matrix, order))
    if len(parts) < 3:
        raise _Damaged(f"array with {len(parts)} parts, expected at least 3")
    return bytes(parts[2][1]).decode("ascii", "replace"), parts


def _array(name: str, parts: list[Element], order: str) -> npt.NDArray[Any]:
    (_, flag_bytes), (_, shape_bytes) = parts[:2]
    if len(flag_bytes) != 8 or len(shape_bytes) % 4 or not 8 <= len(shape_bytes) <= 32:
        raise _Damaged(f"{name}: array header of wrong size")
    flags = int(np.frombuffer(flag_bytes, f"{order}u4")[0])
    shape = tuple(int(n) for n in np.frombuffer(shape_bytes, f"{order}i4"))
    if flags & 0xFF not in _NUMERIC_CLASSES or flags & _COMPLEX or len(parts) != 4:
        raise _Damaged(f"{name}: not a real numeric array")
    kind, content = parts[3]
    if kind not in _TYPES:
        raise _Damaged(f"{name}: element type {kind}")
    dtype = np.dtype(_TYPES[kind]).newbyteorder(order)  # type: ignore[arg-type]
    if min(shape) < 0 or len(content) != math.prod(shape) * dtype.itemsize:
        raise _Damaged(f"{name}: {len(content)} bytes for {dtype} {shape}")
    try:
        return np.frombuffer(content, dtype).reshape(shape, order="F")
    except ValueError as error:
        raise _Damaged(f"{name}: impossible shape {shape}") from error
