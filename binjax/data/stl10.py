"""Reader of STL-10's labelled images, https://cs.stanford.edu/~acoates/stl10/ (binary version).

`train_X.bin` and `test_X.bin` hold images of 96 x 96, channel by channel, each column by column;
`train_y.bin` and `test_y.bin` a byte for each, 1..10.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from binjax.data.errors import DataError, unreadable

_SHAPE = (3, 96, 96)  # channel, column, row
_N_PIXELS = 3 * 96 * 96


def read_stl10(
    images_path: str | Path, labels_path: str | Path
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    """Read a pair of files.

    Returns:
        images uint8 [n, 96, 96, 3] and labels int32 [n], 0..9.

    Raises:
        DataError: missing, not a whole number of images, another number of labels, or a label out
            of range.
    """
    pixels, labels = _bytes(Path(images_path)), _bytes(Path(labels_path))
    n = len(pixels) // _N_PIXELS
    if not n or len(pixels) % _N_PIXELS:
        raise DataError(
            f"{images_path}: wrong size: expected a multiple of {_N_PIXELS} bytes (images of "
            f"96x96x3), found {len(pixels)}; get the file again"
        )
    if len(labels) != n:
        raise DataError(
            f"{images_path} has {n} images but {labels_path} has {len(labels)} labels; get both "
            "again"
        )
    bad = np.flatnonzero((labels < 1) | (labels > 10))
    if bad.size:
        raise DataError(
            f"{labels_path}: label {labels[bad[0]]} at index {bad[0]} is out of range 1..10; the "
            "file is damaged: get it again"
        )
    images = np.ascontiguousarray(pixels.reshape(n, *_SHAPE).transpose(0, 3, 2, 1))
    return images, labels.astype(np.int32) - 1


def _bytes(path: Path) -> npt.NDArray[np.uint8]:
    try:
        return np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise unreadable(path, error) from None
