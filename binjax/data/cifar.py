"""Reader of the binary version of CIFAR-10 and CIFAR-100.

Format: https://www.cs.toronto.edu/~kriz/cifar.html ("Binary version"): records of one label byte
(CIFAR-10) or two (CIFAR-100: coarse, fine) and 3,072 bytes of pixels, channel by channel.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from binjax.data.errors import DataError, unreadable

N_PIXELS = 32 * 32 * 3
_N_COARSE = 20
_PICKLE_PROTOCOL = b"\x80"
_PICKLE_NAMES = {f"data_batch_{i}" for i in range(1, 6)} | {"test_batch", "batches.meta"}
_PICKLE_FOLDERS = ("cifar-10-batches-py", "cifar-100-python")


def read_cifar(
    path: str | Path, classes: Literal[10, 100] = 10
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    """Read one file of records.

    Args:
        path: a file such as `data_batch_1.bin` or `train.bin`.
        classes: 10 or 100; for 100 the labels are the fine ones.

    Returns:
        images uint8 [n, 32, 32, 3] and labels int32 [n].

    Raises:
        DataError: unreadable; not a whole number of records; a label out of range; or the Python
            (pickle) version of the set, which is refused without being opened.
    """
    path = Path(path)
    if path.name in _PICKLE_FOLDERS or path.name in _PICKLE_NAMES:
        raise pickle_refused(path, classes)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from None
    if data[:1] == _PICKLE_PROTOCOL:
        raise pickle_refused(path, classes)

    n_label_bytes = 1 if classes == 10 else 2
    record = n_label_bytes + N_PIXELS
    if not data or len(data) % record:
        n = len(data) // record
        raise DataError(
            f"{path}: wrong size: expected a multiple of {record} bytes (CIFAR-{classes} records), "
            f"found {len(data)} = {n} records + {len(data) - n * record} bytes; get the file again"
        )
    records = np.frombuffer(data, np.uint8).reshape(-1, record)
    for column, n_labels in enumerate((10,) if classes == 10 else (_N_COARSE, 100)):
        _check(records[:, column], n_labels, path)
    pixels = records[:, n_label_bytes:].reshape(-1, 3, 32, 32)
    images = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))
    return images, records[:, n_label_bytes - 1].astype(np.int32)


def pickle_refused(path: Path, classes: int) -> DataError:
    """The error for the Python version of CIFAR, found at `path`."""
    return DataError(
        f"{path}: this is the Python version of CIFAR-{classes}, a pickle, and a pickle can run "
        f"any code when opened: take the binary version (cifar-{classes}-binary.tar.gz, or "
        f"`binjax data fetch cifar{classes}`)"
    )


def find_pickles(folder: Path) -> Path | None:
    """The first trace in `folder` of the Python version of CIFAR, or None."""
    names = (*_PICKLE_FOLDERS, "data_batch_1")
    if folder.name in _PICKLE_FOLDERS and folder.is_dir():
        return folder
    return next((folder / name for name in names if (folder / name).exists()), None)


def _check(labels: npt.NDArray[np.uint8], n_labels: int, path: Path) -> None:
    bad = np.flatnonzero(labels >= n_labels)
    if bad.size:
        raise DataError(
            f"{path}: label {labels[bad[0]]} of record {bad[0]} is out of range 0..{n_labels - 1}; "
            "the file is damaged or of another set: get it again"
        )
