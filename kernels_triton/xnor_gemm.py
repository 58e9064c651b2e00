"""XNOR-popcount GEMM on the CUDA cores: one POPC per pair of words.

Word-major operands and an outer product per word: every thread keeps its dot products in
registers and no value crosses threads. (A row-major form that sums over an axis of words spends
more on shuffles than on POPC.)
"""

from __future__ import annotations

import triton
import triton.language as tl

from . import epilogue, ordering


@triton.jit
def popcount(x):
    """Number of 1 bits of each uint32.

    LLVM recognises this form (Hacker's Delight, figure 5-2) as one ``popc.b32``, but only where
    the result is not scaled; ``tests/test_triton_compiled.py`` counts the instructions.
    """
    x = x - ((x >> 1) & 0x55555555)
    x = (x & 0x33333333) + ((x >> 2) & 0x33333333)
    x = (x + (x >> 4)) & 0x0F0F0F0F
    return (x * 0x01010101) >> 24


@triton.jit
def xnor_gemm(
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
    NUM_STAGES: tl.constexpr,
):
    """One block of the product of two packed ±1 matrices, ``x [m, k]`` by ``w [n, k]``.

    Args:
        x_ptr, w_ptr: uint32[n_words, m] and uint32[n_words, n], packed along k, padding bits 0.
        first_ptr, second_ptr: column operands of the epilogue.
        m, n, k, n_words: int32 scalars, at least 1.
        out_ptr: the output of the epilogue.
        EPILOGUE: see ``epilogue``.
        BLOCK_M, BLOCK_N: size of a block; powers of two.
        BLOCK_K: words loaded and unrolled at a time.
        GROUP_M: see ``ordering.block_of_program``.
        NUM_STAGES: blocks of words in flight; 1 loads them when they are needed.
    """
    block_row, block_column = ordering.block_of_program(m, n, BLOCK_M, BLOCK_N, GROUP_M)
    rows = block_row * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = block_column * BLOCK_N + tl.arange(0, BLOCK_N)
    x = x_ptr + rows[:, None]
    w = w_ptr + columns[None, :]
    mismatches = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.int32)
    for start in tl.range(0, n_words, BLOCK_K, num_stages=NUM_STAGES):
        for i in tl.static_range(BLOCK_K):
            word = start + i
            # Beyond the last word no row is inside, so both operands are 0 and nothing differs.
            x_inside = rows[:, None] < tl.where(word < n_words, m, 0)
            w_inside = columns[None, :] < tl.where(word < n_words, n, 0)
            x_word = tl.load(x + word.to(tl.int64) * m, mask=x_inside, other=0)
            w_word = tl.load(w + word.to(tl.int64) * n, mask=w_inside, other=0)
            mismatches += popcount(x_word ^ w_word).to(tl.int32)
    epilogue.store(
        k - 2 * mismatches,
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
