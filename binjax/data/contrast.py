"""Preparation of whole sets, in numpy: contrast normalisation and whitening.

GCN and ZCA are pylearn2's (`expr/preprocessing.py`, `datasets/preprocessing.py`), which made
BinaryNet's CIFAR-10; but images of one colour are divided by `min_divisor`, there by 1. LCN is that
of Jarrett et al., ICCV 2009, per channel, as BinaryNet's SVHN had it in channel 0 (a slip of the
reference; here all channels are normalised).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from binjax.data.errors import DataError

Floats = npt.NDArray[np.float32]
Images = npt.NDArray[Any]

MOST_PIXELS = 64 * 64 * 3
"""Of an image that ZCA takes: their covariance's eigenvectors cost the third power of it."""
_BYTES = 2**27  # of what is computed at a time, in float64


class Whitening(NamedTuple):
    """ZCA: ``(x - mean) @ matrix`` of images laid out in a row.

    Attributes:
        mean: float32 [d].
        matrix: float32 [d, d], symmetric.
    """

    mean: Floats
    matrix: Floats


def gcn(
    images: Images,
    *,
    scale: float = 1.0,
    subtract_mean: bool = True,
    use_std: bool = True,
    sqrt_bias: float = 0.0,
    min_divisor: float = 1e-8,
) -> Floats:
    """Global contrast normalisation: each image less its mean, over its deviation or norm.

    ``scale · (x - mean) / max(sqrt(sqrt_bias + var), min_divisor)``; pylearn2's CIFAR-10 is
    ``use_std=False, scale=55``.

    Args:
        images: [n, h, w, c], any real dtype.
        scale: > 0, what the deviation (or norm) becomes.
        subtract_mean: whether the mean is subtracted.
        use_std: divide by the deviation of the image's pixels, with n - 1, else by its norm.
        sqrt_bias: ≥ 0, added under the root.
        min_divisor: > 0, the least an image is divided by; of images of one colour.

    Returns:
        float32 of the same shape, computed in float64.
    """
    found = np.empty(images.shape, np.float32)
    for rows in _chunks(images):
        x = images[rows].reshape(len(images[rows]), -1).astype(np.float64)
        mean = x.mean(1, keepdims=True)
        if use_std:
            square = np.square(x - mean).sum(1, keepdims=True) / max(x.shape[1] - 1, 1)
        else:
            square = np.square(x - mean if subtract_mean else x).sum(1, keepdims=True)
        if subtract_mean:
            x -= mean
        x *= scale / np.maximum(np.sqrt(sqrt_bias + square), min_divisor)
        found[rows] = x.reshape(-1, *images.shape[1:])
    return found


def lcn(images: Images, *, size: int = 9, sigma: float = 2.0, threshold: float = 1e-4) -> Floats:
    """Local contrast normalisation, each channel alone.

    With a Gaussian window G of weights that add up to 1, and zeros beyond the border:
    ``v = x - G*x``, ``s = sqrt(G*v²)``, ``v / max(s, mean of s, threshold)``.

    Args:
        images: [n, h, w, c], any real dtype.
        size: of the window, odd.
        sigma: of the Gaussian, pixels.
        threshold: > 0, the least that is divided by.

    Returns:
        float32 of the same shape.
    """
    down, across = (_gaussian_band(length, size, sigma) for length in images.shape[1:3])
    found = np.empty(images.shape, np.float32)
    for rows in _chunks(images):
        planes = np.moveaxis(images[rows], 3, 1).astype(np.float32)  # [n, c, h, w]
        centred = planes - down @ planes @ across
        # Sums of squares, which rounding cannot make negative: weights are positive.
        deviation = np.sqrt(down @ np.square(centred) @ across)
        least = np.maximum(deviation.mean((2, 3), keepdims=True), np.float32(threshold))
        found[rows] = np.moveaxis(centred / np.maximum(deviation, least), 1, 3)
    return found


