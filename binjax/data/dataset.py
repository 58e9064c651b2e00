"""What an image set is: splits in memory, and facts that are known before it is read."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from binjax.data.errors import DataError

MIB = 2**20


@dataclass(frozen=True, eq=False)
class Split:
    """Images and labels held in memory, C-contiguous.

    Attributes:
        images: uint8 [n, h, w, c], 0..255; or float32, of prepared images.
        labels: int32 [n].
    """

    images: npt.NDArray[Any]
    labels: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: slice) -> Split:
        return Split(self.images[rows], self.labels[rows])


@dataclass(frozen=True, eq=False)
class Dataset:
    """The three splits of a set.

    Attributes:
        image_shape: (h, w, c) of what the network takes; images may be higher and wider, and are
            cropped on the way.
        classes: their names by label, where the set has names.
        origin: fingerprint of the set that this one was made from, and how; "" if from none.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    n_classes: int
    image_shape: tuple[int, int, int]
    classes: tuple[str, ...] = ()
    origin: str = ""

    def fingerprint(self) -> str:
        """Hex digest of all labels and sizes and of every 64th image: tells sets apart.

        That of a prepared set is of the pixels before, since floats differ between machines.
        """
        if self.origin:
            return self.origin
        digest = hashlib.sha256(repr((self.n_classes, self.image_shape)).encode())
        for split in (self.train, self.validation, self.test):
            digest.update(split.labels.astype("<i4").tobytes())
            digest.update(split.images[::64].tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Info:
    """Facts of the whole set; n_train counts before the validation images are taken off."""

    name: str
    image_shape: tuple[int, int, int]
    n_classes: int
    n_train: int
    n_test: int
    default_validation: int


def check_limits(limit_train: int | None, limit_test: int | None) -> None:
    """Refuse limits below 1."""
    for option, limit in (("limit_train", limit_train), ("limit_test", limit_test)):
        if limit is not None and limit < 1:
            raise DataError(f"{option} must be at least 1, got {limit}")


def check_memory(what: str, n_bytes: int, memory_gib: float) -> None:
    """Refuse images that would take more memory than allowed."""
    if n_bytes > memory_gib * 1024 * MIB:
        raise DataError(
            f"{what} would take {_mib(n_bytes)} MiB of memory, data.memory_gib = "
            f"{memory_gib:g} allows {_mib(memory_gib * 1024 * MIB)}; raise it, or take fewer "
            "(data.limit_train) or smaller images (data.image_size)"
        )


def _mib(n_bytes: float) -> str:
    return f"{n_bytes / MIB:,.0f}" if n_bytes >= 10 * MIB else f"{n_bytes / MIB:.2g}"


def count_train(name: str, n: int, validation: int) -> int:
    """Training images left of n when the last ``validation`` are taken off.

    Raises:
        DataError: none would be left, or a negative number.
    """
    if validation < 0 or n - validation < 1:
        raise DataError(
            f"{name}: validation must be from 0 to {n - 1} (the training files have {n} images), "
            f"got {validation}; set --data.validation"
        )
    return n - validation
