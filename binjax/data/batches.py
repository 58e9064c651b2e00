"""Batches of a set that is held in memory.

The whole state of training input is (seed, epoch, start): no object has to be saved.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from binjax.data.dataset import Split
from binjax.data.errors import DataError

Images = npt.NDArray[Any]
Labels = npt.NDArray[np.int32]


def epoch_order(seed: int, epoch: int, n: int) -> npt.NDArray[np.intp]:
    """The order of the n examples in an epoch.

    Sorts n raw Philox words: NumPy promises that bit generators and `SeedSequence` never change
    (NEP 19), but promises nothing of the kind for `Generator.permutation`.

    Args:
        seed: ≥ 0.
        epoch: ≥ 0.
        n: number of examples.

    Returns:
        A permutation of 0..n-1, integer [n], the same on every machine and NumPy version.

    Raises:
        DataError: a negative argument.
    """
    if seed < 0 or epoch < 0 or n < 0:
        raise DataError(f"seed, epoch and n must be >= 0, got {seed}, {epoch}, {n}")
    words = np.random.Philox(np.random.SeedSequence([seed, epoch])).random_raw(n)
    return np.argsort(words, kind="stable")


def n_batches(n: int, batch_size: int) -> int:
    """Number of whole batches in n examples; what is left over is dropped.

    Raises:
        DataError: batch_size < 1 or > n.
    """
    _check_batch_size(batch_size)
    if batch_size > n:
        raise DataError(
            f"batch size {batch_size} is larger than the training set ({n} images); "
            "choose a smaller one"
        )
    return n // batch_size


def train_batches(
    split: Split, batch_size: int, seed: int, epoch: int, start: int = 0
) -> Iterator[tuple[Images, Labels]]:
    """The batches of one epoch, shuffled; the last partial batch is dropped.

    Args:
        split: the training set.
        batch_size: 1..len(split).
        seed: ≥ 0.
        epoch: ≥ 0; each epoch has its own order.
        start: number of batches to skip, 0..n_batches; skipping costs nothing.

    Returns:
        Iterator of (images [batch_size, h, w, c], labels int32 [batch_size]), fresh arrays.

    Raises:
        DataError: an argument out of range (raised by the call, not by the first batch).
    """
    n = n_batches(len(split), batch_size)
    if not 0 <= start <= n:
        raise DataError(f"start batch {start} is out of range 0..{n}")
    order = epoch_order(seed, epoch, len(split))

    def batches() -> Iterator[tuple[Images, Labels]]:
        for i in range(start, n):
            rows = order[i * batch_size : (i + 1) * batch_size]
            yield np.take(split.images, rows, axis=0), np.take(split.labels, rows)

    return batches()


def eval_batches(split: Split, batch_size: int) -> Iterator[tuple[Images, Labels, int]]:
    """All of a split in order, in batches of one shape.

    Args:
        split: the set; an empty one gives no batches.
        batch_size: ≥ 1.

    Returns:
        Iterator of (images [batch_size, h, w, c], labels int32 [batch_size], valid). The
        last batch is padded with copies of the split's row 0; only its first `valid` rows count.
        Whole batches are views of the split.

    Raises:
        DataError: batch_size < 1.
    """
    _check_batch_size(batch_size)

    def batches() -> Iterator[tuple[Images, Labels, int]]:
        for first in range(0, len(split), batch_size):
            images = split.images[first : first + batch_size]
            labels = split.labels[first : first + batch_size]
            valid = len(labels)
            if valid < batch_size:
                rows = np.zeros(batch_size, np.intp)
                rows[:valid] = np.arange(first, first + valid)
                images, labels = np.take(split.images, rows, axis=0), np.take(split.labels, rows)
            yield images, labels, valid

    return batches()


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise DataError(f"batch size must be at least 1, got {batch_size}")
