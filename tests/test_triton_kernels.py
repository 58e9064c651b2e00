"""The Triton kernels in Triton's interpreter against integer numpy, and packing by bits."""

import ml_dtypes
import numpy as np
import pytest

pytest.importorskip("triton", reason="the Triton kernels need triton")

from tools import launches

from kernels_triton.launch import Epilogue, gemm, pack
from kernels_triton.tiles import Tile

EPILOGUES: tuple[Epilogue, ...] = ("dot", "affine", "threshold")
SMALL = {
    "xnor_gemm": Tile("xnor_gemm", 16, 32, 4, num_warps=1, num_stages=3, group_m=2),
    "int8_gemm": Tile("int8_gemm", 16, 32, 2, num_warps=1, num_stages=2, group_m=2),
}
SHAPES = [
    (1, 1, 1),  # one bit of one word
    (1, 33, 31),  # one row, a word that is not full, two output words per row
    (7, 32, 32),  # full words, full columns
    (17, 31, 33),  # one more row than a block, one more bit than a word
    (37, 70, 77),  # three blocks of rows in groups of two, edges on every side
    (5, 97, 1000),  # whole blocks of words and a rest
    (3, 13, 4099),  # a prime, long K
]
DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("epilogue", EPILOGUES)
@pytest.mark.parametrize("kernel", SMALL)
def test_gemm(kernel: str, epilogue: Epilogue, shape: tuple[int, int, int]) -> None:
    launch = gemm(*shape, epilogue, compute_capability=80, tile=SMALL[kernel])
    operands, expected = launches.product(launch, *shape, epilogue)
    out = launches.interpreted(launch, operands)
    assert out.dtype == expected.dtype
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("kernel", SMALL)
def test_words_beyond_k_are_padding(kernel: str) -> None:
    m, n, k = 5, 33, 40
    launch = gemm(m, n, k, compute_capability=80, words=7, tile=SMALL[kernel])
    assert launch.words == 7
    operands, expected = launches.product(launch, m, n, k, "dot")
    np.testing.assert_array_equal(launches.interpreted(launch, operands), expected)


def matrix(rows: int, k: int, dtype: type) -> np.ndarray:
    """Random bits, and at the start every special value of both signs."""
    rng = np.random.default_rng(rows * k)
    unsigned = np.dtype(f"u{np.dtype(dtype).itemsize}")
    x = rng.integers(0, np.iinfo(unsigned).max, (rows, k), unsigned, endpoint=True)
    special = np.array([0.0, 1.0, np.inf, np.nan], dtype).view(unsigned)
    special = np.concatenate([special, [unsigned.type(1)]])  # the smallest subnormal
    sign = unsigned.type(1 << (8 * unsigned.itemsize - 1))
    special = np.concatenate([special, special | sign])
    x.flat[: special.size] = special[: x.size]
    return x.view(dtype)


@pytest.mark.parametrize(
    "shape", [(1, 1), (3, 31), (33, 32), (5, 33), (130, 77), (2, 1100)], ids=str
)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def test_pack_rows(dtype: type, shape: tuple[int, int]) -> None:
    x = matrix(*shape, dtype)
    launch = pack(*shape, np.dtype(dtype).name)
    expected = launches.words_of(launches.signs_of(x), launch.words)
    bits = x.view(f"u{x.dtype.itemsize}")
    np.testing.assert_array_equal(launches.interpreted(launch, [bits]), expected)


@pytest.mark.parametrize("shape", [(1, 1), (33, 31), (129, 65), (7, 1000)], ids=str)
@pytest.mark.parametrize("layout", ["row-major", "word-major"])
def test_pack_columns(layout: str, shape: tuple[int, int]) -> None:
    n, k = shape
    w = matrix(k, n, np.float32)
    extra = -(-k // 32) + 3
    launch = pack(n, k, "float32", row_stride=1, column_stride=n, layout=layout, words=extra)
    expected = launches.words_of(launches.signs_of(np.ascontiguousarray(w.T)), extra)
    expected = expected if layout == "row-major" else expected.T
    np.testing.assert_array_equal(launches.interpreted(launch, [w.view(np.uint32)]), expected)


def test_pack_strides_over_gaps() -> None:
    x = matrix(20, 210, np.float16)
    launch = pack(10, 70, "float16", row_stride=420, column_stride=3)
    expected = launches.words_of(launches.signs_of(np.ascontiguousarray(x[::2, ::3])), launch.words)
    np.testing.assert_array_equal(launches.interpreted(launch, [x.view(np.uint16)]), expected)
