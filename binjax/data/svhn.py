"""Reader of SVHN's cropped digits ("format 2"), http://ufldl.stanford.edu/housenumbers/.

A MATLAB file with X, uint8 [32, 32, 3, n], and y, [n, 1], where the digit 0 has label 10.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from binjax.data.errors import DataError
from binjax.data.mat import read_mat


def read_svhn(path: str | Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    """Read a file such as `train_32x32.mat`.

    Args:
        path: the file.

    Returns:
        images uint8 [n, 32, 32, 3] and labels int32 [n], 0..9.

    Raises:
        DataError: missing, damaged, lacking X or y, of wrong shapes or types, or with a label
            out of range.
    """
    path = Path(path)
    content = read_mat(path, ("X", "y"))
    missing = [key for key in ("X", "y") if key not in content]
    if missing:
        raise DataError(
            f"{path}: lacks {' and '.join(missing)}: not a file of SVHN's cropped digits "
            "(train_32x32.mat, test_32x32.mat, extra_32x32.mat)"
        )
    x, y = content["X"], content["y"]
    if x.dtype != np.uint8 or x.ndim != 4 or x.shape[:3] != (32, 32, 3):
        raise DataError(f"{path}: X is {x.dtype} {x.shape}, expected uint8 (32, 32, 3, n)")
    if y.size != x.shape[3] or y.dtype.kind not in "iuf":
        raise DataError(f"{path}: {x.shape[3]} images but y is {y.dtype} {y.shape}")
    labels = y.reshape(-1)
    bad = np.flatnonzero(~np.isin(labels, np.arange(1, 11)))
    if bad.size:
        raise DataError(
            f"{path}: label {labels[bad[0]]} of image {bad[0]} is out of range 1..10; "
            "the file is damaged: get it again"
        )
    images = np.ascontiguousarray(x.transpose(3, 0, 1, 2))
    return images, (labels % 10).astype(np.int32)
