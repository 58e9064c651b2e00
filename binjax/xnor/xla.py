"""The portable back end: every operation in plain XLA, blocked so that it is fast on CPUs.

The blocking is measured, not derived: neighbouring forms are three times slower. What carries it
is an inner loop that XLA fuses into one pass over an accumulator block: 16 to 32 words of K,
unrolled, each an outer ``rows ^ columns`` with the columns contiguous.
"""

from __future__ import annotations

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from binjax.packing import WORD, is_positive, pack_positive, words_for

Epilogue = Literal["int32", "affine", "threshold"]

PANEL = 256  # columns of one accumulator block
ROWS = 256  # its rows, where all rows at once would leave the cache
TALL = 2048  # rows that a block of all rows has at most
CHUNK = 32  # words of K unrolled in the inner loop
LANES = 16  # 32-bit lanes of the widest CPU vectors


def pack_rows(x: jax.Array) -> jax.Array:
    """``[..., n]`` real to ``uint32[..., ceil(n/32)]``."""
    return pack_positive(is_positive(x))


def pack_columns(w: jax.Array) -> jax.Array:
    """``[T, K, N]`` real to ``uint32[N, T, ceil(K/32)]``."""
    taps, k, n = w.shape
    positive = jnp.pad(is_positive(w), ((0, 0), (0, -k % WORD), (0, 0)))
    positive = positive.reshape(taps, words_for(k), WORD, n)

    def bit(place: jax.Array | int) -> jax.Array:
        taken = lax.dynamic_index_in_dim(positive, place, 2, keepdims=False)
        shifted: jax.Array = taken.astype(jnp.uint32) << jnp.uint32(place)
        return shifted

    # A loop, because it ends before the transposition: fused into one, the two take 25 times
    # as long (XLA on CPUs).
    words: jax.Array = lax.fori_loop(1, WORD, lambda place, words: words | bit(place), bit(0))
    return words.transpose(2, 0, 1)


def matmul(
    xp: jax.Array, wp: jax.Array, *operands: jax.Array, k: int, epilogue: Epilogue
) -> jax.Array:
    """``[M, W]`` by ``[N, W]`` words: the dot products of M rows and N columns, then the epilogue.

    With ``k = 0`` the int32 result is ``-2 popcount(x ^ w)``: what shards of K sum.
    """
    return finish(_dots(xp, wp, k), *operands, epilogue=epilogue)


def finish(dot: jax.Array, *operands: jax.Array, epilogue: Epilogue) -> jax.Array:
    """Epilogue of integer dot products ``int32[..., N]``.

    ``"int32"``: as they are. ``"affine"`` (scale, bias: float32[N]): float32. ``"threshold"``
    (threshold: int32[N], flip: bool[N]): ``(dot >= threshold) ^ flip``, packed along N.
    """
    if epilogue == "int32":
        return dot
    first, second = (jnp.expand_dims(v, tuple(range(dot.ndim - 1))) for v in operands)
    if epilogue == "affine":
        return dot.astype(jnp.float32) * first + second
    return pack_positive((dot >= first) ^ second)


def _dots(xp: jax.Array, wp: jax.Array, k: int) -> jax.Array:
    """``k - 2 popcount(x ^ w)`` of every pair of rows of ``[M, W]`` and ``[N, W]``: int32[M, N]."""
    m, n = xp.shape[0], wp.shape[0]
    fixed = isinstance(m, int)  # and not a dimension of jax.export's that has a name only
    if fixed and m <= 2:
        return k - 2 * jnp.sum(_popcount(xp[:, None] ^ wp[None]), 2)
    if fixed and n < LANES < m:  # a narrow panel would leave vector lanes idle
        return _dots(wp, xp, k).T
    columns = _even_block(n, PANEL, LANES)
    chunk = _even_block(xp.shape[1], CHUNK)
    # [n_panels, W, columns]
    panels = _blocks(_padded(wp, 1, chunk), columns).transpose(0, 2, 1)
    multiply = functools.partial(_block, k=k, chunk=chunk)

    def block_of_rows(rows: jax.Array) -> jax.Array:
        out: jax.Array = lax.map(lambda panel: multiply(rows, panel), panels)
        width = panels.shape[0] * columns
        return out.transpose(1, 0, 2).reshape(rows.shape[0], width)[:, :n]

    xp = _padded(xp, 1, chunk)
    if not fixed or m <= TALL:
        return block_of_rows(xp)
    out: jax.Array = lax.map(block_of_rows, _blocks(xp, _even_block(m, ROWS)))
    return out.reshape(-1, n)[:m]


def _block(rows: jax.Array, panel: jax.Array, *, k: int, chunk: int) -> jax.Array:
    """``uint32[rows, W]`` by ``uint32[W, columns]``: int32[rows, columns]."""

    def step(i: jax.Array | int, total: jax.Array) -> jax.Array:
        a = lax.dynamic_slice_in_dim(rows, i * chunk, chunk, 1)
        b = lax.dynamic_slice_in_dim(panel, i * chunk, chunk, 0)
        for j in range(chunk):
            total = total + _popcount(a[:, j : j + 1] ^ b[j : j + 1])
        return total

    # Not zeros(): under shard_map a carry must vary over the mesh as the operands do.
    zero = (rows[:, :1] ^ panel[:1]).astype(jnp.int32) * 0
    n_chunks = rows.shape[1] // chunk
    total = step(0, zero) if n_chunks == 1 else lax.fori_loop(0, n_chunks, step, zero)
    return k - 2 * total


def _popcount(words: jax.Array) -> jax.Array:
    return lax.population_count(words).astype(jnp.int32)


def _even_block(size: int, largest: int, multiple: int = 1) -> int:
    """Block length: as few blocks as ``largest`` allows, all of them as full as can be."""
    n_blocks = -(-size // largest)
    block = -(-size // n_blocks)
    return -(-block // multiple) * multiple


def _padded(x: jax.Array, axis: int, multiple: int) -> jax.Array:
    """Zero words up to a multiple: on both operands they cancel."""
    missing = -x.shape[axis] % multiple
    if not missing:
        return x
    return jnp.pad(x, [(0, missing if a == axis else 0) for a in range(x.ndim)])


def _blocks(x: jax.Array, length: int) -> jax.Array:
    """``[size, W]`` to ``[n_blocks, length, W]``."""
    return _padded(x, 0, length).reshape(-1, length, x.shape[1])


def bits_width(n: int, epilogue: Epilogue) -> int:
    """Length of the last axis of a result with N features: words after a threshold."""
    return words_for(n) if epilogue == "threshold" else n


def result_dtype(epilogue: Epilogue) -> np.dtype[Any]:
    """Dtype of a result."""
    kinds = {
        "int32": np.dtype(np.int32),
        "affine": np.dtype(np.float32),
        "threshold": np.dtype(np.uint32),
    }
    return kinds[epilogue]
