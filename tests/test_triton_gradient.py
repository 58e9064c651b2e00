"""The gradient kernels as launches, in Triton's interpreter, and compiled for sm_80, emulated.

Errors are against float64, as a share of the norm of what was summed.
"""

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

pytest.importorskip("triton", reason="the Triton kernels need triton")

from tools import launches
from tools.gradients import DTYPES, KINDS, label, launch_of, problem, worst

from kernels_triton.gradient_launch import WIDEST, Gradient, gradient
from kernels_triton.gradient_tiles import (
    CHUNK,
    FEW_ROWS,
    GRADIENT_TILES,
    GradientTile,
    choose_gradient,
    gradient_class,
)
from kernels_triton.launch import Launch

# The interpreter rounds its sums. The emulator truncates them, as tensor cores may: a bias that
# grows with their number, up to that of a chunk.
ROUNDED = 1e-6
TRUNCATED = 2e-6
TRUNCATED_LONG = 1e-5
SMALL = GradientTile(32, 32, 16, num_warps=1, group_m=2)
SMALL_TILES = {
    "bits": SMALL,
    "whole words": replace(SMALL, whole_words=True),
    "wide": GradientTile(32, 64, 32, num_warps=4, group_m=2),
    "wide, whole words": GradientTile(64, 64, 32, num_warps=4, whole_words=True),
    "pipelined": replace(SMALL, num_warps=2, num_stages=3),
}
K = (1, 31, 32, 33, 77, 128, 300)
SHAPES = [*((5, 37, k) for k in K), (1, 1, 1), (33, 1, 40), (1, 40, 96), (67, 33, 65), (32, 64, 64)]
LONG = [("input_gradient", (3, 2100, 40)), ("weight_gradient", (2100, 3, 40))]


def check(launch: Launch, operands: list[np.ndarray], runner: str) -> np.ndarray:
    return getattr(launches, runner)(launch, operands)


@pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_interpreted(kind: Gradient, shape: tuple[int, int, int], dtype: str, masked: bool) -> None:
    operands, exact, norm = problem(kind, *shape, dtype, masked)
    out = launches.interpreted(launch_of(kind, shape, dtype, masked, SMALL), operands)
    assert worst(out, exact, norm) <= ROUNDED


