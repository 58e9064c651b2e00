"""The set that comes with the package: a part of Fashion-MNIST.

Real images: the first 10,000 training and the first 2,000 test images of Fashion-MNIST (Xiao,
Rasul, Vollgraf 2017, arXiv:1708.07747; © 2017 Zalando SE, MIT licence, see the NOTICE beside the
files), in IDX files made by `scripts/make_embedded.py`.
"""

from __future__ import annotations

import hashlib
from importlib import resources
from pathlib import Path
from typing import Any

import numpy.typing as npt

from binjax.data.errors import DataError
from binjax.data.idx import read_idx

NAME = "fashion-mnist-12k"
FOLDER = "fashion_mnist_12k"
SHA256: dict[str, str] = {
    f"{stem}-ubyte.gz": sha256
    for stem, sha256 in (
        ("train-images-idx3", "1be733b5e3563a3e09249eaf2860ab906050f4ad092514fd69643a971f092eef"),
        ("train-labels-idx1", "61a6840eba903a1624db1cd180742787f58a96a5d569dcbab532ea0bbd943a75"),
        ("t10k-images-idx3", "a2d469e967c6f16f941e652e24b2bc5422a63b1a71325ff49da1bb5a3350b4dc"),
        ("t10k-labels-idx1", "09e12ea2704e7fc948433dfc4fc0c69cf8e2e18611cf6b3b80e6ad82dec4dcba"),
    )
}

Part = tuple[npt.NDArray[Any], npt.NDArray[Any], Path, Path]


def read() -> tuple[Part, Part]:
    """Read the training and the test part, checking each file's sha256.

    Returns:
        Two tuples (images uint8 [n, 28, 28], labels uint8 [n], images' path, labels' path).

    Raises:
        DataError: a file of the installed package is missing or damaged.
    """
    arrays = {file: _read_checked(file) for file in SHA256}
    (a, b), (c, d) = (
        (arrays[f"{part}-images-idx3-ubyte.gz"], arrays[f"{part}-labels-idx1-ubyte.gz"])
        for part in ("train", "t10k")
    )
    return (a[0], b[0], a[1], b[1]), (c[0], d[0], c[1], d[1])


def folder() -> Path:
    """The installed folder of the files; a package inside a zip has none."""
    return Path(str(resources.files("binjax.data").joinpath(FOLDER)))


def _read_checked(file: str) -> tuple[npt.NDArray[Any], Path]:
    with resources.as_file(resources.files("binjax.data").joinpath(FOLDER, file)) as path:
        try:
            found = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise DataError(
                f"{path}: a file of the package cannot be read ({error.strerror}): "
                "install binjax again"
            ) from None
        if found != SHA256[file]:
            raise DataError(
                f"{path}: damaged: expected sha256 {SHA256[file]}, found {found}: "
                "install binjax again"
            )
        return read_idx(path), path
