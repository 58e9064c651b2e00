"""The set that a Python function of the user's returns."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from binjax.data.dataset import Dataset, Split
from binjax.data.errors import DataError
from binjax.data.labelled import from_arrays, make_split, size_of

_WANTED = "(train images, train labels, test images, test labels)"


def call_function(reference: str) -> Dataset:
    """The set that a function of the user's returns; it is called without arguments.

    Args:
        reference: `package.module:function`, found from the current folder too, or
            `path/to/file.py:function`.

    Returns:
        What it returns, if that is a :class:`Dataset`; else the set of the four arrays
        (train images, train labels, test images, test labels), as
        :func:`~binjax.data.labelled.from_arrays` takes them.

    Raises:
        DataError: no such module or function, an error in it, or another result.
    """
    where = f"data.function {reference}"
    module, colon, name = reference.rpartition(":")
    if not colon or not module or not name:
        raise DataError(
            f"{where}: wanted package.module:function or file.py:function, got {reference!r}"
        )
    file = Path(module).expanduser() if module.endswith(".py") else None
    with _found_from(Path.cwd() if file is None else file.parent):
        with _errors_of(where, "importing it"):
            loaded = importlib.import_module(module) if file is None else _load_file(file)
        function: Callable[[], Any] | None = getattr(loaded, name, None)
        if not callable(function):
            problem = "has no function" if function is None else "has no callable"
            raise DataError(f"{where}: {module} {problem} {name!r}")
        with _errors_of(where, "calling it"):
            found = function()
    if isinstance(found, Dataset):
        _check_fields(where, found)
        parts = {
            part: make_split(
                where, split.images, split.labels, (f"{part} images", f"{part} labels")
            )
            for part in ("train", "validation", "test")
            for split in (getattr(found, part),)
        }
        _check_dataset(where, found, parts)
        return replace(found, **parts)  # type: ignore[arg-type]
    if not isinstance(found, tuple | list) or len(found) != 4:
        what = type(found).__name__
        what += f" of {len(found)}" if isinstance(found, tuple | list) else ""
        raise DataError(f"{where}: returned a {what}; wanted {_WANTED} or a binjax.data.Dataset")
    return from_arrays(where, *found)


def _check_fields(where: str, found: Dataset) -> None:
    for part in ("train", "validation", "test"):
        if not isinstance(getattr(found, part), Split):
            raise DataError(f"{where}: {part} is no binjax.data.Split")
    shape, n_classes = found.image_shape, found.n_classes
    whole = isinstance(shape, tuple | list) and all(isinstance(size, int) for size in shape)
    if not whole or len(shape) != 3:
        raise DataError(f"{where}: image_shape is {shape!r}; wanted (height, width, channels)")
    if isinstance(n_classes, bool) or not isinstance(n_classes, int | np.integer) or n_classes < 1:
        raise DataError(f"{where}: n_classes is {n_classes!r}; wanted an integer above 0")


def _check_dataset(where: str, found: Dataset, parts: dict[str, Split]) -> None:
    for part, split in parts.items():
        shape = split.images.shape[1:]
        if shape != tuple(found.image_shape):
            raise DataError(
                f"{where}: {part} images are {size_of(split.images)}, image_shape says "
                f"{'x'.join(map(str, found.image_shape))}"
            )
        if len(split) and split.labels.max() >= found.n_classes:
            raise DataError(
                f"{where}: {part} labels go to {split.labels.max()}, n_classes = {found.n_classes}"
            )
    for part, words in (("train", "training"), ("test", "test")):
        if not len(parts[part]):
            raise DataError(f"{where}: the {words} set is empty")
    kinds = {part: split.images.dtype for part, split in parts.items() if len(split)}
    if len(set(kinds.values())) > 1:
        said = ", ".join(f"{part} {dtype}" for part, dtype in kinds.items())
        raise DataError(f"{where}: images must be alike, but are of {said}")


@contextmanager
def _found_from(folder: Path) -> Iterator[None]:
    """Modules of a folder can be imported, as those beside a script can."""
    place = str(folder.resolve())
    sys.path.insert(0, place)
    try:
        yield
    finally:
        if place in sys.path:
            sys.path.remove(place)


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None, "a .py file has a loader"
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(spec.name)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        raise
    finally:
        if before is not None:  # a library's, which the file only shares its name with
            sys.modules[spec.name] = before
    return module


@contextmanager
def _errors_of(where: str, doing: str) -> Iterator[None]:
    """Any error of the user's own code as one line that names the function."""
    try:
        yield
    except (Exception, SystemExit) as error:
        why = (str(error).strip().splitlines() or [""])[0]
        raise DataError(f"{where}: {doing} raised {type(error).__name__}: {why}") from error
