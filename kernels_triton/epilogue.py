"""What a GEMM kernel does with a block of finished dot products before it stores them.

============ ============================= ======================= ============================
epilogue     column operands               output                  value
============ ============================= ======================= ============================
"dot"        none                          int32[M, N]             dot
"affine"     scale, bias: float32[N]       float32[M, N]           dot·scale[n] + bias[n]
"threshold"  threshold int32[N],           uint32[M, ceil(N/32)]   bit (dot >= threshold[n])
             flip bool[N]                                          ^ flip[n]; padding bits 0
============ ============================= ======================= ============================
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def store(
    dot,
    rows,
    columns,
    block_column,
    m,
    n,
    first_ptr,
    second_ptr,
    out_ptr,
    EPILOGUE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Apply an epilogue to a block and store it; writes only rows < m and columns < n.

    Args:
        dot: int32[BLOCK_M, BLOCK_N].
        rows, columns: int32[BLOCK_M], int32[BLOCK_N]: the block's place in the output.
        block_column: number of the block along N (int32 scalar).
        m, n: int32 scalars.
        first_ptr, second_ptr: the column operands of the table above, None for "dot".
        out_ptr: the output.
        EPILOGUE: "dot", "affine" or "threshold".
        BLOCK_M, BLOCK_N: size of the block; "threshold" needs a multiple of 32 columns.
    """
    rows_inside = rows < m
    columns_inside = columns < n
    if EPILOGUE == "threshold":
        threshold = tl.load(first_ptr + columns, mask=columns_inside, other=0)
        flip = tl.load(second_ptr + columns, mask=columns_inside, other=0).to(tl.uint32)
        bits = (dot >= threshold[None, :]).to(tl.uint32) ^ flip[None, :]
        bits = tl.where(columns_inside[None, :], bits, 0)
        places = tl.arange(0, 32).to(tl.uint32)
        bits = tl.reshape(bits, (BLOCK_M, BLOCK_N // 32, 32)) << places[None, None, :]
        words = tl.sum(bits, axis=2)
        row_words = tl.cdiv(n, 32)
        word = block_column * (BLOCK_N // 32) + tl.arange(0, BLOCK_N // 32)
        out_rows = out_ptr + rows.to(tl.int64) * row_words
        inside = rows_inside[:, None] & (word < row_words)[None, :]
        tl.store(out_rows[:, None] + word[None, :], words, mask=inside)
    else:
        out_rows = out_ptr + rows.to(tl.int64) * n
        inside = rows_inside[:, None] & columns_inside[None, :]
        if EPILOGUE == "affine":
            scale = tl.load(first_ptr + columns, mask=columns_inside, other=0.0)
            bias = tl.load(second_ptr + columns, mask=columns_inside, other=0.0)
            value = dot.to(tl.float32) * scale[None, :] + bias[None, :]
            tl.store(out_rows[:, None] + columns[None, :], value, mask=inside)
        else:
            tl.store(out_rows[:, None] + columns[None, :], dot, mask=inside)
