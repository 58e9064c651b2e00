"""A float matrix times an unpacked ±1 matrix, on tensor cores, as exact as float32.

Every step unpacks words to ±1 in a 16-bit float format, in which they are exact, and multiplies
on the tensor cores, which sum in float32. What limits accuracy is the other factor and the sums:

- A float32 matrix is cut into three bfloat16 terms of 8 bits each, whose sum it is exactly.
  Three products in bfloat16 take less time of the tensor cores than two in tf32, which has half
  the rate and of which two terms hold 22 bits; float32 multiply-adds take several times as long
  (NVIDIA A100 and H100 data sheets: 312 and 989 TFLOPS in bfloat16, 156 and 494 in tf32, 19.5
  and 67 in float32 without tensor cores).
- Tensor cores may truncate a sum where float32 arithmetic rounds (Fasi, Higham, Mikaitis and
  Pranesh, "Numerical behavior of NVIDIA tensor cores", PeerJ Computer Science 2021), a bias that
  grows with the number of sums. So for float32 they sum ``CHUNK`` products, and chunks are added
  with rounding.

No product or sum depends on the order in which programs run: results repeat bit by bit.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def unpack(words, TYPE: tl.constexpr, ROWS: tl.constexpr, WORDS: tl.constexpr, WHOLE: tl.constexpr):
    """±1 TYPE[ROWS, 32·WORDS] of uint32[ROWS, WORDS]: each bit becomes the sign bit of a one.

    WHOLE: every thread unpacks whole words (``tl.join`` puts what it joins into one thread), two
    bits at a time, for operands that tensor cores read from shared memory. Where they read
    registers, the layout they want would travel back through every join, with a barrier at each.
    """
    MINUS_ONE: tl.constexpr = 0xBF80 if TYPE.is_bf16() else 0xBC00
    if WHOLE:
        pairs = tl.join(words, words >> 16)
        pairs = tl.join(pairs, pairs >> 8)
        pairs = tl.join(pairs, pairs >> 4)
        pairs = tl.join(pairs, pairs >> 2)
        signs = ((pairs << 15) & 0x8000) | ((pairs << 30) & 0x80000000)
        pairs = signs ^ (MINUS_ONE << 16 | MINUS_ONE)
        halves = tl.join(pairs.to(tl.uint16), (pairs >> 16).to(tl.uint16))
    else:
        shifts = (31 - tl.arange(0, 32)).to(tl.uint32)
        signs = (words[:, :, None] << shifts[None, None, :]) & 0x80000000
        halves = ((signs ^ (MINUS_ONE << 16)) >> 16).to(tl.uint16)
    return tl.reshape(halves, (ROWS, WORDS * 32)).to(TYPE, bitcast=True)


@triton.jit
def upper(bits):
    """bfloat16 of the upper halves of uint32: a float32 cut off."""
    return (bits >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)


@triton.jit
def terms(g):
    """Three bfloat16 tensors whose sum is float32 g, the smallest first.

    Cut off, not rounded, so that nothing overflows; each rest is exact. Of an infinity the rests
    are NaN. (Terms below 2^-126 keep bits down to 2^-133.)
    """
    bits = g.to(tl.uint32, bitcast=True)
    rest = g - (bits & 0xFFFF0000).to(tl.float32, bitcast=True)
    rest_bits = rest.to(tl.uint32, bitcast=True)
    last = rest - (rest_bits & 0xFFFF0000).to(tl.float32, bitcast=True)
    return upper(last.to(tl.uint32, bitcast=True)), upper(rest_bits), upper(bits)


@triton.jit
def step(
    g_ptr,
    packed_ptr,
    rows,
    row_stride,
    depth,
    depth_stride,
    words,
    row_words,
    start,
    total,
    BLOCK_K: tl.constexpr,
    WHOLE: tl.constexpr,
):
    """``total`` plus the products ``start`` to ``start + BLOCK_K``; the rest as in ``product``."""
    BLOCK_M: tl.constexpr = total.shape[0]
    BLOCK_W: tl.constexpr = total.shape[1] // 32
    FLOAT: tl.constexpr = g_ptr.dtype.element_ty
    TYPE: tl.constexpr = tl.bfloat16 if FLOAT.is_fp32() else FLOAT
    row = tl.arange(0, BLOCK_M)
    word = tl.arange(0, BLOCK_W)
    at = tl.arange(0, BLOCK_K)
    inside = at < depth - start
    g = tl.load(
        g_ptr
        + tl.cast(start, tl.int64) * depth_stride
        + (row[:, None] * row_stride + at[None, :] * depth_stride),
        mask=(row < rows)[:, None] & inside[None, :],
        other=0.0,
    )
    packed = tl.load(
        packed_ptr
        + tl.cast(start, tl.int64) * row_words
        + (at[:, None] * row_words + word[None, :]),
        mask=inside[:, None] & (word < words)[None, :],
        other=0,
    )
    signs = unpack(packed, TYPE, BLOCK_K, BLOCK_W, WHOLE)
    if FLOAT.is_fp32():
        low, middle, high = terms(g)
        total = tl.dot(low, signs, total)
        total = tl.dot(middle, signs, total)
        total = tl.dot(high, signs, total)
    else:
        total = tl.dot(g, signs, total)
    return total


@triton.jit
def product(
    g_ptr,
    packed_ptr,
    rows,
    row_stride,
    depth,
    depth_stride,
    words,
    row_words,
    BLOCK_M: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_K: tl.constexpr,
    WHOLE: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """float32[BLOCK_M, 32·BLOCK_W]: a float matrix g by an unpacked ±1 matrix.

    Args:
        g_ptr: float32, bfloat16 or float16 [rows, depth], of which BLOCK_M rows count.
        packed_ptr: uint32[depth, words], of which BLOCK_W columns count.
        rows, depth, words: int32 scalars, at least 1; what is outside is not read.
        row_stride, depth_stride: of g, in elements; int32 scalars or 1.
        row_words: of the packed matrix from row to row, in words.
        BLOCK_M, BLOCK_W: rows and words of the block.
        BLOCK_K: products per step.
        WHOLE: see ``unpack``.
        CHUNK: products that the tensor cores sum, a multiple of BLOCK_K; None for all of them.

    Returns:
        The block; 0 in rows outside, anything in columns outside.
    """
    total = tl.zeros((BLOCK_M, 32 * BLOCK_W), dtype=tl.float32)
    if CHUNK is None:
        for start in tl.range(0, depth, BLOCK_K):
            total = step(
                g_ptr,
                packed_ptr,
                rows,
                row_stride,
                depth,
                depth_stride,
                words,
                row_words,
                start,
                total,
                BLOCK_K,
                WHOLE,
            )
    else:
        for chunk in tl.range(0, depth, CHUNK):
            part = tl.zeros((BLOCK_M, 32 * BLOCK_W), dtype=tl.float32)
            for start in tl.range(chunk, tl.minimum(chunk + CHUNK, depth), BLOCK_K):
                part = step(
                    g_ptr,
                    packed_ptr,
                    rows,
                    row_stride,
                    depth,
                    depth_stride,
                    words,
                    row_words,
                    start,
                    part,
                    BLOCK_K,
                    WHOLE,
                )
            total += part
    return total