@pytest.mark.parametrize("tile", SMALL_TILES.values(), ids=SMALL_TILES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_interpreted_tiles(kind: Gradient, dtype: str, tile: GradientTile) -> None:
    shape = (35, 70, 77)
    operands, exact, norm = problem(kind, *shape, dtype, True)
    out = launches.interpreted(launch_of(kind, shape, dtype, True, tile), operands)
    assert worst(out, exact, norm) <= ROUNDED


@pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [*SHAPES, (64, 32, 128)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_emulated(kind: Gradient, shape: tuple[int, int, int], dtype: str, masked: bool) -> None:
    operands, exact, norm = problem(kind, *shape, dtype, masked)
    out = launches.emulated(launch_of(kind, shape, dtype, masked, SMALL), operands)
    assert worst(out, exact, norm) <= TRUNCATED


@pytest.mark.parametrize("tile", SMALL_TILES.values(), ids=SMALL_TILES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_emulated_tiles(kind: Gradient, dtype: str, tile: GradientTile) -> None:
    shape = (70, 67, 100)
    operands, exact, norm = problem(kind, *shape, dtype, True)
    out = launches.emulated(launch_of(kind, shape, dtype, True, tile), operands)
    assert worst(out, exact, norm) <= TRUNCATED


TABLE = sorted({t for tiles in GRADIENT_TILES.values() for t in tiles.values()}, key=label)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(131, 150, 161), (144, 288, 160)], ids=str)
@pytest.mark.parametrize("tile", TABLE, ids=label)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_tile_of_the_table(
    kind: Gradient, dtype: str, tile: GradientTile, shape: tuple[int, int, int]
) -> None:
    operands, exact, norm = problem(kind, *shape, dtype, True)
    tile = replace(tile, num_stages=1)
    out = launches.emulated(launch_of(kind, shape, dtype, True, tile), operands)
    assert worst(out, exact, norm) <= TRUNCATED_LONG


@pytest.mark.parametrize("runner", ["interpreted", "emulated"])
@pytest.mark.parametrize(("kind", "shape"), LONG)
def test_long_sums(kind: Gradient, shape: tuple[int, int, int], runner: str) -> None:
    """Several chunks, and in the emulator sums that truncate."""
    operands, exact, norm = problem(kind, *shape, "float32", False)
    tile = replace(SMALL, block_k=64)
    out = check(launch_of(kind, shape, "float32", False, tile), operands, runner)
    limit = ROUNDED if runner == "interpreted" else TRUNCATED_LONG
    assert worst(out, exact, norm) <= limit


def test_chunks_bound_the_bias_of_truncated_sums() -> None:
    """A sum of equal signs, where truncation always errs to the same side."""
    n = 16 * CHUNK
    g = np.random.default_rng(0).uniform(0.5, 1, (1, n)).astype(np.float32)
    words = np.full((n, 1), 0xFFFFFFFF, np.uint32)
    launch = launch_of("input_gradient", (1, n, 32), "float32", False, replace(SMALL, block_k=128))
    constants = {**dict(launch.constants), "CHUNK": None}
    all_at_once = replace(launch, constants=tuple(constants.items()))
    exact = g.sum(dtype="f8")
    chunked, biased = (
        float(np.abs(launches.emulated(each, [g.copy(), words.copy()]) / exact - 1).max())
        for each in (launch, all_at_once)
    )
    assert chunked <= 3e-6
    assert biased > 10 * chunked


@pytest.mark.parametrize("kind", KINDS)
def test_single_elements_are_exact(kind: Gradient) -> None:
    """The three terms of a float32 hold all of its bits, at every magnitude."""
    tiny, huge = np.finfo(np.float32).tiny, np.finfo(np.float32).max
    values = [1 / 3, -np.pi, 1 + 2.0**-23, 2 - 2.0**-23, huge, -huge, tiny * 2.0**16, 0.0, -0.0]
    g = np.array(values, np.float32)
    g = g[:, None] if kind == "input_gradient" else g[None, :]
    operands = [g, np.full((1, 1), 0xFFFFFFFD, np.uint32)]
    shape = (*g.shape, 5)
    signs = np.array([[1, -1, 1, 1, 1]], np.float32)
    expected = g * (signs if kind == "input_gradient" else signs.T)
    for runner in ("interpreted", "emulated"):
        launch = launch_of(kind, shape, "float32", False, SMALL)
        np.testing.assert_array_equal(check(launch, operands, runner), expected)


@pytest.mark.parametrize("runner", ["interpreted", "emulated"])
def test_values_that_are_not_finite(runner: str) -> None:
    """They stay not finite, in their own rows only, and the mask still makes 0 of them."""
    g = np.ones((4, 3), np.float32)
    g[0, 1], g[1, 2], g[2, 0] = np.inf, np.nan, -np.inf
    mask = np.full((4, 1), 0b10111, np.uint32)
    launch = launch_of("input_gradient", (4, 3, 5), "float32", True, SMALL)
    with np.errstate(invalid="ignore"):
        out = check(launch, [g, np.zeros((3, 1), np.uint32), mask], runner)
    passing = np.array([True, True, True, False, True])
    assert not np.isfinite(out[:3, passing]).any()
    np.testing.assert_array_equal(out[:, ~passing], 0)
    np.testing.assert_array_equal(out[3], np.where(passing, -3, 0))


def test_repeated_runs_give_the_same_bits() -> None:
    shape = (40, 70, 65)
    operands, *_ = problem("input_gradient", *shape, "float32", False)
    launch = launch_of("input_gradient", shape, "float32", False)
    first, second = (launches.emulated(launch, operands) for _ in range(2))
    np.testing.assert_array_equal(first.view(np.uint32), second.view(np.uint32))


# Launches and tiles


def test_launch_of_the_input_gradient() -> None:
    launch = gradient("input_gradient", 100, 70, 77, masked=True, compute_capability=80)
    assert [(a.name, a.type, a.value) for a in launch.arguments] == [
        ("g_ptr", "*fp32", None),
        ("packed_ptr", "*u32", None),
        ("mask_ptr", "*u32", None),
        ("m", "i32", 100),
        ("n", "i32", 70),
        ("k", "i32", 77),
        ("out_ptr", "*fp32", None),
    ]
    assert (launch.module, launch.kernel) == ("gradient", "input_gradient")
    assert (launch.out_shape, launch.out_dtype) == ((100, 77), "float32")
    assert launch.grid == (1 * 2, 1, 1) and launch.words == 3
    assert dict(launch.constants)["CHUNK"] == CHUNK
    assert hash(launch) == hash(replace(launch))


def test_launch_of_the_weight_gradient() -> None:
    launch = gradient("weight_gradient", 100, 70, 300, "bfloat16", compute_capability=80)
    assert [a.name for a in launch.arguments] == ["g_ptr", "packed_ptr", "m", "n", "k", "out_ptr"]
    assert launch.arguments[0].type == "*bf16"
    assert launch.out_shape == (300, 70) and launch.grid == (1 * 3, 1, 1)
    constants = dict(launch.constants)
    assert constants["mask_ptr"] is None and constants["CHUNK"] is None


def test_classes_of_shapes() -> None:
    assert gradient_class(FEW_ROWS, 4096, 4096, "float32") == "few"
    assert gradient_class(FEW_ROWS + 1, 4096, 4096, "float32") == "float32"
    assert gradient_class(FEW_ROWS + 1, 4095, 4096, "float32") == "ragged"
    assert gradient_class(FEW_ROWS + 1, 4096, 4095, "float32") == "ragged"
    for dtype in ("bfloat16", "float16"):
        assert gradient_class(FEW_ROWS + 1, 4095, 4095, dtype) == "half"


@pytest.mark.parametrize(("unknown", "known"), [(86, 80), (99, 90), (103, 100), (130, 120)])
def test_an_unknown_capability_uses_the_nearest_lower_one(unknown: int, known: int) -> None:
    for rows in (1, 100):
        chosen = choose_gradient(rows, 64, 64, "float32", unknown)
        assert chosen is choose_gradient(rows, 64, 64, "float32", known)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"m": 0}, "m must be 1 to"),
        ({"n": 0}, "n must be 1 to"),
        ({"k": WIDEST + 1}, rf"k is at most {WIDEST} for a gradient kernel, got {WIDEST + 1}"),
        ({"n": WIDEST + 1}, "n is at most"),
        ({"kind": "gradient"}, 'kind is "input_gradient" or "weight_gradient", not \'gradient\''),
        ({"dtype": "float64"}, "float32, bfloat16, float16, got float64"),
        ({"compute_capability": 75}, r"need compute capability 80 \(8.0\)"),
        ({"tile": replace(SMALL, block_m=48)}, "block_m is a power of two, at least 32, got 48"),
        ({"tile": replace(SMALL, block_n=16)}, "block_n is a power of two, at least 32, got 16"),
        ({"tile": replace(SMALL, block_k=8)}, "block_k is a power of two, at least 16, got 8"),
        ({"tile": replace(SMALL, block_m=512)}, "block_m is at most 256, got 512"),
    ],
)
def test_what_is_refused(change: dict[str, object], message: str) -> None:
    arguments = {"kind": "input_gradient", "m": 40, "n": 40, "k": 77, "compute_capability": 80}
    with pytest.raises(ValueError, match=message):
        gradient(**{**arguments, **change})


def test_the_interpreter_multiplies_bfloat16_as_numbers() -> None:
    g = np.array([[1.5]], ml_dtypes.bfloat16)
    launch = launch_of("input_gradient", (1, 1, 2), "bfloat16", False, SMALL)
    out = launches.interpreted(launch, [g, np.array([[1]], np.uint32)])
    np.testing.assert_array_equal(out, [[1.5, -1.5]])
