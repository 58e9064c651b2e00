"""Block sizes of the gradient kernels, by compute capability, shape and format. Data, a chooser.

No tile has been timed on a GPU yet. They were chosen from compiled code: no spills, few barriers
and many tensor core products among the instructions of the hot loop. On compute capability 8.0 to
8.9 and 12.0 tensor cores take ±1 from registers, on 9.0 and 10.0 from shared memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from .tiles import for_capability

GradientClass = Literal["few", "float32", "ragged", "half"]

FEW_ROWS = 32
"""Rows (of g; columns for the weight gradient) up to which the smallest block is chosen."""

CHUNK = 256
"""Products of a float32 gradient that tensor cores sum before the sums are added with rounding.

Three terms of 16 products at a time are 48 sums, each off by less than 2^-23: 5.7e-6 at most.
"""


@dataclass(frozen=True)
class GradientTile:
    """The block of a gradient that one program computes.

    Attributes:
        block_m: rows of g, for the weight gradient columns; a power of two, at least 32.
        block_n: elements along the packed axis; a power of two, at least 32.
        block_k: products per step of the hot loop; a power of two, at least 16, at most ``CHUNK``.
        num_warps: warps per program.
        num_stages: depth of Triton's software pipeline; 1 for none.
        whole_words: every thread unpacks whole words; see ``float_product.unpack``.
        group_m: block rows that share columns in the L2 cache.
        max_registers: registers per thread that the assembler may use; its own choice by default.
    """

    block_m: int
    block_n: int
    block_k: int
    num_warps: int
    num_stages: int = 1
    whole_words: bool = False
    group_m: int = 8
    max_registers: int | None = None


_few = GradientTile(32, 64, 32, num_warps=4, num_stages=3)
_in_registers: Mapping[GradientClass, GradientTile] = {
    "few": _few,
    "float32": GradientTile(128, 128, 16, num_warps=8, num_stages=3),
    "ragged": GradientTile(128, 64, 16, num_warps=8, num_stages=3),
    "half": GradientTile(128, 128, 32, num_warps=8, num_stages=3),
}
_half = GradientTile(128, 128, 64, num_warps=8, num_stages=3, whole_words=True)
_hopper: Mapping[GradientClass, GradientTile] = {
    "few": _few,
    "float32": GradientTile(64, 128, 32, num_warps=4, num_stages=3, whole_words=True),
    "ragged": GradientTile(64, 128, 16, num_warps=4, num_stages=3),
    "half": _half,
}
_blackwell: Mapping[GradientClass, GradientTile] = {
    "few": _few,
    "float32": GradientTile(128, 128, 64, num_warps=8, num_stages=2, whole_words=True),
    "ragged": GradientTile(128, 128, 16, num_warps=8, num_stages=3),
    "half": _half,
}

GRADIENT_TILES: Mapping[int, Mapping[GradientClass, GradientTile]] = MappingProxyType(
    {
        80: MappingProxyType(_in_registers),
        90: MappingProxyType(_hopper),
        100: MappingProxyType(_blackwell),
        120: MappingProxyType(_in_registers),
    }
)
"""Tiles by compute capability; a capability that is not a key uses the nearest lower one."""


def gradient_class(rows: int, n: int, k: int, dtype: str) -> GradientClass:
    """The class of a gradient with so many rows of g (columns for the weight gradient).

    "ragged": rows of g or of the result do not start at multiples of 16 elements. Addresses of
    single elements then take the registers that a larger block would need.
    """
    if rows <= FEW_ROWS:
        return "few"
    if dtype != "float32":
        return "half"
    return "ragged" if n % 16 or k % 16 else "float32"


def choose_gradient(rows: int, n: int, k: int, dtype: str, compute_capability: int) -> GradientTile:
    """The tile for a gradient.

    Args:
        rows: of g, for the weight gradient its columns.
        n, k: columns of g, elements along the packed axis.
        dtype: of g.
        compute_capability: 10 · major + minor, such as 90 for H100.

    Raises:
        ValueError: the GPU is older than 8.0.
    """
    for_capability(compute_capability)
    nearest = max(known for known in GRADIENT_TILES if known <= compute_capability)
    return GRADIENT_TILES[nearest][gradient_class(rows, n, k, dtype)]
