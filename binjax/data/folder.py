"""A folder of pictures: `train/<class>/*.png`, and `val/<class>/` or `test/<class>/`, or both.

Pillow, which decodes, is imported when pictures are read.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from binjax.data.dataset import (
    Dataset,
    Info,
    Split,
    check_limits,
    check_memory,
    count_train,
)
from binjax.data.errors import DataError
from binjax.data.paths import PICTURES

_TRAIN = ("train",)
_VALIDATION = ("val", "valid", "validation")
_TEST = ("test",)


@dataclass(frozen=True)
class Listing:
    """The pictures of a folder, not yet read.

    Attributes:
        classes: names of the subfolders of train/, sorted; a class's label is its place here.
        train: (path, label) in a fixed mixed order, so that any part of them has all classes.
        validation: of a folder for them beside one for tests; else none.
        test: sorted by class and name.
    """

    root: Path
    classes: tuple[str, ...]
    train: list[tuple[Path, int]]
    validation: list[tuple[Path, int]]
    test: list[tuple[Path, int]]


def list_folder(root: Path) -> Listing:
    """Find the pictures of a folder.

    Args:
        root: holds `train` and `test`, or `val` (also `valid`, `validation`) for the test set, or
            all three; in each a subfolder per class, with pictures in it or further down. Other
            files are passed over, and so are names that begin with a dot.

    Raises:
        DataError: a folder missing, a class without pictures, a class that train/ lacks.
    """
    if not root.is_dir():
        raise DataError(f"{root}: is not a folder; name one with train/<class>/ in it (--data.dir)")
    train = _part(root, _TRAIN)
    if train is None:
        raise DataError(f"{root}: has no folder train/ with a subfolder for each class")
    held_out, test = _part(root, _VALIDATION), _part(root, _TEST)
    if held_out is None and test is None:
        raise DataError(f"{root}: has neither test/ nor val/ with a subfolder for each class")
    classes = tuple(sorted(p.name for p in _visible(train) if p.is_dir()))
    if not classes:
        raise DataError(f"{train}: has no subfolders; wanted one for each class")
    pictures = _pictures(train, classes)
    empty = [name for i, name in enumerate(classes) if not any(y == i for _, y in pictures)]
    if empty:
        raise DataError(
            f"{train / empty[0]}: holds no picture ({', '.join(PICTURES)}); remove the folder or "
            "fill it"
        )
    if test is None:
        held_out, test = None, held_out
    assert test is not None
    tested = _pictures(test, classes)
    validated = [] if held_out is None else _pictures(held_out, classes)
    for part, found in ((test, tested), (held_out, validated)):
        if part is not None and not found:
            raise DataError(f"{part}: holds no picture in a folder of a class; fill it")
    words = np.random.Philox(np.random.SeedSequence([len(pictures)])).random_raw(len(pictures))
    return Listing(
        root,
        classes,
        [pictures[i] for i in np.argsort(words, kind="stable")],
        validated,
        tested,
    )


def folder_info(root: Path, size: tuple[int, int] | None, channels: int) -> Info:
    """Size, classes and numbers of pictures; none is decoded.

    Raises:
        DataError: no size, and what :func:`list_folder` raises.
    """
    high, wide = _checked_size(root, size)
    found = list_folder(root)
    n_train = len(found.train) + len(found.validation)
    shape = (high, wide, channels)
    n_held_out = len(found.validation)
    return Info(str(root), shape, len(found.classes), n_train, len(found.test), n_held_out)


def read_folder(
    root: Path,
    size: tuple[int, int] | None,
    channels: int,
    *,
    validation: int | None,
    limit_train: int | None,
    limit_test: int | None,
    memory_gib: float,
) -> Dataset:
    """Read a folder of pictures into memory.

    Args:
        root: see :func:`list_folder`.
        size: (height, width) of all images. A picture is resized (bilinear, over an area where it
            shrinks) until its shorter side fits and its middle is taken; one of that size already
            is left as it is.
        channels: 1 (gray) or 3 (RGB; transparency is dropped).
        validation: images from the end of the mixed training pictures; None: those of `val`, if
            there is `test` too, else none.
        limit_train, limit_test: only the first so many are read.
        memory_gib: the most the images may take.

    Raises:
        DataError: a picture that cannot be read, named; too many for memory; see also
            :func:`list_folder`.
    """
    check_limits(limit_train, limit_test)
    high, wide = _checked_size(root, size)
    found = list_folder(root)
    train, held_out = found.train, found.validation
    if held_out and validation not in (None, len(held_out)):
        raise DataError(
            f"{root}: has a folder of validation images beside test/: leave data.validation out"
        )
    if not held_out:
        n = count_train(str(root), len(train), validation or 0)
        train, held_out = train[:n], train[n:]
    parts = (train[:limit_train], held_out[:limit_test], found.test[:limit_test])
    shape = (high, wide, channels)
    n_bytes = sum(map(len, parts)) * high * wide * channels
    check_memory(f"{root}: its pictures at {high}x{wide}x{channels}", n_bytes, memory_gib)
    splits = tuple(_read(part, shape) for part in parts)
    return Dataset(
        name=str(root),
        train=splits[0],
        validation=splits[1],
        test=splits[2],
        n_classes=len(found.classes),
        image_shape=shape,
        classes=found.classes,
    )


def _checked_size(root: Path, size: tuple[int, int] | None) -> tuple[int, int]:
    if size is None:
        raise DataError(
            f"{root}: give the pictures a size in memory: data.image_size = [height, width]"
        )
    return size


def _part(root: Path, names: Sequence[str]) -> Path | None:
    return next((root / name for name in names if (root / name).is_dir()), None)


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _pictures(part: Path, classes: tuple[str, ...]) -> list[tuple[Path, int]]:
    labels = {name: i for i, name in enumerate(classes)}
    found = []
    for folder in _visible(part):
        if not folder.is_dir():
            continue
        if folder.name not in labels:
            raise DataError(f"{folder}: is a class that train/ does not have")
        for path in sorted(folder.rglob("*")):
            if path.is_dir() or path.name.startswith("."):
                continue
            if path.suffix.lower() in PICTURES:
                found.append((path, labels[folder.name]))
    return found


def _read(pictures: list[tuple[Path, int]], shape: tuple[int, int, int]) -> Split:
    from binjax.data.images import read_resized

    images: npt.NDArray[np.uint8] = np.empty((len(pictures), *shape), np.uint8)

    def read(i: int) -> None:
        images[i] = read_resized(pictures[i][0], shape)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(read, range(len(pictures))):
            pass  # the first error is raised here
    return Split(images, np.array([label for _, label in pictures], np.int32))
