"""Which block of the output a program computes."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def block_of_program(m, n, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, GROUP_M: tl.constexpr):
    """Row and column number of this program's block, in groups of ``GROUP_M`` block rows.

    Programs that run at the same time then share rows and columns in the L2 cache, as in
    Triton's matrix multiplication tutorial.

    Args:
        m, n: rows and columns of the output (int32 scalars).
        BLOCK_M, BLOCK_N: size of a block.
        GROUP_M: block rows per group, at least 1.

    Returns:
        Two int32 scalars; every block is visited once by a grid of
        ``cdiv(m, BLOCK_M) * cdiv(n, BLOCK_N)`` programs.
    """
    program = tl.program_id(0)
    block_rows = tl.cdiv(m, BLOCK_M)
    block_columns = tl.cdiv(n, BLOCK_N)
    # A group can exceed 32 bits where the grid itself cannot: GROUP_M rows may not all exist.
    group_rows = tl.minimum(GROUP_M, block_rows)
    programs_per_group = group_rows * block_columns
    first_row = program // programs_per_group * group_rows
    rows_here = tl.minimum(block_rows - first_row, group_rows)
    inside = program % programs_per_group
    return first_row + inside % rows_here, inside // rows_here
