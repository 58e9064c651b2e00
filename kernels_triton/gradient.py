"""Gradients of a product of packed ±1 matrices, each a product of a float and a ±1 matrix."""

from __future__ import annotations

import triton
import triton.language as tl

from . import float_product, ordering


@triton.jit
def store(out, mask_ptr, out_ptr, rows, columns, first_row, first_column):
    """Store a block of a gradient ``[rows, columns]``, 0 where the mask's bit is 0.

    Args:
        out: float32[R, C], C a multiple of 32.
        mask_ptr: uint32[rows, ceil(columns/32)] or None.
        out_ptr: float32[rows, columns].
        rows, columns: int32 scalars.
        first_row, first_column: the block's place, int32 scalars, first_column a multiple of 32.
    """
    R: tl.constexpr = out.shape[0]
    C: tl.constexpr = out.shape[1]
    row = tl.arange(0, R)
    column = tl.arange(0, C)
    inside = row < rows - first_row
    if mask_ptr is not None:
        word = tl.arange(0, C // 32)
        row_words = tl.cdiv(columns, 32)
        first = first_row.to(tl.int64) * row_words + first_column // 32
        words = tl.load(
            mask_ptr + first + (row[:, None] * row_words + word[None, :]),
            mask=inside[:, None] & (word < row_words - first_column // 32)[None, :],
            other=0,
        )
        bits = (words[:, :, None] >> tl.arange(0, 32).to(tl.uint32)[None, None, :]) & 1
        out = tl.where(tl.reshape(bits, (R, C)) != 0, out, 0.0)
    first = first_row.to(tl.int64) * columns + first_column
    tl.store(
        out_ptr + first + (row[:, None] * columns + column[None, :]),
        out,
        mask=inside[:, None] & (column < columns - first_column)[None, :],
    )


@triton.jit
def input_gradient(
    g_ptr,
    packed_ptr,
    mask_ptr,
    m,
    n,
    k,
    out_ptr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    WHOLE: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """One block of ``g [m, n]`` by ``w [n, k]``: the gradient of x in ``x [m, k] @ w.T``.

    Args:
        g_ptr: float32, bfloat16 or float16 [m, n].
        packed_ptr: uint32[n, ceil(k/32)]: w, packed along k.
        mask_ptr: uint32[m, ceil(k/32)], 1 where the gradient passes, 0 where it is 0; or None.
        m, n, k: int32 scalars, at least 1.
        out_ptr: float32[m, k].
        BLOCK_M, BLOCK_N: rows (of m) and columns (of k) of a block; BLOCK_N a multiple of 32.
        BLOCK_K, WHOLE, CHUNK: see ``float_product.product``.
        GROUP_M: see ``ordering.block_of_program``.
    """
    WORDS: tl.constexpr = BLOCK_N // 32
    block_row, block_column = ordering.block_of_program(m, k, BLOCK_M, BLOCK_N, GROUP_M)
    first_row = block_row * BLOCK_M
    first_word = block_column * WORDS
    words = tl.cdiv(k, 32)
    out = float_product.product(
        g_ptr + first_row.to(tl.int64) * n,
        packed_ptr + first_word,
        m - first_row,
        n,
        n,
        1,
        words - first_word,
        words,
        BLOCK_M,
        WORDS,
        BLOCK_K,
        WHOLE,
        CHUNK,
    )
    store(out, mask_ptr, out_ptr, m, k, first_row, block_column * BLOCK_N)


@triton.jit
def weight_gradient(
    g_ptr,
    packed_ptr,
    mask_ptr,
    m,
    n,
    k,
    out_ptr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    WHOLE: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """One block of ``x.T [k, m]`` by ``g [m, n]``: the gradient of w in ``x @ w [k, n]``.

    Computed as ``g.T`` by x and stored transposed: the factor that is cut into terms comes first,
    of which every warp holds only its own rows.

    Args:
        g_ptr: float32, bfloat16 or float16 [m, n].
        packed_ptr: uint32[m, ceil(k/32)]: x, packed along k.
        mask_ptr: uint32[k, ceil(n/32)], 1 where the gradient passes, 0 where it is 0; or None.
        m, n, k: int32 scalars, at least 1.
        out_ptr: float32[k, n].
        BLOCK_M, BLOCK_N: columns (of n) and rows (of k) of a block; multiples of 32.
        BLOCK_K, WHOLE, CHUNK: see ``float_product.product``.
        GROUP_M: see ``ordering.block_of_program``.
    """
    WORDS: tl.constexpr = BLOCK_N // 32
    block_column, block_row = ordering.block_of_program(n, k, BLOCK_M, BLOCK_N, GROUP_M)
    first_column = block_column * BLOCK_M
    first_word = block_row * WORDS
    words = tl.cdiv(k, 32)
    out = float_product.product(
        g_ptr + first_column,
        packed_ptr + first_word,
        n - first_column,
        1,
        m,
        n,
        words - first_word,
        words,
        BLOCK_M,
        WORDS,
        BLOCK_K,
        WHOLE,
        CHUNK,
    )
    store(tl.trans(out), mask_ptr, out_ptr, k, n, block_row * BLOCK_N, first_column)
