"""Machine code of the Triton kernels for every tile of the table: instructions and registers.

Compiled for GPUs that need not be here. The counts are of the innermost loop that holds the
kernel's own instruction, for sizes that are multiples of 16 and for sizes that are not (Triton
compiles them differently).
"""

import re

import pytest

pytest.importorskip("triton", reason="the Triton kernels need triton")

from tools import launches, sass

from kernels_triton import aot
from kernels_triton.launch import Epilogue, gemm, pack
from kernels_triton.tiles import ONE_ROW, TILES, Tile, all_tiles

CAPABILITIES = (80, 90, 100)
SIZES = {"aligned": 4096, "unaligned": 1001}
EPILOGUES: tuple[Epilogue, ...] = ("dot", "affine", "threshold")
TENSOR = {80: "IMMA", 90: "IGMMA", 100: "UTCIMMA", 120: "IMMA"}
"""int8 tensor core instruction."""

CHOSEN = [(cc, tile) for cc, tiles in TILES.items() for tile in tiles.shapes.values()]
REST = [(cc, t) for cc in CAPABILITIES for t in all_tiles(cc) if (cc, t) not in CHOSEN]


def machine(cc: int, tile: Tile, epilogue: Epilogue, size: int) -> sass.Machine:
    launch = gemm(size, size, size, epilogue, compute_capability=cc, tile=tile)
    return sass.read(aot.compile_launch(launch, cc).cubin)


def check(cc: int, tile: Tile, epilogue: Epilogue, size: int) -> None:
    code = machine(cc, tile, epilogue, size)
    assert code.spills == 0
    if tile.kernel == "xnor_gemm":
        check_popcount(code, tile)
    elif tile.kernel == "bmma":
        check_bmma(code, tile)
    else:
        assert sass.mix(code.hot_loop(TENSOR[cc]))[TENSOR[cc]] > 0
        assert sass.mix(code.instructions)["POPC"] == 0


def check_popcount(code: sass.Machine, tile: Tile) -> None:
    """One POPC per pair of words, one LOP3 for the XOR, an IADD3 for two sums.

    VIADD is IADD3 with two operands.
    """
    mix = sass.mix(code.hot_loop("POPC"))
    pairs = tile.block_m * tile.block_n * tile.block_k // (32 * tile.num_warps)
    assert mix["POPC"] == pairs
    assert mix["LOP3"] <= 1.1 * pairs
    # With one row the loop waits for memory; half of its additions are of addresses.
    assert mix["IADD3"] + mix["VIADD"] <= (0.6 if tile.block_m > ONE_ROW else 1.0) * pairs
    assert mix["BAR"] <= 2


def check_bmma(code: sass.Machine, tile: Tile) -> None:
    loop = code.hot_loop("BMMA")
    fragments = tile.block_m // 16 * (tile.block_n // 8) // tile.num_warps
    assert sass.mix(loop)["BMMA"] == fragments
    assert fragments == 32 or tile.block_m < 128
    assert not code.calls(code.instructions)
    assert code.count("POPC") == 0


@pytest.mark.parametrize("epilogue", ["dot", "threshold"])
@pytest.mark.parametrize(
    ("cc", "tile"), [c for c in CHOSEN if c[0] in CAPABILITIES], ids=launches.label
)
def test_chosen_tiles(cc: int, tile: Tile, epilogue: Epilogue) -> None:
    check(cc, tile, epilogue, SIZES["unaligned"])


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("epilogue", EPILOGUES)
@pytest.mark.parametrize(("cc", "tile"), CHOSEN, ids=launches.label)
def test_every_tile_of_the_table(cc: int, tile: Tile, epilogue: Epilogue, size: int) -> None:
    check(cc, tile, epilogue, size)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("epilogue", "size"), [("dot", 1001), ("affine", 1001), ("threshold", 1001), ("dot", 4096)]
)
@pytest.mark.parametrize(("cc", "tile"), REST, ids=launches.label)
def test_alternatives(cc: int, tile: Tile, epilogue: Epilogue, size: int) -> None:
    check(cc, tile, epilogue, size)


@pytest.mark.parametrize("cc", [80, 86, 90, 100, 103, 120])
def test_ptx_that_cuda_12_drivers_read(cc: int) -> None:
    compiled = aot.compile_launch(gemm(40, 3, 40, compute_capability=cc), cc)
    version = re.search(r"\.version (\d)\.(\d)", compiled.ptx)
    expected = aot.PTX_VERSION_BY_CAPABILITY.get(cc, 87)
    assert version and int(version[1] + version[2]) == expected
    assert re.search(r"\.target (\w+)", compiled.ptx)[1].startswith(f"sm_{cc}")
    assert compiled.name == "xnor_gemm" and f".entry {compiled.name}(" in compiled.ptx
    assert compiled.num_ctas == 1
    assert compiled.shared_bytes <= 48 * 1024


@pytest.mark.parametrize("cc", CAPABILITIES)
@pytest.mark.parametrize("epilogue", EPILOGUES)
def test_parameters_are_the_arguments(cc: int, epilogue: Epilogue) -> None:
    """In order, the output last; Triton appends two scratch pointers."""
    launch = gemm(100, 100, 100, epilogue, compute_capability=cc)
    ptx = aot.compile_launch(launch, cc).ptx
    declared = re.findall(r"\.param \.(\w+)", ptx[: ptx.index(".reqntid")])
    expected = ["u64" if a.value is None else "u32" for a in launch.arguments]
    assert declared == [*expected, "u64", "u64"]
    assert launch.arguments[-1].name == "out_ptr"


def test_popcount_is_one_instruction_in_ptx() -> None:
    ptx = aot.compile_launch(gemm(40, 40, 40, compute_capability=80), 80).ptx
    assert "popc.b32" in ptx


def test_affine_is_rounded_twice() -> None:
    """As numpy does it."""
    launch = gemm(40, 40, 40, "affine", compute_capability=90)
    ptx = aot.compile_launch(launch, 90).ptx
    assert "mul.rn.f32" in ptx or "mul.f32" in ptx
    assert "fma.rn.f32" not in ptx


@pytest.mark.parametrize("cc", CAPABILITIES)
@pytest.mark.parametrize(("row_stride", "column_stride"), [(4096, 1), (1, 4096)])
def test_pack(cc: int, row_stride: int, column_stride: int) -> None:
    launch = pack(4096, 4096, "float32", row_stride=row_stride, column_stride=column_stride)
    code = sass.read(aot.compile_launch(launch, cc).cubin)
    assert code.spills == 0
    loads = [i.name for i in code.instructions if i.base == "LDG"]
    if column_stride == 1:
        assert all(name.endswith(".128") for name in loads)


def test_compiling_twice_is_once() -> None:
    launches = [gemm(size, size, size, compute_capability=90) for size in (40, 56)]
    assert launches[0] != launches[1]
    first, second = (aot.compile_launch(launch, 90) for launch in launches)
    assert first is second
