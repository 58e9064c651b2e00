"""The compiled sm_80 code of every Triton kernel, executed by the PTX emulator: exact equality.

The emulator checks every access for bounds, alignment and use before initialisation.
"""

import numpy as np
import pytest

pytest.importorskip("triton", reason="the Triton kernels need triton")

from test_triton_kernels import DTYPES, EPILOGUES, matrix
from tools import launches

from kernels_triton.launch import Epilogue, gemm, pack
from kernels_triton.tiles import Tile, all_tiles

SMALL = {
    "xnor_gemm": Tile("xnor_gemm", 16, 32, 2, num_warps=1, group_m=2),
    "xnor_gemm, pipelined": Tile("xnor_gemm", 16, 32, 2, num_warps=1, num_stages=3, group_m=2),
    "int8_gemm": Tile("int8_gemm", 32, 32, 1, num_warps=4, group_m=2),
    "int8_gemm, pipelined": Tile("int8_gemm", 32, 32, 2, num_warps=4, num_stages=3, group_m=2),
    "bmma": Tile("bmma", 32, 32, 8, num_warps=4, group_m=2),
}
SHAPES = [
    (1, 1, 1),  # one bit of one word
    (1, 33, 31),  # one row, a word that is not full, two output words per row
    (32, 64, 32),  # no edge anywhere, and sizes whose alignment Triton is told
    (17, 31, 33),  # one more bit than a word
    (101, 67, 77),  # blocks of rows in two groups, primes
    (40, 48, 256),  # one step of the 1-bit instruction
    (5, 37, 1000),
    (3, 13, 4099),  # a prime, long K
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("epilogue", EPILOGUES)
@pytest.mark.parametrize("tile", SMALL.values(), ids=SMALL)
def test_gemm(tile: Tile, epilogue: Epilogue, shape: tuple[int, int, int]) -> None:
    launch = gemm(*shape, epilogue, compute_capability=80, tile=tile)
    operands, expected = launches.product(launch, *shape, epilogue)
    np.testing.assert_array_equal(launches.emulated(launch, operands), expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("epilogue", "shape"),
    [
        ("dot", (131, 263, 321)),
        ("affine", (131, 263, 321)),
        ("threshold", (131, 263, 321)),
        ("dot", (144, 288, 512)),
        ("threshold", (144, 288, 512)),
    ],
    ids=str,
)
@pytest.mark.parametrize("tile", all_tiles(80), ids=launches.label)
def test_every_tile(tile: Tile, epilogue: Epilogue, shape: tuple[int, int, int]) -> None:
    launch = gemm(*shape, epilogue, compute_capability=80, tile=tile)
    operands, expected = launches.product(launch, *shape, epilogue)
    np.testing.assert_array_equal(launches.emulated(launch, operands), expected)


@pytest.mark.parametrize("tile", SMALL.values(), ids=SMALL)
def test_words_beyond_k_are_padding(tile: Tile) -> None:
    m, n, k = 5, 33, 40
    launch = gemm(m, n, k, compute_capability=80, words=9, tile=tile)
    operands, expected = launches.product(launch, m, n, k, "dot")
    np.testing.assert_array_equal(launches.emulated(launch, operands), expected)


@pytest.mark.parametrize("shape", [(1, 1), (5, 33), (130, 77), (16, 1024), (3, 4099)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def test_pack_rows(dtype: type, shape: tuple[int, int]) -> None:
    x = matrix(*shape, dtype)
    launch = pack(*shape, np.dtype(dtype).name)
    expected = launches.words_of(launches.signs_of(x), launch.words)
    bits = x.view(f"u{x.dtype.itemsize}")
    np.testing.assert_array_equal(launches.emulated(launch, [bits]), expected)


@pytest.mark.parametrize("shape", [(1, 1), (129, 65), (16, 1024), (7, 1000)], ids=str)
@pytest.mark.parametrize("layout", ["row-major", "word-major"])
def test_pack_columns(layout: str, shape: tuple[int, int]) -> None:
    n, k = shape
    w = matrix(k, n, np.float32)
    launch = pack(n, k, "float32", row_stride=1, column_stride=n, layout=layout)
    expected = launches.words_of(launches.signs_of(np.ascontiguousarray(w.T)), launch.words)
    expected = expected if layout == "row-major" else expected.T
    np.testing.assert_array_equal(launches.emulated(launch, [w.view(np.uint32)]), expected)
