"""A kernel launch as plain data: what to compile, what to pass, how to lay the operands out.

Nothing here imports triton. ``aot.compile_launch`` compiles a launch; whoever calls the compiled
kernel passes the arguments in the order of ``Launch.arguments``: buffers for pointers, the given
values for scalars, the output's buffer last.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from .tiles import Tile, bmma_is_native, choose

Epilogue = Literal["dot", "affine", "threshold"]
Layout = Literal["word-major", "row-major"]
Constant = int | str | None

MAX_EXTENT = 2**31 - 2**16
"""Largest M, N or K: index arithmetic inside a row or column is 32-bit, offsets are 64-bit."""

_COLUMN_OPERANDS: dict[Epilogue, tuple[tuple[str, str], ...]] = {
    "dot": (),
    "affine": (("scale", "*fp32"), ("bias", "*fp32")),
    "threshold": (("threshold", "*i32"), ("flip", "*i1")),
}
_OUTPUT_TYPE: dict[Epilogue, str] = {"dot": "*i32", "affine": "*fp32", "threshold": "*u32"}
_DTYPE = {"*i32": "int32", "*fp32": "float32", "*u32": "uint32"}


@dataclass(frozen=True)
class Argument:
    """One argument of a compiled kernel.

    Attributes:
        name: the kernel's parameter.
        type: Triton's name of the type: "*u32", "*u16", "*i32", "*fp32", "*bf16", "*fp16", "*i1"
            (a boolean array's bytes), "i32", "i64". Those with a star are pointers to device
            buffers of at least 16-byte alignment.
        value: a scalar's value; None for pointers.
    """

    name: str
    type: str
    value: int | None = None


@dataclass(frozen=True)
class Launch:
    """A kernel with everything that a call of it needs; hashable.

    Attributes:
        module: module of this package that holds the kernel.
        kernel: the kernel's name in it.
        arguments: the compiled kernel's arguments in order; the output pointer is the last one.
        constants: compile-time parameters by name. A pointer that is None is not read.
        grid: number of programs along x, y, z.
        num_warps, num_stages, max_registers: compile options; see ``tiles.Tile``.
        layout: of the packed arrays (a GEMM's operands, a packing's output): "word-major"
            uint32[words, rows] or "row-major" uint32[rows, words].
        words: words per row of these arrays; those beyond ceil(k/32) are zeros.
        popcounts: the kernel also takes the number of 1 bits of every row of x and w.
        out_shape, out_dtype: of the output array.
    """

    module: str
    kernel: str
    arguments: tuple[Argument, ...]
    constants: tuple[tuple[str, Constant], ...]
    grid: tuple[int, int, int]
    num_warps: int
    num_stages: int
    max_registers: int | None
    layout: Layout
    words: int
    popcounts: bool
    out_shape: tuple[int, int]
    out_dtype: str


def gemm(
    m: int,
    n: int,
    k: int,
    epilogue: Epilogue = "dot",
    *,
    compute_capability: int,
    words: int | None = None,
    tile: Tile | None = None,
) -> Launch:
    """A launch of the product of packed ``x [m, k]`` and ``w [n, k]``.

    The pointers are, in order: x, w, (row popcounts of x, of w: int32[m], int32[n], where
    ``Launch.popcounts``), the epilogue's two column operands, the output. See ``epilogue`` for
    the last three.

    Args:
        m, n, k: at least 1.
        epilogue: "dot" (int32), "affine" (float32) or "threshold" (packed bits).
        compute_capability: 10 · major + minor of the GPU, such as 90 for H100.
        words: words per row, at least ceil(k/32), the default. More where padding bits, 0 on
            both operands, also stand between elements. ``Launch.words`` can be larger still.
        tile: kernel and block sizes; the table's choice by default.

    Raises:
        ValueError: a size out of range, an unknown epilogue, a GPU older than 8.0, or a tile
            that cannot do this.
    """
    for name, size in (("m", m), ("n", n), ("k", k)):
        check_extent(name, size)
    if epilogue not in _OUTPUT_TYPE:
        raise ValueError(f'epilogue is "dot", "affine" or "threshold", not {epilogue!r}')
    chosen = choose(m, n, compute_capability)
    tile = tile or chosen
    _check_tile(tile, epilogue, compute_capability)

    words = _words(k, words)
    popcounts = tile.kernel == "bmma"
    if tile.kernel == "bmma":
        words = math.ceil(words / 8) * 8
    arguments = [Argument("x_ptr", "*u32"), Argument("w_ptr", "*u32")]
    if popcounts:
        arguments += [Argument("x_ones_ptr", "*i32"), Argument("w_ones_ptr", "*i32")]
    constants: dict[str, Constant] = {}
    operands = _COLUMN_OPERANDS[epilogue]
    for parameter, (_, type_) in zip(("first_ptr", "second_ptr"), operands, strict=False):
        arguments.append(Argument(parameter, type_))
    if not operands:
        constants |= {"first_ptr": None, "second_ptr": None}
    arguments += [Argument("m", "i32", m), Argument("n", "i32", n), Argument("k", "i32", k)]
    arguments.append(Argument("n_words", "i32", words))
    arguments.append(Argument("out_ptr", _OUTPUT_TYPE[epilogue]))
    constants |= {
        "EPILOGUE": epilogue,
        "BLOCK_M": tile.block_m,
        "BLOCK_N": tile.block_n,
        "BLOCK_K": tile.block_k,
        "GROUP_M": tile.group_m,
    }
    if tile.kernel == "xnor_gemm":
        constants["NUM_STAGES"] = tile.num_stages
    return Launch(
        module=tile.kernel,
        kernel=tile.kernel,
        arguments=tuple(arguments),
        constants=tuple(constants.items()),
        grid=one_axis(math.ceil(m / tile.block_m) * math.ceil(n / tile.block_n)),
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        max_registers=tile.max_registers,
        layout="word-major" if tile.kernel == "xnor_gemm" else "row-major",
        words=words,
        popcounts=popcounts,
        out_shape=(m, math.ceil(n / 32) if epilogue == "threshold" else n),
        out_dtype=_DTYPE[_OUTPUT_TYPE[epilogue]],
    )


def pack(
    rows: int,
    k: int,
    dtype: str,
    *,
    row_stride: int | None = None,
    column_stride: int = 1,
    layout: Layout = "row-major",
    words: int | None = None,
) -> Launch:
    """A launch of sign-and-pack of a floating matrix ``[rows, k]``.

    The pointers are the matrix and the packed output.

    Args:
        rows, k: at least 1.
        dtype: "float32", "float16" or "bfloat16".
        row_stride, column_stride: of the matrix, in elements. The default is a contiguous
            matrix; ``row_stride=1, column_stride=n`` packs the n columns of a contiguous
            ``w [k, n]``.
        layout: of the output: "row-major" uint32[rows, words], "word-major" uint32[words, rows].
        words: words per row, at least ceil(k/32), the default; the rest is zeros.

    Raises:
        ValueError: a size out of range, an unknown layout or a dtype that cannot be packed.
    """
    check_extent("rows", rows)
    check_extent("k", k)
    if dtype not in ("float32", "float16", "bfloat16"):
        raise ValueError(f"pack needs float32, float16 or bfloat16, got {dtype}; convert first")
    if layout not in ("row-major", "word-major"):
        raise ValueError(f'layout is "row-major" or "word-major", not {layout!r}')
    words = _words(k, words)
    row_stride = k if row_stride is None else row_stride
    if row_stride < 1 or column_stride < 1:
        raise ValueError(f"strides are at least 1, got {row_stride} and {column_stride}")

    half = dtype != "float32"
    row_major = layout == "row-major"
    strides = {
        "row_stride": row_stride,
        "column_stride": column_stride,
        "out_row_stride": words if row_major else 1,
        "out_word_stride": 1 if row_major else rows,
    }
    # Which index is contiguous decides how loads coalesce, so a stride of 1 is compiled in.
    constants: dict[str, Constant] = {name: 1 for name, stride in strides.items() if stride == 1}
    scalars = {name: Argument(name, "i64", stride) for name, stride in strides.items()}
    scalars |= {
        "rows": Argument("rows", "i32", rows),
        "k": Argument("k", "i32", k),
        "n_words": Argument("n_words", "i32", words),
    }
    order = ("row_stride", "column_stride", "rows", "k", *list(strides)[2:], "n_words")
    block_r, block_w = (4, 32) if column_stride == 1 else (128, 1)
    constants |= {"SIGN_BIT": 15 if half else 31, "BLOCK_R": block_r, "BLOCK_W": block_w}
    return Launch(
        module="pack",
        kernel="pack",
        arguments=(
            Argument("x_ptr", "*u16" if half else "*u32"),
            *(scalars[name] for name in order if name not in constants),
            Argument("out_ptr", "*u32"),
        ),
        constants=tuple(constants.items()),
        grid=one_axis(math.ceil(rows / block_r) * math.ceil(words / block_w)),
        num_warps=4,
        num_stages=1,
        max_registers=None,
        layout=layout,
        words=words,
        popcounts=False,
        out_shape=(rows, words) if row_major else (words, rows),
        out_dtype="uint32",
    )


def check_extent(name: str, size: int) -> None:
    """Raise ValueError unless a kernel can take a matrix of this many rows or columns."""
    if not 1 <= size <= MAX_EXTENT:
        raise ValueError(
            f"{name} must be 1 to {MAX_EXTENT} for a Triton kernel, got {size}; "
            "an empty product needs no kernel, a larger one is to be split"
        )


def _words(k: int, words: int | None) -> int:
    least = math.ceil(k / 32)
    words = least if words is None else words
    if not least <= words <= MAX_EXTENT // 32:
        raise ValueError(f"words is {least} (ceil(k/32)) to {MAX_EXTENT // 32}, got {words}")
    return words


def _check_tile(tile: Tile, epilogue: Epilogue, compute_capability: int) -> None:
    sizes = {"block_m": tile.block_m, "block_n": tile.block_n, "block_k": tile.block_k}
    odd = {name: size for name, size in sizes.items() if size < 1 or size & (size - 1)}
    if odd:
        raise ValueError(f"block sizes are powers of two, got {odd}")
    if epilogue == "threshold" and tile.block_n % 32:
        raise ValueError(f"a threshold epilogue needs block_n in multiples of 32, got {tile}")
    if tile.kernel == "int8_gemm" and min(tile.block_m, tile.block_n) < 16:
        raise ValueError(f"int8_gemm needs blocks of at least 16 by 16, got {tile}")
    if tile.kernel != "bmma":
        return
    if not bmma_is_native(compute_capability):
        raise ValueError(
            "the 1-bit tensor core kernel runs on compute capability 80 to 90, got "
            f"{compute_capability}, where the product is emulated; use an int8_gemm tile"
        )
    least_n = 4 * tile.num_warps  # 8 columns for each of the half of the warps that lie along N
    if tile.num_warps not in (4, 8) or tile.block_m < 32 or tile.block_n < least_n:
        raise ValueError(
            f"bmma needs 4 or 8 warps and a block of at least 32 by {least_n}, got {tile}"
        )
    if tile.block_k != 8:
        raise ValueError(f"bmma needs block_k=8, the words of one instruction, got {tile.block_k}")


def one_axis(programs: int) -> tuple[int, int, int]:
    """A grid of so many programs along x; ValueError where there cannot be one."""
    if programs >= 2**31:
        raise ValueError(f"{programs} programs exceed a grid's 2^31 - 1; split the matrix")
    return programs, 1, 1
