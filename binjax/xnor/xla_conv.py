"""The portable convolution: packed im2col and the matrix product, in plain XLA.

The patches are words, one thirty-second of a float im2col. A border of zeros is counted as -1
first and corrected exactly afterwards; the correction is the same at all positions whose window
leaves out the same taps, so it is computed once for each such class of rows and columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from binjax.packing import pack_positive
from binjax.xnor.geometry import Geometry, Pair
from binjax.xnor.xla import Epilogue, finish, matmul

PATCH_BYTES = 1 << 25  # of one block of im2col

Product = Callable[[jax.Array, jax.Array, int], jax.Array]


def popcount_product(xp: jax.Array, wp: jax.Array, k: int) -> jax.Array:
    """The portable ``uint32[M, W]`` by ``uint32[N, W]`` product: int32[M, N]."""
    return matmul(xp, wp, k=k, epilogue="int32")


def conv(
    xp: jax.Array,
    wp: jax.Array,
    *operands: jax.Array,
    geometry: Geometry,
    epilogue: Epilogue,
    product: Product = popcount_product,
) -> jax.Array:
    """``uint32[n, h, w, g, Cw]`` by ``uint32[N, kh, kw, Cw]``: ``[n, oh, ow, N or words]``.

    ``product(xp, wp, k)`` multiplies ``uint32[M, W]`` by ``uint32[N, W]``.
    """
    image, kernel = xp.shape[1:3], wp.shape[1:3]
    high, wide = geometry.output(image, kernel)
    patch_bytes = 4 * high * wide * kernel[0] * kernel[1] * xp.shape[3] * xp.shape[4]
    per_block = max(PATCH_BYTES // max(patch_bytes, 1), 1)
    xp = _bordered(xp, geometry)

    def images(block: jax.Array) -> jax.Array:
        patches = _patches(block, kernel, (high, wide), geometry)
        dot = _products(patches, wp, geometry.elements(kernel), product)
        return dot.reshape(-1, high, wide, wp.shape[0])

    dot = _map_blocks(images, xp, per_block)
    if geometry.pad_value == 0 and any(geometry.padding):
        dot = dot - _outside(wp, image, geometry)
    return finish(dot, *operands, epilogue=epilogue)


def _bordered(xp: jax.Array, geometry: Geometry) -> jax.Array:
    """The image with its border: all bits set for +1, but for the padding bits; else none."""
    top, bottom, left, right = geometry.padding
    if not any(geometry.padding):
        return xp
    widths = ((0, 0), (top, bottom), (left, right), (0, 0), (0, 0))
    if geometry.pad_value != 1:
        return jnp.pad(xp, widths)
    inside = np.pad(np.ones(xp.shape[1:3], bool), widths[1:3])[None, :, :, None, None]
    ones = pack_positive(jnp.ones(geometry.channels, bool)).reshape(1, 1, 1, 1, -1)
    return jnp.where(inside, jnp.pad(xp, widths), ones)


def _patches(xp: jax.Array, kernel: Sequence[int], output: Pair, geometry: Geometry) -> jax.Array:
    """Windows of a bordered image: ``uint32[g, n oh ow, kh kw Cw]``."""
    n, _, _, groups, words = xp.shape
    (high, wide), (down, right) = output, geometry.strides
    taps = []
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            top, left = i * geometry.dilation[0], j * geometry.dilation[1]
            limit = (n, top + (high - 1) * down + 1, left + (wide - 1) * right + 1, groups, words)
            taps.append(lax.slice(xp, (0, top, left, 0, 0), limit, (1, down, right, 1, 1)))
    patches = jnp.concatenate(taps, 4) if len(taps) > 1 else taps[0]
    return patches.transpose(3, 0, 1, 2, 4).reshape(groups, n * high * wide, -1)


def _products(patches: jax.Array, wp: jax.Array, k: int, product: Product) -> jax.Array:
    """``uint32[g, R, T]`` by ``uint32[N, kh, kw, Cw]``: int32[R, N], group by group."""
    groups, rows, _ = patches.shape
    columns = wp.reshape(groups, wp.shape[0] // groups, -1)
    if groups == 1:
        return product(patches[0], columns[0], k)
    out: jax.Array = lax.map(lambda pair: product(pair[0], pair[1], k), (patches, columns))
    return out.transpose(1, 0, 2).reshape(rows, wp.shape[0])


def _map_blocks(function: Callable[[jax.Array], jax.Array], x: jax.Array, length: int) -> jax.Array:
    """``function`` on pieces of at most ``length`` along the first axis, one after the other."""
    n = x.shape[0]
    if not isinstance(n, int) or n <= length:  # not an int: a named dimension of jax.export's
        return function(x)
    n_blocks = -(-n // length)
    length = -(-n // n_blocks)
    x = jnp.pad(x, [(0, n_blocks * length - n)] + [(0, 0)] * (x.ndim - 1))
    out: jax.Array = lax.map(function, x.reshape(n_blocks, length, *x.shape[1:]))
    return out.reshape(-1, *out.shape[2:])[:n]


def _outside(wp: jax.Array, image: Sequence[int], geometry: Geometry) -> jax.Array:
    """What the taps outside the image have added where the border was -1: int32[1, oh, ow, N]."""
    kernel = wp.shape[1:3]
    output = geometry.output(image, kernel)
    # [classes, taps] and the class of every output row; likewise of every output column
    rows, row_class = _classes(0, image[0], kernel[0], output[0], geometry)
    columns, column_class = _classes(1, image[1], kernel[1], output[1], geometry)
    out = ~(rows[:, None, :, None] & columns[None, :, None, :])
    # [N, kh, kw]: minus the sum of a tap's weights
    ones = jnp.sum(lax.population_count(wp), 3, dtype=jnp.int32)
    added = geometry.channels - 2 * ones
    table = jnp.einsum("abij,nij->abn", out.astype(np.int32), added)
    return table[row_class][:, column_class][None]


def _classes(
    axis: int, size: int, taps: int, positions: int, geometry: Geometry
) -> tuple[np.ndarray, np.ndarray]:
    """Distinct sets of taps that fall inside the image along an axis, and each output's set."""
    start = np.arange(positions) * geometry.strides[axis] - geometry.padding[2 * axis]
    where = start[:, None] + np.arange(taps) * geometry.dilation[axis]
    sets, members = np.unique((where >= 0) & (where < size), axis=0, return_inverse=True)
    return sets, members.reshape(-1)
