"""Arrays that users bring, checked: those of a .npz file, or any four."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from binjax.data.dataset import Dataset, Split, check_memory
from binjax.data.errors import DataError, unreadable

KEYS = ("x_train", "y_train", "x_test", "y_test")
Header = tuple[tuple[int, ...], np.dtype[Any]]


def read_npz(path: Path, memory_gib: float) -> Dataset:
    """The set in a file of arrays `x_train`, `y_train`, `x_test`, `y_test` (Keras' naming).

    Args:
        path: a .npz file. Objects in it, which are pickles, are refused unread.
        memory_gib: the most its images may take.

    Returns:
        A set without validation images.

    Raises:
        DataError: unreadable or damaged; an array missing, of a wrong shape or dtype.
    """
    headers = npz_headers(path)
    n_bytes = sum(math.prod(shape) * dtype.itemsize for shape, dtype in headers.values())
    check_memory(f"{path}: its images", n_bytes, memory_gib)
    with _reading(path), np.load(path, allow_pickle=False) as file:
        a, b, c, d = (file[key] for key in KEYS)
    return from_arrays(str(path), a, b, c, d, KEYS)


def npz_headers(path: Path) -> dict[str, Header]:
    """Shape and dtype of each of the four arrays; their content is not read.

    Raises:
        DataError: unreadable, or an array missing.
    """
    found = {}
    with _reading(path), zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        missing = [key for key in KEYS if f"{key}.npy" not in names]
        if missing:
            there = ", ".join(sorted(name.removesuffix(".npy") for name in names)) or "nothing"
            raise DataError(f"{path}: lacks {', '.join(missing)}; it holds {there}")
        for key in KEYS:
            with archive.open(f"{key}.npy") as member:
                version = np.lib.format.read_magic(member)
                read = (
                    np.lib.format.read_array_header_1_0
                    if version == (1, 0)
                    else np.lib.format.read_array_header_2_0
                )
                shape, _, dtype = read(member)
            if dtype.hasobject:
                raise DataError(f"{path}: {key} holds Python objects, which are never opened")
            found[key] = (shape, dtype)
    return found


def npz_labels(path: Path) -> np.ndarray:
    """The training labels alone."""
    with _reading(path), np.load(path, allow_pickle=False) as file:
        labels: np.ndarray = file["y_train"]
        return labels


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except zipfile.BadZipFile as error:
        raise DataError(f"{path}: is no readable .npz file: {error}") from None
    except OSError as error:
        raise unreadable(path, error) from None
    except (ValueError, EOFError, KeyError, SyntaxError, zlib.error, NotImplementedError) as error:
        why = (str(error).splitlines() or ["it is damaged"])[0]
        raise DataError(f"{path}: is no readable .npz file: {why}") from None


def from_arrays(
    name: str,
    x_train: Any,
    y_train: Any,
    x_test: Any,
    y_test: Any,
    names: tuple[str, ...] = ("train images", "train labels", "test images", "test labels"),
) -> Dataset:
    """A set of arrays, checked.

    Args:
        name: what errors call it.
        x_train, x_test: [n, h, w] or [n, h, w, c], both alike: pixels 0..255, uint8 or another
            integer type; or floats, which become float32 and need data.scaling.kind = "none".
        y_train, y_test: labels from 0, integers [n] or [n, 1].
        names: what errors call the arrays.

    Returns:
        A set without validation images; as many classes as the highest training label says.

    Raises:
        DataError: a wrong shape or dtype, a value out of range, no image.
    """
    train = make_split(name, x_train, y_train, names[:2])
    test = make_split(name, x_test, y_test, names[2:])
    for split, what in ((train, names[0]), (test, names[2])):
        if not len(split):
            raise DataError(f"{name}: {what} holds no image")
    if train.images.shape[1:] != test.images.shape[1:]:
        raise DataError(
            f"{name}: {names[0]} are {size_of(train.images)} and {names[2]} "
            f"{size_of(test.images)}; they must be alike"
        )
    if train.images.dtype != test.images.dtype:
        raise DataError(
            f"{name}: {names[0]} hold {train.images.dtype}, {names[2]} {test.images.dtype}; they "
            "must be alike"
        )
    n_classes = int(train.labels.max()) + 1
    if n_classes > len(train):
        raise DataError(
            f"{name}: {names[1]} has labels up to {n_classes - 1} for {len(train)} images; number "
            "the classes 0, 1 …, or say n_classes in a binjax.data.Dataset"
        )
    if test.labels.max() >= n_classes:
        raise DataError(
            f"{name}: {names[3]} has label {test.labels.max()}, {names[1]} only 0..{n_classes - 1}"
        )
    height, width, channels = train.images.shape[1:]
    return Dataset(name, train, train[:0], test, n_classes, (height, width, channels))


def make_split(name: str, images: Any, labels: Any, names: tuple[str, ...]) -> Split:
    """Images and labels of one part, checked and converted.

    Raises:
        DataError: see :func:`from_arrays`.
    """
    x, y = _array(name, names[0], images), _array(name, names[1], labels)
    if x.ndim == 3:
        x = x[..., None]
    if x.ndim != 4 or min(x.shape[1:]) < 1:
        raise DataError(
            f"{name}: {names[0]} has shape {np.shape(images)}; wanted [n, height, width] or "
            "[n, height, width, channels]"
        )
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.shape != (len(x),):
        raise DataError(
            f"{name}: {names[1]} has shape {np.shape(labels)}; wanted a label for each of the "
            f"{len(x)} images, [{len(x)}]"
        )
    if x.dtype.kind not in "iuf":
        raise DataError(
            f"{name}: {names[0]} holds {x.dtype}; wanted pixels of 0 to 255 in uint8, or floats"
        )
    if y.dtype.kind not in "iu":
        raise DataError(f"{name}: {names[1]} holds {y.dtype}; wanted integers from 0")
    if y.size and not 0 <= int(y.min()) <= int(y.max()) < 2**24:
        raise DataError(f"{name}: {names[1]} has labels from {y.min()} to {y.max()}; wanted 0, 1 …")
    if x.dtype.kind == "f":
        with np.errstate(over="ignore"):
            pixels = np.ascontiguousarray(x, np.float32)
        if not np.isfinite(pixels).all():
            raise DataError(f"{name}: {names[0]} holds values that are not finite in float32")
        return Split(pixels, np.ascontiguousarray(y, np.int32))
    if x.dtype != np.uint8 and x.size and not 0 <= int(x.min()) <= int(x.max()) <= 255:
        raise DataError(f"{name}: {names[0]} has values from {x.min()} to {x.max()}; wanted 0..255")
    return Split(np.ascontiguousarray(x, np.uint8), np.ascontiguousarray(y, np.int32))


def _array(name: str, what: str, values: Any) -> np.ndarray:
    try:
        return np.asarray(values)
    except ValueError:
        raise DataError(f"{name}: {what} are no array; their sizes differ") from None


def size_of(images: np.ndarray) -> str:
    """Height, width and channels, for a message."""
    return "x".join(map(str, images.shape[1:]))
