"""Sign and pack: the signs of a floating matrix as words of 32 bits."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def pack(
    x_ptr,
    row_stride,
    column_stride,
    rows,
    k,
    out_row_stride,
    out_word_stride,
    n_words,
    out_ptr,
    SIGN_BIT: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    """One block of words: bit j of word i is 1 where element 32·i + j of the row is +1.

    The sign is read off the bits: +1 for 0, -0 and everything without a sign bit, -1 for every
    other value with one, so a negative subnormal is -1 also where subnormals are flushed, and a
    NaN packs by its sign bit.

    Args:
        x_ptr: uint32 or uint16: the bits of a float32, float16 or bfloat16 matrix [rows, k].
        row_stride, column_stride: its strides in elements, int64 scalars or constants.
        rows, k: int32 scalars, at least 1.
        out_row_stride, out_word_stride: the output's strides in words, likewise.
        n_words: words per row to write, at least ceil(k/32); those beyond k are 0.
        out_ptr: uint32.
        SIGN_BIT: the sign bit's place, 31 or 15.
        BLOCK_R, BLOCK_W: rows and words of a block; powers of two.
    """
    word_blocks = tl.cdiv(n_words, BLOCK_W)
    block_row = tl.program_id(0) // word_blocks
    block_word = tl.program_id(0) % word_blocks
    row = (block_row * BLOCK_R + tl.arange(0, BLOCK_R))[:, None, None]
    word = (block_word * BLOCK_W + tl.arange(0, BLOCK_W))[None, :, None]
    place = tl.arange(0, 32)[None, None, :]
    column = word * 32 + place
    inside = (row < rows) & (column < k)
    source = x_ptr + row.to(tl.int64) * row_stride + column.to(tl.int64) * column_stride
    # What is not loaded counts as -1, so padding bits are 0.
    x = tl.load(source, mask=inside, other=(1 << SIGN_BIT) | 1).to(tl.uint32)
    bits = (x <= (1 << SIGN_BIT)).to(tl.uint32) << place.to(tl.uint32)
    words = tl.sum(bits, axis=2)
    row = block_row * BLOCK_R + tl.arange(0, BLOCK_R)[:, None]
    word = block_word * BLOCK_W + tl.arange(0, BLOCK_W)[None, :]
    out = out_ptr + row.to(tl.int64) * out_row_stride + word.to(tl.int64) * out_word_stride
    tl.store(out, words, mask=(row < rows) & (word < n_words))
