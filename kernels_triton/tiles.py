"""Which kernel and which block sizes, by compute capability and shape. Data and a chooser.

No tile has been timed on a GPU yet. They were chosen from compiled code (instruction mix of the
hot loop, registers, no spills) and from peak rates: popcount issues at 16 per clock and
multiprocessor (CUDA C++ Programming Guide, table "Throughput of Native Arithmetic
Instructions"), so the POPC form wins only where there are few rows or columns; 1-bit tensor core
products are native on compute capability 8.0 to 9.0 and emulated after it, where int8 is faster.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Kernel = Literal["xnor_gemm", "bmma", "int8_gemm"]
ShapeClass = Literal["one_row", "few_rows", "few_columns", "large"]

LOWEST_CAPABILITY = 80
"""Triton compiles for nothing older (10 · major + minor)."""


@dataclass(frozen=True)
class Tile:
    """A kernel and the block of the output that one program computes.

    Attributes:
        kernel: "xnor_gemm" (POPC), "bmma" (1-bit tensor cores) or "int8_gemm".
        block_m, block_n: rows and columns; powers of two.
        block_k: words of 32 elements per step of the hot loop.
        num_warps: warps per program.
        num_stages: depth of Triton's software pipeline; 1 for none.
        group_m: block rows that share columns in the L2 cache.
        max_registers: registers per thread that the assembler may use; its own choice by
            default, which for some blocks is so few that they spill.
    """

    kernel: Kernel
    block_m: int
    block_n: int
    block_k: int
    num_warps: int
    num_stages: int = 1
    group_m: int = 8
    max_registers: int | None = None


@dataclass(frozen=True)
class Tiles:
    """The tiles of one compute capability.

    Attributes:
        few: up to so many rows (or columns) the POPC form is chosen.
        shapes: the tile of every shape class.
    """

    few: int
    shapes: Mapping[ShapeClass, Tile]


ONE_ROW = 4
"""Rows up to which the smallest POPC block is chosen: there the weights' bandwidth limits."""

_popc: Mapping[ShapeClass, Tile] = {
    "one_row": Tile("xnor_gemm", 4, 32, 8, num_warps=1, num_stages=4),
    "few_rows": Tile("xnor_gemm", 16, 64, 8, num_warps=1, num_stages=3),
    "few_columns": Tile("xnor_gemm", 64, 32, 8, num_warps=2, num_stages=3),
}
_bmma: Mapping[ShapeClass, Tile] = {**_popc, "large": Tile("bmma", 128, 128, 8, num_warps=4)}
_int8: Mapping[ShapeClass, Tile] = {
    **_popc,
    "large": Tile("int8_gemm", 128, 128, 4, num_warps=8, num_stages=2),
}
# Where the sums live in registers (mma.sync) the assembler settles on 128 of them and spills.
_int8_mma: Mapping[ShapeClass, Tile] = {
    **_popc,
    "large": Tile("int8_gemm", 128, 128, 4, num_warps=8, num_stages=2, max_registers=255),
}

TILES: Mapping[int, Tiles] = MappingProxyType(
    {
        80: Tiles(few=64, shapes=MappingProxyType(_bmma)),
        90: Tiles(few=64, shapes=MappingProxyType(_bmma)),
        100: Tiles(few=32, shapes=MappingProxyType(_int8)),
        120: Tiles(few=32, shapes=MappingProxyType(_int8_mma)),
    }
)
"""Tiles by compute capability; a capability that is not a key uses the nearest lower one."""

ALTERNATIVES: tuple[Tile, ...] = (
    Tile("xnor_gemm", 64, 64, 4, num_warps=4, num_stages=3),
    Tile("xnor_gemm", 64, 128, 4, num_warps=4, num_stages=3),
    Tile("xnor_gemm", 128, 128, 4, num_warps=8, num_stages=3),
    Tile("bmma", 64, 64, 8, num_warps=4),
    Tile("bmma", 128, 256, 8, num_warps=8),
    Tile("int8_gemm", 64, 64, 4, num_warps=4, num_stages=2),
    Tile("int8_gemm", 128, 128, 4, num_warps=8, num_stages=2, max_registers=255),
)
"""More tiles for autotuning, checked like the others."""


def for_capability(compute_capability: int) -> Tiles:
    """The tiles of a GPU.

    Args:
        compute_capability: 10 · major + minor, such as 90 for H100.

    Raises:
        ValueError: it is older than 8.0.
    """
    known = [capability for capability in TILES if capability <= compute_capability]
    if not known:
        raise ValueError(
            f"the Triton kernels need compute capability {LOWEST_CAPABILITY} (8.0) or newer, "
            f"got {compute_capability}; use another back end"
        )
    return TILES[max(known)]


def shape_class(m: int, n: int, few: int) -> ShapeClass:
    """The shape class of an ``[m, n]`` output; ``few`` is ``Tiles.few``."""
    if m <= ONE_ROW:
        return "one_row"
    if m <= few:
        return "few_rows"
    if n <= few:
        return "few_columns"
    return "large"


def choose(m: int, n: int, compute_capability: int) -> Tile:
    """The tile for an ``[m, n]`` output on a GPU.

    Raises:
        ValueError: the GPU is older than 8.0.
    """
    tiles = for_capability(compute_capability)
    return tiles.shapes[shape_class(m, n, tiles.few)]


def candidates(m: int, n: int, compute_capability: int) -> tuple[Tile, ...]:
    """Tiles worth timing for a shape: the chosen one first, then every other that can run."""
    chosen = choose(m, n, compute_capability)
    return tuple(dict.fromkeys((chosen, *all_tiles(compute_capability))))


def all_tiles(compute_capability: int) -> tuple[Tile, ...]:
    """Every tile of the table and the alternatives that a GPU can run, without repetition."""
    tiles = (*for_capability(compute_capability).shapes.values(), *ALTERNATIVES)
    native = bmma_is_native(compute_capability)
    return tuple(dict.fromkeys(tile for tile in tiles if native or tile.kernel != "bmma"))


def bmma_is_native(compute_capability: int) -> bool:
    """Whether 1-bit tensor core products are an instruction: 8.0 to 9.0."""
    return 80 <= compute_capability <= 90
