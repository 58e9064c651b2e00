"""Order, seeking and padding of batches."""

import numpy as np
import pytest

from binjax.data import (
    DataError,
    Split,
    epoch_order,
    eval_batches,
    n_batches,
    train_batches,
)

N = 103  # prime: no batch size divides it
SPLIT = Split(
    np.random.default_rng(0).integers(0, 256, (N, 4, 3, 2), dtype=np.uint8),
    np.arange(N, dtype=np.int32),
)


def test_epoch_order_is_a_stable_permutation():
    assert np.array_equal(np.sort(epoch_order(3, 5, N)), np.arange(N))
    assert np.array_equal(epoch_order(3, 5, N), epoch_order(3, 5, N))
    assert not np.array_equal(epoch_order(3, 5, N), epoch_order(3, 6, N))
    assert not np.array_equal(epoch_order(3, 5, N), epoch_order(4, 5, N))
    assert not np.array_equal(epoch_order(1, 2, N), epoch_order(2, 1, N))
    # Recorded: a change here would silently change every published run.
    assert epoch_order(0, 0, 10).tolist() == ORDER_0_0_10
    assert epoch_order(42, 7, 10).tolist() == ORDER_42_7_10
    assert epoch_order(0, 0, 0).shape == (0,)
    with pytest.raises(DataError, match=">= 0"):
        epoch_order(-1, 0, 5)


ORDER_0_0_10 = [0, 8, 9, 3, 7, 5, 1, 2, 6, 4]
ORDER_42_7_10 = [8, 7, 1, 9, 4, 5, 0, 2, 6, 3]


def test_train_batches_follow_the_order_and_drop_the_rest():
    batches = list(train_batches(SPLIT, 10, seed=1, epoch=2))
    assert len(batches) == n_batches(N, 10) == 10
    order = epoch_order(1, 2, N)
    labels = np.concatenate([labels for _, labels in batches])
    images = np.concatenate([images for images, _ in batches])
    assert np.array_equal(labels, order[:100])
    assert np.array_equal(images, SPLIT.images[order[:100]])
    assert images.dtype == np.uint8 and labels.dtype == np.int32


def test_start_continues_exactly():
    whole = list(train_batches(SPLIT, 10, 1, 2))
    for start in (0, 1, 9, 10):
        rest = list(train_batches(SPLIT, 10, 1, 2, start))
        assert len(rest) == 10 - start
        for (images, labels), (want_images, want_labels) in zip(rest, whole[start:], strict=True):
            assert np.array_equal(images, want_images)
            assert np.array_equal(labels, want_labels)


def test_train_batches_are_fresh_arrays():
    for images, labels in train_batches(SPLIT, N, 0, 0):
        assert not np.shares_memory(images, SPLIT.images)
        assert not np.shares_memory(labels, SPLIT.labels)


def test_refusals_come_from_the_call():
    with pytest.raises(DataError, match="larger than the training set \\(103 images\\)"):
        train_batches(SPLIT, N + 1, 0, 0)
    with pytest.raises(DataError, match="at least 1"):
        train_batches(SPLIT, 0, 0, 0)
    with pytest.raises(DataError, match=r"out of range 0\.\.10"):
        train_batches(SPLIT, 10, 0, 0, start=11)
    with pytest.raises(DataError, match="out of range"):
        train_batches(SPLIT, 10, 0, 0, start=-1)
    with pytest.raises(DataError, match="at least 1"):
        eval_batches(SPLIT, 0)


@pytest.mark.parametrize("batch_size", [1, 10, 102, 103, 104, 500])
def test_eval_batches_cover_everything_in_one_shape(batch_size):
    seen = []
    for images, labels, valid in eval_batches(SPLIT, batch_size):
        assert images.shape == (batch_size, 4, 3, 2) and labels.shape == (batch_size,)
        assert images.dtype == np.uint8 and labels.dtype == np.int32
        assert np.array_equal(images, SPLIT.images[labels])
        assert np.all(labels[valid:] == 0)
        seen += labels[:valid].tolist()
    assert seen == list(range(N))


def test_eval_batches_of_nothing():
    assert list(eval_batches(SPLIT[:0], 10)) == []
