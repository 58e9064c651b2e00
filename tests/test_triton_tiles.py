"""Choice of Triton kernels, launches as data, refusals, autotuning: nothing is compiled."""

import math
import subprocess
import sys
from dataclasses import replace

import pytest

from kernels_triton.autotune import autotune
from kernels_triton.launch import MAX_EXTENT, Launch, gemm, pack
from kernels_triton.tiles import (
    ONE_ROW,
    TILES,
    Tile,
    all_tiles,
    candidates,
    choose,
    for_capability,
)

POPC = Tile("xnor_gemm", 16, 32, 4, num_warps=1)
BMMA = Tile("bmma", 64, 64, 8, num_warps=4)


@pytest.mark.parametrize(
    ("cc", "kernel"),
    [
        (80, "bmma"),
        (86, "bmma"),
        (89, "bmma"),
        (90, "bmma"),
        (100, "int8_gemm"),
        (120, "int8_gemm"),
    ],
)
def test_large_products(cc: int, kernel: str) -> None:
    assert choose(4096, 4096, cc).kernel == kernel


@pytest.mark.parametrize("cc", TILES)
def test_few_rows_or_columns_use_popcount(cc: int) -> None:
    few = for_capability(cc).few
    for m, n in [(1, 4096), (few, 4096), (4096, 1), (4096, few)]:
        assert choose(m, n, cc).kernel == "xnor_gemm"
    assert choose(few + 1, few + 1, cc).kernel != "xnor_gemm"


@pytest.mark.parametrize("cc", TILES)
def test_one_row_has_its_own_tile(cc: int) -> None:
    assert choose(ONE_ROW, 4096, cc).block_m == ONE_ROW
    assert choose(ONE_ROW + 1, 4096, cc).block_m > ONE_ROW


@pytest.mark.parametrize(("unknown", "known"), [(89, 80), (99, 90), (103, 100), (130, 120)])
def test_an_unknown_capability_uses_the_nearest_lower_one(unknown: int, known: int) -> None:
    assert for_capability(unknown) is TILES[known]


def test_gpus_that_are_too_old() -> None:
    with pytest.raises(ValueError, match=r"need compute capability 80 \(8.0\) or newer, got 75"):
        gemm(4, 4, 4, compute_capability=75)


def test_every_tile_makes_a_launch() -> None:
    for cc in TILES:
        tiles = all_tiles(cc)
        assert len(set(tiles)) == len(tiles)
        assert any(tile.kernel == "bmma" for tile in tiles) == (cc <= 90)
        for tile in tiles:
            launch = gemm(70, 70, 70, "threshold", compute_capability=cc, tile=tile)
            assert launch.kernel == tile.kernel
            assert launch.grid[0] == math.ceil(70 / tile.block_m) * math.ceil(70 / tile.block_n)


def test_launch_of_popcount() -> None:
    launch = gemm(5, 70, 77, "threshold", compute_capability=80, tile=POPC)
    assert [(a.type, a.value) for a in launch.arguments] == [
        ("*u32", None),
        ("*u32", None),
        ("*i32", None),
        ("*i1", None),
        ("i32", 5),
        ("i32", 70),
        ("i32", 77),
        ("i32", 3),
        ("*u32", None),
    ]
    assert (launch.layout, launch.words, launch.popcounts) == ("word-major", 3, False)
    assert (launch.out_shape, launch.out_dtype) == ((5, 3), "uint32")
    assert launch.grid == (3, 1, 1)
    assert hash(launch) == hash(replace(launch))


def test_launch_of_bmma() -> None:
    launch = gemm(100, 100, 300, compute_capability=90)
    names = [a.name for a in launch.arguments]
    assert names[:4] == ["x_ptr", "w_ptr", "x_ones_ptr", "w_ones_ptr"]
    assert (launch.layout, launch.words, launch.popcounts) == ("row-major", 16, True)
    assert (launch.out_shape, launch.out_dtype) == ((100, 100), "int32")


def test_launch_of_pack() -> None:
    launch = pack(10, 70, "bfloat16")
    assert [(a.name, a.type, a.value) for a in launch.arguments] == [
        ("x_ptr", "*u16", None),
        ("row_stride", "i64", 70),
        ("rows", "i32", 10),
        ("k", "i32", 70),
        ("out_row_stride", "i64", 3),
        ("n_words", "i32", 3),
        ("out_ptr", "*u32", None),
    ]
    assert dict(launch.constants)["column_stride"] == 1
    assert (launch.out_shape, launch.layout, launch.words) == ((10, 3), "row-major", 3)
    turned = pack(10, 70, "float32", row_stride=1, column_stride=10, layout="word-major", words=8)
    assert (turned.out_shape, turned.layout, turned.words) == ((8, 10), "word-major", 8)


