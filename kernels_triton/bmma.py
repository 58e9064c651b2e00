"""GEMM on the 1-bit tensor cores: ``mma.sync.m16n8k256 .and.popc``, in Gluon.

``popcount(x ^ w) = ones(x) + ones(w) - 2·popcount(x & w)``, so with the number of 1 bits of every
row of both operands ``dot = k - 2·ones(x) - 2·ones(w) + 4·popcount(x & w)``. The AND form is one
instruction on compute capability 8.0 to 9.0; XOR is emulated from 9.0 on, and both after it.

Every thread loads its own fragments from global memory, through the L1 cache. Fragments are those
of the PTX ISA, "Matrix Fragments for mma.m16n8k256": with g = lane // 4 and t = lane % 4, lane
holds words t and t + 4 of rows g and g + 8 of x, words t and t + 4 of row g of w, and columns 2t
and 2t + 1 of rows g and g + 8 of the product. A dot product does not depend on the order of the
words as long as both operands share it, so lane takes words 2t and 2t + 1, one 64-bit load, for t
and t + 4.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

_MMA = gl.constexpr(
    "mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc "
    "{$0, $1, $2, $3}, {$4, $5, $6, $7}, {$8, $9}, {$10, $11, $12, $13};"
)
_CONSTRAINTS = gl.constexpr("=r,=r,=r,=r,r,r,r,r,r,r,0,1,2,3")


@gluon.jit
def bmma(
    x_ptr,
    w_ptr,
    x_ones_ptr,
    w_ones_ptr,
    first_ptr,
    second_ptr,
    m,
    n,
    k,
    n_words,
    out_ptr,
    EPILOGUE: gl.constexpr,
    BLOCK_M: gl.constexpr,
    BLOCK_N: gl.constexpr,
    BLOCK_K: gl.constexpr,
    GROUP_M: gl.constexpr,
):
    """One block of the product of two packed ±1 matrices, ``x [m, k]`` by ``w [n, k]``.

    Args:
        x_ptr, w_ptr: uint32[m, n_words] and uint32[n, n_words], packed along k, padding
            bits 0, 8-byte aligned.
        x_ones_ptr, w_ones_ptr: int32[m] and int32[n], the number of 1 bits of every row.
        first_ptr, second_ptr: column operands of the epilogue.
        m, n, k: int32 scalars, at least 1.
        n_words: int32 scalar, a multiple of 8.
        out_ptr: the output of the epilogue.
        EPILOGUE: see ``epilogue``.
        BLOCK_M, BLOCK_N: size of a block; at least 32 and 16 with 4 warps.
        BLOCK_K: 8, the words of one instruction.
        GROUP_M: see ``ordering.block_of_program``.
    """
    gl.static_assert(BLOCK_K == 8)
    WARPS_M: gl.constexpr = 2
    WARPS_N: gl.constexpr = gl.num_warps() // WARPS_M
    TILES_M: gl.constexpr = BLOCK_M // (16 * WARPS_M)
    TILES_N: gl.constexpr = BLOCK_N // (8 * WARPS_N)
    THREADS: gl.constexpr = 32 * gl.num_warps()
    # Axes: a warp's fragments along M and along N, thread. A thread holds all of its fragments.
    LAYOUT: gl.constexpr = gl.BlockedLayout(
        [TILES_M, TILES_N, 1], [1, 1, 32], [1, 1, gl.num_warps()], [2, 1, 0]
    )
    PER_TILE_M: gl.constexpr = gl.SliceLayout(1, gl.SliceLayout(2, LAYOUT))
    PER_TILE_N: gl.constexpr = gl.SliceLayout(0, gl.SliceLayout(2, LAYOUT))
    PER_THREAD: gl.constexpr = gl.SliceLayout(0, gl.SliceLayout(1, LAYOUT))

    # As ordering.block_of_program.
    program = gl.program_id(0)
    block_rows = gl.cdiv(m, BLOCK_M)
    group_rows = gl.minimum(GROUP_M, block_rows)
    programs_per_group = group_rows * gl.cdiv(n, BLOCK_N)
    first_row = program // programs_per_group * group_rows
    rows_here = gl.minimum(block_rows - first_row, group_rows)
    inside_group = program % programs_per_group
    block_row = first_row + inside_group % rows_here
    block_column = inside_group // rows_here

    thread = gl.arange(0, THREADS, layout=PER_THREAD)[None, None, :]
    tile_m = gl.arange(0, TILES_M, layout=PER_TILE_M)[:, None, None]
    tile_n = gl.arange(0, TILES_N, layout=PER_TILE_N)[None, :, None]
    g = thread % 32 // 4
    t = thread % 4
    warp_m = thread // 32 // WARPS_N
    warp_n = thread // 32 % WARPS_N
    row = block_row * BLOCK_M + (warp_m * TILES_M + tile_m) * 16 + g
    column = block_column * BLOCK_N + (warp_n * TILES_N + tile_n) * 8

    row_pairs = (n_words // 2).to(gl.int64)
    pair_type: gl.constexpr = gl.pointer_type(gl.uint64)
    x = x_ptr.to(pair_type, bitcast=True) + t
    w = w_ptr.to(pair_type, bitcast=True) + t
    # Rows outside the operands are read as the last row inside; their products are not stored.
    x_upper = x + gl.minimum(row, m - 1).to(gl.int64) * row_pairs
    x_lower = x + gl.minimum(row + 8, m - 1).to(gl.int64) * row_pairs
    w = w + gl.minimum(column + g, n - 1).to(gl.int64) * row_pairs
    c0 = gl.zeros([TILES_M, TILES_N, THREADS], gl.int32, layout=LAYOUT)
    c1 = c0
    c2 = c0
    c3 = c0
    for pair in range(0, n_words // 2, 4):
        a02 = gl.load(x_upper + pair)
        a13 = gl.load(x_lower + pair)
        b01 = gl.load(w + pair)
        c0, c1, c2, c3 = gl.inline_asm_elementwise(
            _MMA,
            _CONSTRAINTS,
            [
                a02.to(gl.uint32),
                a13.to(gl.uint32),
                (a02 >> 32).to(gl.uint32),
                (a13 >> 32).to(gl.uint32),
                b01.to(gl.uint32),
                (b01 >> 32).to(gl.uint32),
                c0,
                c1,
                c2,
                c3,
            ],
            dtype=(gl.int32, gl.int32, gl.int32, gl.int32),
            is_pure=True,
            pack=1,
        )

    # [tile_m, tile_n, thread, odd column, lower row], then by the meaning of each bit.
    tile = gl.join(gl.join(c0, c1), gl.join(c2, c3))
    tile = gl.reshape(tile, [TILES_M, TILES_N, WARPS_M, WARPS_N, 8, 4, 2, 2])
    tile = gl.permute(tile, [2, 0, 7, 4, 3, 1, 5, 6])
    ones = gl.reshape(tile, [BLOCK_M, BLOCK_N])
    store(
        ones,
        block_row,
        block_column,
        x_ones_ptr,
        w_ones_ptr,
        first_ptr,
        second_ptr,
        m,
        n,
        k,
        out_ptr,
        EPILOGUE,
    )


@gluon.jit
def store(
    ones,
    block_row,
    block_column,
    x_ones_ptr,
    w_ones_ptr,
    first_ptr,
    second_ptr,
    m,
    n,
    k,
    out_ptr,
    EPILOGUE: gl.constexpr,
):
    """Make dot products of a block of ``popcount(x & w)`` and do what ``epilogue.store`` does.

    Args:
        ones: int32[BLOCK_M, BLOCK_N].
        block_row, block_column: the block's place in the output (int32 scalars).
        x_ones_ptr, w_ones_ptr, first_ptr, second_ptr, m, n, k, out_ptr, EPILOGUE: as in ``bmma``.
    """
    LAYOUT: gl.constexpr = ones.type.layout
    BLOCK_M: gl.constexpr = ones.shape[0]
    BLOCK_N: gl.constexpr = ones.shape[1]
    row = block_row * BLOCK_M + gl.arange(0, BLOCK_M, layout=gl.SliceLayout(1, LAYOUT))
    column = block_column * BLOCK_N + gl.arange(0, BLOCK_N, layout=gl.SliceLayout(0, LAYOUT))
    row_inside = row < m
    column_inside = column < n
    of_row = k - 2 * gl.load(x_ones_ptr + row, mask=row_inside, other=0)
    of_column = 2 * gl.load(w_ones_ptr + column, mask=column_inside, other=0)
    dot = 4 * ones + of_row[:, None] - of_column[None, :]
    if EPILOGUE == "threshold":
        threshold = gl.load(first_ptr + column, mask=column_inside, other=0)
        flip = gl.load(second_ptr + column, mask=column_inside, other=0).to(gl.uint32)
        bits = (dot >= threshold[None, :]).to(gl.uint32) ^ flip[None, :]
        place = (column % 32).to(gl.uint32)
        bits = gl.where(column_inside[None, :], bits, 0) << place[None, :]
        words = gl.sum(gl.reshape(bits, [BLOCK_M, BLOCK_N // 32, 32]), axis=2)
        WORDS: gl.constexpr = words.type.layout
        n_words = gl.cdiv(n, 32)
        row = block_row * BLOCK_M + gl.arange(0, BLOCK_M, layout=gl.SliceLayout(1, WORDS))
        word = gl.arange(0, BLOCK_N // 32, layout=gl.SliceLayout(0, WORDS))
        word += block_column * (BLOCK_N // 32)
        out = out_ptr + (row.to(gl.int64) * n_words)[:, None] + word[None, :]
        gl.store(out, words, mask=(row < m)[:, None] & (word < n_words)[None, :])
    else:
        out = out_ptr + (row.to(gl.int64) * n)[:, None] + column[None, :]
        inside = row_inside[:, None] & column_inside[None, :]
        if EPILOGUE == "affine":
            scale = gl.load(first_ptr + column, mask=column_inside, other=0.0)
            bias = gl.load(second_ptr + column, mask=column_inside, other=0.0)
            gl.store(out, dot.to(gl.float32) * scale[None, :] + bias[None, :], mask=inside)
        else:
            gl.store(out, dot, mask=inside)
