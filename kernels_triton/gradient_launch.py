"""Launches of the gradients of a product of packed ±1 matrices. Nothing here imports triton."""

from __future__ import annotations

import math
from typing import Literal

from .gradient_tiles import CHUNK, GradientTile, choose_gradient
from .launch import Argument, Constant, Launch, check_extent, one_axis

Gradient = Literal["input_gradient", "weight_gradient"]

WIDEST = 2**22
"""Largest N or K: offsets inside a block are 32-bit."""

FLOATS = {"float32": "*fp32", "bfloat16": "*bf16", "float16": "*fp16"}


def gradient(
    kind: Gradient,
    m: int,
    n: int,
    k: int,
    dtype: str = "float32",
    *,
    masked: bool = False,
    compute_capability: int,
    tile: GradientTile | None = None,
) -> Launch:
    """A launch of a gradient of ``x [m, k] @ w [k, n]``, given the gradient g of the result.

    The pointers are, in order, g ``[m, n]``; the other factor; where ``masked``, words of which a
    bit 0 sets the gradient there to 0; the output.

    ================== ======================== ==================== ==================
    kind               other factor             mask                 output
    ================== ======================== ==================== ==================
    "input_gradient"   w: uint32[n, ceil(k/32)] [m, ceil(k/32)]      float32[m, k]
    "weight_gradient"  x: uint32[m, ceil(k/32)] [k, ceil(n/32)]      float32[k, n]
    ================== ======================== ==================== ==================

    Args:
        kind: "input_gradient" (of x) or "weight_gradient" (of w).
        m, n, k: at least 1.
        dtype: of g: "float32", "bfloat16" or "float16".
        masked: whether there is a mask.
        compute_capability: 10 · major + minor of the GPU, such as 90 for H100.
        tile: block sizes; the table's choice by default.

    Raises:
        ValueError: a size out of range, an unknown kind or dtype, a GPU older than 8.0, or a tile
            that cannot do this.
    """
    for name, size in (("m", m), ("n", n), ("k", k)):
        check_extent(name, size)
        if name != "m" and size > WIDEST:
            raise ValueError(f"{name} is at most {WIDEST} for a gradient kernel, got {size}")
    if kind not in ("input_gradient", "weight_gradient"):
        raise ValueError(f'kind is "input_gradient" or "weight_gradient", not {kind!r}')
    if dtype not in FLOATS:
        raise ValueError(f"a gradient kernel needs {', '.join(FLOATS)}, got {dtype}; convert first")
    rows = m if kind == "input_gradient" else n
    chosen = choose_gradient(rows, n, k, dtype, compute_capability)
    tile = tile or chosen
    _check_tile(tile)

    constants: dict[str, Constant] = {
        "BLOCK_M": tile.block_m,
        "BLOCK_N": tile.block_n,
        "BLOCK_K": tile.block_k,
        "GROUP_M": tile.group_m,
        "WHOLE": tile.whole_words,
        "CHUNK": CHUNK if dtype == "float32" else None,
    }
    arguments = [Argument("g_ptr", FLOATS[dtype]), Argument("packed_ptr", "*u32")]
    if masked:
        arguments.append(Argument("mask_ptr", "*u32"))
    else:
        constants["mask_ptr"] = None
    arguments += [Argument("m", "i32", m), Argument("n", "i32", n), Argument("k", "i32", k)]
    arguments.append(Argument("out_ptr", "*fp32"))
    return Launch(
        module="gradient",
        kernel=kind,
        arguments=tuple(arguments),
        constants=tuple(constants.items()),
        grid=one_axis(math.ceil(rows / tile.block_m) * math.ceil(k / tile.block_n)),
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        max_registers=tile.max_registers,
        layout="row-major",
        words=math.ceil(k / 32),
        popcounts=False,
        out_shape=(m, k) if kind == "input_gradient" else (k, n),
        out_dtype="float32",
    )


def _check_tile(tile: GradientTile) -> None:
    least = {"block_m": 32, "block_n": 32, "block_k": 16}
    for name, size in least.items():
        found = getattr(tile, name)
        if found < size or found & (found - 1):
            raise ValueError(f"{name} is a power of two, at least {size}, got {found}")
        if found > 256:
            raise ValueError(f"{name} is at most 256, got {found}")
