"""Packed operands, unpacked to ±1 int8 inside the kernel and multiplied by the tensor cores.

For GPUs whose tensor cores have no 1-bit product: memory traffic stays that of packed words.
"""

from __future__ import annotations

import triton
import triton.language as tl

from . import epilogue, ordering


@triton.jit
def load_signs(ptr, rows, n_rows, n_words, word, BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr):
    """±1 int8[BLOCK_R, 32·BLOCK_K] of the words ``word`` of ``rows``; -1 where nothing is read.

    Within a word the elements come in another order, which a dot product of two operands
    unpacked like this does not see. Every thread unpacks whole words, four bytes at a time:
    ``tl.join`` puts what it joins into one thread.

    Args:
        ptr: uint32[n_rows, n_words].
        rows: int32[BLOCK_R]; rows from n_rows on are not read.
        n_rows, n_words: int32 scalars.
        word: int32[BLOCK_K]; words from n_words on are not read.
        BLOCK_R, BLOCK_K: rows, words.
    """
    source = ptr + rows.to(tl.int64)[:, None] * n_words + word[None, :]
    inside = (rows < n_rows)[:, None] & (word < n_words)[None, :]
    words = tl.load(source, mask=inside, other=0)
    words = tl.join(words, words >> 4)
    words = tl.join(words, words >> 2)
    words = tl.join(words, words >> 1)
    # Every byte is now 0 or 1 and becomes 255 - 254·byte, -1 or +1, without a carry.
    signs = 0xFFFFFFFF - (words & 0x01010101) * 0xFE
    signs = tl.join(signs, signs >> 16)
    signs = tl.join(signs, signs >> 8)
    return tl.reshape(signs.to(tl.int8), (BLOCK_R, BLOCK_K * 32))


@triton.jit
def int8_gemm(
    x_ptr,
    w_ptr,
    first_ptr,
    second_ptr,
    m,
    n,
    k,
    n_words,
    out_ptr,
    EPILOGUE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
):
    """One block of the product of two packed ±1 matrices, ``x [m, k]`` by ``w [n, k]``.

    Args:
        x_ptr, w_ptr: uint32[m, n_words] and uint32[n, n_words], packed along k,
            padding bits 0.
        first_ptr, second_ptr: column operands of the epilogue.
        m, n, k, n_words: int32 scalars, at least 1.
        out_ptr: the output of the epilogue.
        EPILOGUE: see ``epilogue``.
        BLOCK_M, BLOCK_N: size of a block; powers of two, at least 16.
        BLOCK_K: words per step; a power of two.
        GROUP_M: see ``ordering.block_of_program``.
    """
    block_row, block_column = ordering.block_of_program(m, n, BLOCK_M, BLOCK_N, GROUP_M)
    rows = block_row * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = block_column * BLOCK_N + tl.arange(0, BLOCK_N)
    dot = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.int32)
    steps = tl.cdiv(n_words, BLOCK_K)
    for step in range(0, steps):
        word = step * BLOCK_K + tl.arange(0, BLOCK_K)
        x = load_signs(x_ptr, rows, m, n_words, word, BLOCK_M, BLOCK_K)
        w = load_signs(w_ptr, columns, n, n_words, word, BLOCK_N, BLOCK_K)
        dot = tl.dot(x, tl.trans(w), dot, out_dtype=tl.int32)
    # Each padding bit, and each bit beyond the last word, added (-1)·(-1).
    dot -= steps * (32 * BLOCK_K) - k
    epilogue.store(
        dot,
        rows,
        columns,
        block_column,
        m,
        n,
        first_ptr,
        second_ptr,
        out_ptr,
        EPILOGUE,
        BLOCK_M,
        BLOCK_N,
    )