@pytest.mark.parametrize("sizes", [(0, 4, 4), (4, 0, 4), (4, 4, 0), (-1, 4, 4)])
def test_empty_products(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"[mnk] must be 1 to \d+ for a Triton kernel, got"):
        gemm(*sizes, compute_capability=80)


@pytest.mark.parametrize("axis", range(3))
def test_sizes_beyond_32_bits(axis: int) -> None:
    sizes = [4, 4, 4]
    sizes[axis] = MAX_EXTENT
    gemm(*sizes, compute_capability=80)
    sizes[axis] += 1
    with pytest.raises(ValueError, match="a larger one is to be split"):
        gemm(*sizes, compute_capability=80)


def test_too_many_programs() -> None:
    with pytest.raises(ValueError, match=r"programs exceed a grid's 2\^31 - 1"):
        gemm(2**30, 2**30, 32, compute_capability=80)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epilogue": "relu"}, 'epilogue is "dot", "affine" or "threshold", not \'relu\''),
        ({"words": 2}, r"words is 3 \(ceil\(k/32\)\) to"),
        ({"tile": BMMA, "compute_capability": 100}, "runs on compute capability 80 to 90, got 100"),
        ({"tile": BMMA, "compute_capability": 120}, "use an int8_gemm tile"),
        (
            {"tile": replace(POPC, block_n=16), "epilogue": "threshold"},
            "needs block_n in multiples of 32",
        ),
        ({"tile": replace(POPC, block_m=48)}, "powers of two, got {'block_m': 48}"),
        ({"tile": replace(BMMA, block_m=16)}, "bmma needs"),
        ({"tile": replace(BMMA, block_k=4)}, "bmma needs"),
        ({"tile": replace(BMMA, num_warps=2)}, "bmma needs"),
        ({"tile": Tile("int8_gemm", 8, 32, 1, num_warps=4)}, "int8_gemm needs blocks of at least"),
    ],
)
def test_what_gemm_refuses(change: dict[str, object], message: str) -> None:
    arguments = {"compute_capability": 80, **change}
    with pytest.raises(ValueError, match=message):
        gemm(40, 40, 77, **arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": 0}, "rows must be 1 to"),
        ({"k": 0}, "k must be 1 to"),
        ({"dtype": "int32"}, "float32, float16 or bfloat16, got int32"),
        ({"layout": "panels"}, 'layout is "row-major" or "word-major", not \'panels\''),
        ({"words": 1}, r"words is 3 \(ceil\(k/32\)\)"),
        ({"column_stride": 0}, "strides are at least 1"),
        ({"rows": MAX_EXTENT, "k": MAX_EXTENT}, "exceed a grid's"),
    ],
)
def test_what_pack_refuses(change: dict[str, object], message: str) -> None:
    arguments = {"rows": 10, "k": 77, "dtype": "float32", **change}
    with pytest.raises(ValueError, match=message):
        pack(**arguments)


def tuned(times: dict[int, list[float]], **options: object) -> list[int]:
    """The block rows of tiles, fastest first, when a tile's runs take these times in turn."""
    left = {block: iter(sequence) for block, sequence in times.items()}

    def measure(launch: Launch) -> float:
        seconds = next(left[dict(launch.constants)["BLOCK_M"]])
        if seconds < 0:
            raise RuntimeError("out of resource: shared memory")
        return seconds

    tiles = [replace(POPC, block_m=block) for block in times]
    timings = autotune(
        40, 40, 40, compute_capability=80, measure=measure, candidates=tiles, repeats=3, **options
    )
    return [timing.tile.block_m for timing in timings]


def test_autotune_takes_the_smallest_median() -> None:
    assert tuned({16: [3, 3, 3], 32: [2, 99, 2], 64: [1, 5, 5]}) == [32, 16, 64]


def test_autotune_keeps_the_order_of_ties() -> None:
    assert tuned({64: [1, 1, 1], 16: [1, 1, 1]}) == [64, 16]


def test_autotune_drops_what_fails() -> None:
    assert tuned({16: [1, -1], 32: [2, 2, 2], 64: [math.nan], 128: [math.inf]}) == [32]
    with pytest.raises(ValueError, match="none of 2 candidate tiles ran"):
        tuned({16: [-1], 32: [-1]})


def test_autotune_candidates() -> None:
    seen = []
    autotune(
        512, 512, 512, compute_capability=100, measure=lambda launch: seen.append(launch) or 1.0,
        repeats=1,
    )  # fmt: skip
    assert [launch.kernel for launch in seen] == [t.kernel for t in candidates(512, 512, 100)]
    assert seen[0] == gemm(512, 512, 512, compute_capability=100)
    with pytest.raises(ValueError, match="repeats is at least 1, got 0"):
        autotune(4, 4, 4, compute_capability=80, measure=lambda launch: 1.0, repeats=0)


def test_importing_needs_no_triton() -> None:
    code = (
        "import sys, kernels_triton.autotune, kernels_triton.launch, kernels_triton.tiles;"
        "sys.exit('triton' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