def fit_zca(images: Images, *, filter_bias: float = 0.1) -> Whitening:
    """Whitening that stays closest to the images: ``V (Λ + bias)^(-1/2) Vᵀ`` of the covariance.

    The covariance is over n, not n - 1. Where there are fewer images than pixels, the Gram matrix
    of the images gives the same.

    Args:
        images: [n, h, w, c] of the training set, any real dtype, n ≥ 1.
        filter_bias: > 0, added to each eigenvalue Λ.

    Returns:
        Mean and matrix, computed in float64.

    Raises:
        DataError: images of more than `MOST_PIXELS` numbers; values that are not finite.
    """
    n = len(images)
    d = int(np.prod(images.shape[1:]))
    if d > MOST_PIXELS:
        raise DataError(
            f"zca: images of {'x'.join(map(str, images.shape[1:]))} have {d:,} numbers, more than "
            f"{MOST_PIXELS:,}: their covariance is too large; take smaller ones or gcn and lcn"
        )
    flat = images.reshape(n, d)
    mean = np.zeros(d)
    for rows in _chunks(images):
        mean += flat[rows].sum(0, dtype=np.float64)
    mean /= n
    if not np.isfinite(mean).all():
        raise DataError("zca: the images hold values that are not finite")
    if n < d:
        x = flat - mean
        values, rotation = np.linalg.eigh(x @ x.T / n)
        values = np.maximum(values, 0)
        kept = values > values[-1] * n * np.finfo(np.float64).eps
        vectors = x.T @ (rotation[:, kept] / np.sqrt(n * values[kept]))
        rest = 1 / np.sqrt(filter_bias)
        factors = 1 / np.sqrt(values[kept] + filter_bias) - rest
        matrix = (vectors * factors) @ vectors.T
        matrix[np.diag_indices(d)] += rest
    else:
        covariance: npt.NDArray[Any] = np.zeros((d, d))
        for rows in _chunks(images):
            x = flat[rows] - mean
            covariance += x.T @ x
        spectrum: tuple[npt.NDArray[Any], npt.NDArray[Any]] = np.linalg.eigh(covariance / n)
        values, vectors = spectrum
        matrix = (vectors / np.sqrt(np.maximum(values, 0) + filter_bias)) @ vectors.T
    return Whitening(mean.astype(np.float32), matrix.astype(np.float32))


def whiten(images: Images, whitening: Whitening) -> Floats:
    """The images whitened, float32 of the same shape."""
    found = np.empty(images.shape, np.float32)
    for rows in _chunks(images):
        x = images[rows].reshape(-1, len(whitening.mean)).astype(np.float32)
        x -= whitening.mean
        found[rows] = (x @ whitening.matrix).reshape(-1, *images.shape[1:])
    return found


def mean_and_deviation(images: Images, *, per_channel: bool) -> tuple[list[float], list[float]]:
    """Mean and deviation (over n) of all pixels, of each channel or of all.

    Args:
        images: [n, h, w, c], n ≥ 1, uint8 or float.
        per_channel: a number for each channel, else one.

    Returns:
        Means and deviations, computed in float64.
    """
    channels = images.shape[3] if per_channel else 1
    total, square = np.zeros(channels), np.zeros(channels)
    for rows in _chunks(images):
        total += images[rows].reshape(-1, channels).sum(0, dtype=np.float64)
    mean = total / (images.size / channels)
    for rows in _chunks(images):
        square += np.square(images[rows].reshape(-1, channels) - mean).sum(0)
    deviation = np.sqrt(square / (images.size / channels))
    return mean.tolist(), deviation.tolist()


def _gaussian_band(length: int, size: int, sigma: float) -> Floats:
    """[length, length]: a row vector times it is smoothed, with zeros beyond the ends.

    A window's Gaussian is a product of two of these, and so is its normalisation.
    """
    offset = np.subtract.outer(np.arange(length), np.arange(length))
    window = np.arange(size) - size // 2
    total = np.exp(-(window**2) / (2 * sigma**2)).sum()
    weights = np.exp(-(offset**2) / (2 * sigma**2)) / total
    return np.where(np.abs(offset) <= size // 2, weights, 0).astype(np.float32)


def _chunks(images: Images) -> Iterator[slice]:
    """Rows of as many images as are computed at a time."""
    step = max(1, _BYTES // (8 * max(1, images[:1].size)))
    for start in range(0, len(images), step):
        yield slice(start, start + step)
