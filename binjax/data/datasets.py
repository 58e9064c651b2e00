"""The image sets, their facts, and `load`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from binjax.data import embedded
from binjax.data.cifar import find_pickles, pickle_refused, read_cifar
from binjax.data.custom import CUSTOM, Custom
from binjax.data.dataset import Dataset, Info, Split, check_limits, count_train
from binjax.data.errors import DataError, unknown_name
from binjax.data.idx import read_idx
from binjax.data.paths import find_directory, find_file, search_folders
from binjax.data.resize import resized
from binjax.data.stl10 import read_stl10
from binjax.data.svhn import read_svhn

Arrays = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]


# Validation sizes: BinaryNet's Theano code, which takes them from pylearn2: the last 10,000 and
# 5,000 images; for SVHN 6,000 drawn from train and extra (pylearn2/datasets/svhn.py).
# STL-10 names none: the last tenth.
INFO: dict[str, Info] = {
    info.name: info
    for info in (
        Info("fashion-mnist-12k", (28, 28, 1), 10, 10_000, 2_000, 1_000),
        Info("mnist", (28, 28, 1), 10, 60_000, 10_000, 10_000),
        Info("fashion-mnist", (28, 28, 1), 10, 60_000, 10_000, 10_000),
        Info("cifar10", (32, 32, 3), 10, 50_000, 10_000, 5_000),
        Info("cifar100", (32, 32, 3), 100, 50_000, 10_000, 5_000),
        Info("stl10", (96, 96, 3), 10, 5_000, 8_000, 500),
        Info("svhn", (32, 32, 3), 10, 73_257 + 531_131, 26_032, 6_000),
    )
}
DATASETS: tuple[str, ...] = tuple(INFO)

_IDX_TRAIN = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz")
_IDX_TEST = ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")
_FILES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "mnist": (_IDX_TRAIN, _IDX_TEST),
    "fashion-mnist": (_IDX_TRAIN, _IDX_TEST),
    "cifar10": (tuple(f"data_batch_{i}.bin" for i in range(1, 6)), ("test_batch.bin",)),
    "cifar100": (("train.bin",), ("test.bin",)),
    "stl10": (("train_X.bin", "train_y.bin"), ("test_X.bin", "test_y.bin")),
    "svhn": (("train_32x32.mat", "extra_32x32.mat"), ("test_32x32.mat",)),
}
_SEVERAL_TRAIN_FILES = ("cifar10", "svhn")
# MNIST and Fashion-MNIST have the same file names and sizes: only the content tells them apart.
_FIRST_TEST_LABELS = {
    "mnist": [7, 2, 1, 0, 4, 1, 4, 9, 5, 9, 0, 6, 9, 0, 1, 5],
    "fashion-mnist": [9, 2, 1, 1, 6, 1, 4, 6, 5, 7, 4, 5, 7, 3, 4, 1],
}


def describe(
    name: str,
    *,
    directory: str | Path | None = None,
    file: str | Path | None = None,
    function: str | None = None,
    image_size: tuple[int, int] | None = None,
    channels: int = 3,
) -> Info:
    """Size, classes and numbers of images of a set, from its table or files; arguments as `load`'s.

    Raises:
        DataError: unknown name; a set of the user's own that is not there or not as it should be.
    """
    if name in CUSTOM:
        info = Custom(name, directory, file, function, image_size, channels).describe()
    elif name in INFO:
        info = INFO[name]
    else:
        raise unknown_name(name, (*DATASETS, *CUSTOM))
    return replace(info, image_shape=(*(image_size or info.image_shape[:2]), info.image_shape[2]))


def load(
    name: str,
    *,
    directory: str | Path | None = None,
    validation: int | None = None,
    train_files: Sequence[str] | None = None,
    limit_train: int | None = None,
    limit_test: int | None = None,
    file: str | Path | None = None,
    function: str | None = None,
    image_size: tuple[int, int] | None = None,
    channels: int = 3,
    memory_gib: float = 8.0,
) -> Dataset:
    """Read a set into memory and split it. Nothing is downloaded.

    Args:
        name: one of `DATASETS`, or of `CUSTOM`: "folder", "npz", "python", the user's own.
            "fashion-mnist-12k" comes with the package and needs no folder.
        directory: where the files are; None: `$BINJAX_DATA_DIR`, else the user's cache. Files
            may lie in it, in its subfolder `name`, or in the official archive's folder. Of
            "folder": the folder itself.
        validation: number of images taken from the end of the training set; None: the set's
            default; 0: an empty validation split. For SVHN the end is the end of "extra".
        train_files: for cifar10 and svhn: the training files to use in place of all, such as
            ["data_batch_1.bin"], or ["train_32x32.mat"] for SVHN without "extra".
        limit_train: keep only the first so many training images (after validation is taken).
        limit_test: keep only the first so many validation and test images.
        image_size: (height, width) that images are cut and resized to; a "folder" needs it.
        file, function, channels, memory_gib: of the user's own sets, see
            :class:`binjax.data.custom.Custom`.

    Returns:
        The set; images uint8 [n, h, w, c], labels int32 [n].

    Raises:
        DataError: unknown name, missing or damaged files, or an argument out of range.
    """
    if name in CUSTOM:
        if train_files is not None:
            _check_train_files(name, train_files)
        own = Custom(name, directory, file, function, image_size, channels, memory_gib)
        return resized(own.load(validation, limit_train, limit_test), image_size, memory_gib)
    if name not in INFO:
        raise unknown_name(name, (*DATASETS, *CUSTOM))
    info = INFO[name]
    check_limits(limit_train, limit_test)
    if train_files is not None:
        _check_train_files(name, train_files)

    if name == embedded.NAME:
        train, test = (_idx_split(*part, info) for part in embedded.read())
    else:
        train, test = _load_files(info, directory, train_files)

    n_validation = info.default_validation if validation is None else validation
    n_train = count_train(name, len(train), n_validation)
    found = Dataset(
        name=name,
        train=train[:n_train][:limit_train],
        validation=train[n_train:][:limit_test],
        test=test[:limit_test],
        n_classes=info.n_classes,
        image_shape=info.image_shape,
    )
    return resized(found, image_size, memory_gib)


def _check_train_files(name: str, train_files: Sequence[str]) -> None:
    if name not in _SEVERAL_TRAIN_FILES:
        raise DataError(
            f"{name}: train_files is only for {' and '.join(_SEVERAL_TRAIN_FILES)}; leave it out"
        )
    known = _FILES[name][0]
    wrong = [file for file in train_files if file not in known]
    if isinstance(train_files, str) or wrong or not train_files:
        raise DataError(
            f"{name}: train_files {json.dumps(train_files)}: give a list of one or more of "
            f"{', '.join(known)}"
        )
    if len(set(train_files)) < len(train_files):
        raise DataError(f"{name}: train_files names a file twice: {json.dumps(train_files)}")


def _load_files(
    info: Info, directory: str | Path | None, train_files: Sequence[str] | None
) -> tuple[Split, Split]:
    train_names, test_names = _FILES[info.name]
    if train_files is not None:
        train_names = tuple(train_files)
    folders = search_folders(find_directory(directory), info.name)
    found = {file: find_file(file, folders) for file in (*train_names, *test_names)}
    if None in found.values():
        raise _missing(info.name, found, folders, train_names)
    train, test = ([Path(found[f] or "") for f in names] for names in (train_names, test_names))

    if info.name.endswith("mnist"):
        _check_not_mixed_up(info.name, test[1])
        return _idx_pair(train, info), _idx_pair(test, info)
    if info.name == "stl10":
        return Split(*read_stl10(*train)), Split(*read_stl10(*test))
    return _join(train, info), _join(test, info)


def _missing(
    name: str, found: dict[str, Path | None], folders: list[Path], train_names: Sequence[str]
) -> DataError:
    missing = [file for file, path in found.items() if path is None]
    there = [file for file in train_names if found[file] is not None]
    message = (
        f"{name}: missing {', '.join(missing)}; looked in {', '.join(map(str, folders))}: "
        f"run `binjax data fetch {name}`, or name the folder with --data.dir DIR"
    )
    if name in _SEVERAL_TRAIN_FILES and 0 < len(there) < len(train_names):
        message += f", or use only what is there with --data.train-files '{json.dumps(there)}'"
    if name.startswith("cifar"):
        pickles = next(filter(None, map(find_pickles, folders)), None)
        if pickles is not None:
            message += f" ({pickle_refused(pickles, INFO[name].n_classes)})"
    return DataError(message)


def _join(paths: list[Path], info: Info) -> Split:
    parts: list[Arrays] = []
    for path in paths:
        if info.name == "svhn":
            parts.append(read_svhn(path))
        else:
            parts.append(read_cifar(path, 10 if info.n_classes == 10 else 100))
    if len(parts) == 1:
        return Split(*parts[0])
    images, labels = zip(*parts, strict=True)
    return Split(np.concatenate(images), np.concatenate(labels))


def _idx_pair(paths: Sequence[Path], info: Info) -> Split:
    images_path, labels_path = paths
    return _idx_split(read_idx(images_path), read_idx(labels_path), images_path, labels_path, info)


def _idx_split(
    images: npt.NDArray[Any],
    labels: npt.NDArray[Any],
    images_path: Path,
    labels_path: Path,
    info: Info,
) -> Split:
    if images.dtype != np.uint8 or images.shape[1:] != info.image_shape[:2]:
        raise DataError(
            f"{images_path}: holds {images.dtype} {images.shape}, expected uint8 images "
            f"{('n', *info.image_shape[:2])} of {info.name}"
        )
    if labels.dtype != np.uint8 or labels.ndim != 1:
        raise DataError(
            f"{labels_path}: holds {labels.dtype} {labels.shape}, expected uint8 labels (n,)"
        )
    if len(images) != len(labels):
        raise DataError(
            f"{images_path} has {len(images)} images but {labels_path} has {len(labels)} labels; "
            "get both again"
        )
    bad = np.flatnonzero(labels >= info.n_classes)
    if bad.size:
        raise DataError(
            f"{labels_path}: label {labels[bad[0]]} at index {bad[0]} is out of range "
            f"0..{info.n_classes - 1}; the file is damaged or of another set: get it again"
        )
    return Split(images[..., None], labels.astype(np.int32))


def _check_not_mixed_up(name: str, labels_path: Path) -> None:
    first = read_idx(labels_path).reshape(-1)[:16].tolist()
    for other, labels in _FIRST_TEST_LABELS.items():
        if other != name and first == labels:
            raise DataError(
                f"{labels_path}: asked for {name}, but these are the labels of {other}; "
                f"keep the files of each set in a folder of its own ({name}/, {other}/)"
            )
