"""Windows of 8-bit images as rows of a matrix, a bounded number of them at a time."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from binjax.xnor.geometry import Geometry, Pair
from binjax.xnor.pixel_scale import centered

PATCH_BYTES = 1 << 26  # of the windows that exist at a time


def over_windows(
    function: Callable[..., jax.Array],
    x: jax.Array,
    *rows: jax.Array,
    kernel: Pair,
    geometry: Geometry,
) -> jax.Array:
    """``function`` of the windows of all images, a bounded number of their rows at a time.

    Args:
        function: of ``float32[n, r, ow, kh kw C]``, windows of r rows of the output, a border
            counting 0, and of those rows of each of ``rows``.
        x: ``uint8[n, h, w, C]``.
        rows: arrays ``[n, oh, ...]``. Past the last row they are continued with zeros.
        kernel: (kh, kw).
        geometry: of the convolution.

    Returns:
        What ``function`` returned, ``[blocks, ...]``; one block is all rows.
    """
    (high, wide), (down, right) = geometry.output(x.shape[1:3], kernel), geometry.strides
    n, channels = x.shape[0], x.shape[3]
    bytes_of_all = 4 * n * high * wide * kernel[0] * kernel[1] * channels
    # Not an int: a named dimension of jax.export's
    n_blocks = -(-bytes_of_all // PATCH_BYTES) if isinstance(n, int) else 1
    block = -(-high // max(n_blocks, 1))
    n_blocks = -(-high // block)

    top, bottom, left, right_border = geometry.padding
    length = (block - 1) * down + (kernel[0] - 1) * geometry.dilation[0] + 1
    bottom = max(bottom, (n_blocks - 1) * block * down + length - top - x.shape[1])
    images = jnp.pad(centered(x), ((0, 0), (top, bottom), (left, right_border), (0, 0)))
    missing = n_blocks * block - high
    rows = tuple(jnp.pad(a, ((0, 0), (0, missing), *[(0, 0)] * (a.ndim - 2))) for a in rows)

    def taps(x: jax.Array, axis: int, size: int, stride: int) -> jax.Array:
        starts = [i * geometry.dilation[axis - 1] for i in range(kernel[axis - 1])]
        reach = (size - 1) * stride + 1
        parts = [lax.slice_in_dim(x, at, at + reach, stride, axis) for at in starts]
        return jnp.concatenate(parts, 3) if len(parts) > 1 else parts[0]

    def one(i: jax.Array | int) -> jax.Array:
        slab = lax.dynamic_slice_in_dim(images, i * block * down, length, 1)
        parts = (lax.dynamic_slice_in_dim(a, i * block, block, 1) for a in rows)
        return function(taps(taps(slab, 2, wide, right), 1, block, down), *parts)

    if n_blocks == 1:
        return one(0)[None]
    out: jax.Array = lax.map(one, jnp.arange(n_blocks))
    return out
