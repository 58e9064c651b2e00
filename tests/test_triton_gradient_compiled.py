"""Machine code of the gradient kernels for every tile of the table: instructions and registers.

Compiled for GPUs that need not be here, for sizes that are multiples of 16 and for sizes that are
not (Triton compiles them differently).
"""

import itertools
import re

import pytest

pytest.importorskip("triton", reason="the Triton kernels need triton")

from tools import sass
from tools.gradients import DTYPES, KINDS

from kernels_triton import aot
from kernels_triton.gradient_launch import Gradient, gradient
from kernels_triton.gradient_tiles import (
    FEW_ROWS,
    GRADIENT_TILES,
    GradientTile,
    choose_gradient,
    gradient_class,
)

TENSOR = {80: "HMMA", 90: "HGMMA", 100: "UTCHMMA", 120: "HMMA"}
"""16-bit tensor core instruction. Blocks of few rows use HMMA everywhere."""

# Elements of the product (rows, columns, depth) that one instruction of a warp computes.
HMMA = 16 * 8 * 16
COLUMNS = {"aligned": (4096, 4096), "ragged": (1001, 1001), "g": (1001, 4096), "k": (4096, 1001)}
MOST_SHARED = 96 * 1024
"""What a block can have on every GPU since 8.6, with a reserve."""


def check(
    cc: int, kind: Gradient, rows: int, n: int, k: int, dtype: str, masked: bool
) -> sass.Machine:
    """Compile a launch with so many rows of g (columns, for the weight gradient)."""
    m, n = (rows, n) if kind == "input_gradient" else (n, rows)
    launch = gradient(kind, m, n, k, dtype, masked=masked, compute_capability=cc)
    compiled = aot.compile_launch(launch, cc)
    code = sass.read(compiled.cubin)
    assert code.spills == 0
    assert compiled.shared_bytes <= MOST_SHARED
    tile = choose_gradient(rows, n, k, dtype, cc)
    check_loop(code, tile, cc, gradient_class(rows, n, k, dtype) == "few", dtype)
    return code


def check_loop(code: sass.Machine, tile: GradientTile, cc: int, few: bool, dtype: str) -> None:
    instruction = "HMMA" if few else TENSOR[cc]
    loop = code.hot_loop(instruction)
    mix = sass.mix(loop)
    terms = 3 if dtype == "float32" else 1
    products = tile.block_m * tile.block_n * tile.block_k * terms
    if instruction == "HMMA":  # no product is computed twice
        assert mix["HMMA"] == products // (HMMA * tile.num_warps)
        assert {i.name for i in loop if i.base == "HMMA"} == {
            "HMMA.16816.F32" if dtype == "float16" else "HMMA.16816.F32.BF16"
        }
    else:
        assert mix[instruction] > 0 and mix[instruction] % terms == 0
    assert not code.calls(loop)
    assert mix["BAR"] <= 4
    # Two subtractions cut a number into terms; sums of chunks stay out of the hot loop. In blocks
    # of few rows all warps hold all of g.
    elements = tile.block_m * tile.block_k // (32 * (1 if few else tile.num_warps))
    assert mix["FADD"] + 2 * mix["FADD2"] == (2 * elements if terms == 3 else 0)
    assert mix["FFMA"] == 0


CASES = list(itertools.product(GRADIENT_TILES, KINDS))
SIZES = [
    (FEW_ROWS, "aligned"),
    (FEW_ROWS, "ragged"),
    (1001, "ragged"),
    (1001, "g"),
    (4096, "aligned"),
    (4096, "k"),
]


@pytest.mark.parametrize(("cc", "kind"), CASES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_chosen_tiles(cc: int, kind: Gradient, dtype: str) -> None:
    check(cc, kind, 1001, *COLUMNS["ragged"], dtype, True)


@pytest.mark.slow
@pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
@pytest.mark.parametrize(("rows", "columns"), SIZES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("cc", "kind"), CASES)
def test_every_tile(
    cc: int, kind: Gradient, dtype: str, rows: int, columns: str, masked: bool
) -> None:
    check(cc, kind, rows, *COLUMNS[columns], dtype, masked)


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_are_the_arguments(kind: Gradient) -> None:
    """In order, the output last; Triton appends two scratch pointers."""
    launch = gradient(kind, 100, 100, 100, masked=True, compute_capability=90)
    compiled = aot.compile_launch(launch, 90)
    assert compiled.name == kind
    declared = re.findall(r"\.param \.(\w+)", compiled.ptx[: compiled.ptx.index(".reqntid")])
    expected = ["u64" if a.value is None else "u32" for a in launch.arguments]
    assert declared == [*expected, "u64", "u64"]


def test_no_atomics() -> None:
    launch = gradient("weight_gradient", 4096, 64, 64, compute_capability=80)
    ptx = aot.compile_launch(launch, 80).ptx
    assert not re.search(r"\b(atom|red)\.", ptx)
