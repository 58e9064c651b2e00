"""Operands of gradient launches, what they must give in float64, and how far off an output is."""

from __future__ import annotations

import zlib

import ml_dtypes
import numpy as np

from kernels_triton.gradient_launch import Gradient, gradient
from kernels_triton.gradient_tiles import GradientTile
from kernels_triton.launch import Launch
from tools.launches import words_of

DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
KINDS: tuple[Gradient, ...] = ("input_gradient", "weight_gradient")


def label(tile: GradientTile) -> str:
    """A short test id."""
    block = f"{tile.block_m}x{tile.block_n}x{tile.block_k}"
    words = " whole words" if tile.whole_words else ""
    return f"{block} {tile.num_warps}w {tile.num_stages}s{words}"


def problem(
    kind: Gradient, m: int, n: int, k: int, dtype: str, masked: bool
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Random operands in order, the exact gradient, and the norm of each sum's terms.

    Padding bits of the words are 1 here: nothing may depend on them.
    """
    rng = np.random.default_rng(zlib.crc32(repr((kind, m, n, k)).encode()))
    of_x = kind == "input_gradient"
    scale = 2.0 ** rng.integers(-3, 4, (m, n))
    g = (rng.normal(size=(m, n)) * scale).astype(DTYPES[dtype])
    signs = rng.choice(np.array([-1, 1]), (n if of_x else m, k))
    exact = g.astype("f8") @ signs if of_x else signs.T @ g.astype("f8")
    norm = np.linalg.norm(g.astype("f8"), axis=1 if of_x else 0)
    norm = np.broadcast_to(norm[:, None] if of_x else norm, exact.shape)
    operands = [g, with_padding(signs)]
    if masked:
        mask = rng.choice(np.array([-1, 1]), exact.shape)
        exact = np.where(mask > 0, exact, 0.0)
        operands.append(with_padding(mask))
    return operands, exact, norm


def with_padding(signs: np.ndarray) -> np.ndarray:
    rows, columns = signs.shape
    full = np.ones((rows, -(-columns // 32) * 32), np.int8)
    full[:, :columns] = signs
    return words_of(full, full.shape[1] // 32)


def launch_of(
    kind: Gradient,
    shape: tuple[int, int, int],
    dtype: str,
    masked: bool,
    tile: GradientTile | None = None,
) -> Launch:
    """For compute capability 8.0, which the emulator executes."""
    return gradient(kind, *shape, dtype, masked=masked, compute_capability=80, tile=tile)


def worst(out: np.ndarray, exact: np.ndarray, norm: np.ndarray) -> float:
    """The largest error as a share of the norm of what was summed; 0 must be 0."""
    assert out.dtype == np.float32 and np.isfinite(out).all()
    assert (out[exact == 0] == 0).all()
    return float((np.abs(out - exact) / np.where(norm > 0, norm, 1)).max())
