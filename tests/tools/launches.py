"""Launches of the Triton kernels on numpy arrays: operands, integer references, two runners."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kernels_triton import aot
from kernels_triton.launch import Epilogue, Launch
from kernels_triton.tiles import Tile
from tools import interpret
from tools.ptx import Kernel

GUARD = 64
"""Elements on either side of an output that nothing may write."""


def label(value: object) -> str | None:
    """A short test id for a tile; pytest's own for anything else."""
    if not isinstance(value, Tile):
        return None
    block = f"{value.block_m}x{value.block_n}x{value.block_k}"
    return f"{value.kernel} {block} {value.num_warps}w {value.num_stages}s"


def words_of(signs: np.ndarray, words: int) -> np.ndarray:
    """±1 [rows, k] as uint32[rows, words]: 1 means +1, the first element lowest, padding 0."""
    bits = np.zeros((signs.shape[0], words * 32), np.uint8)
    bits[:, : signs.shape[1]] = signs > 0
    return np.packbits(bits, axis=1, bitorder="little").view(np.uint32)


def signs_of(x: np.ndarray) -> np.ndarray:
    """±1 int8 by the bits of a float16, bfloat16 or float32 array."""
    bits = x.view(f"u{x.dtype.itemsize}")
    minus_zero = bits.dtype.type(1 << (8 * x.dtype.itemsize - 1))
    return np.where(bits > minus_zero, -1, 1).astype(np.int8)


def product(
    launch: Launch, m: int, n: int, k: int, epilogue: Epilogue
) -> tuple[list[np.ndarray], np.ndarray]:
    """Random operands in a launch's layout, in its order, and the output it must give."""
    rng = np.random.default_rng([m, n, k])
    x, w = (rng.choice(np.array([-1, 1]), (rows, k)) for rows in (m, n))
    dot = (x @ w.T).astype(np.int32)
    packed = [words_of(signs, launch.words) for signs in (x, w)]
    if launch.layout == "word-major":
        packed = [np.ascontiguousarray(words.T) for words in packed]
    if launch.popcounts:
        packed += [(signs > 0).sum(1, dtype=np.int32) for signs in (x, w)]
    if epilogue == "dot":
        return packed, dot
    if epilogue == "affine":
        scale, bias = rng.normal(size=(2, n)).astype(np.float32)
        return [*packed, scale, bias], dot.astype(np.float32) * scale + bias
    # About a third of the thresholds is hit exactly; the first ones are the extremes.
    threshold = dot[rng.integers(0, m, n), np.arange(n)] + rng.integers(-1, 2, n, dtype=np.int32)
    threshold[:2] = [-(2**31), 2**31 - 1][: min(2, n)]
    flip = rng.random(n) < 0.5
    bits = (dot >= threshold) ^ flip
    return [*packed, threshold, flip], words_of(np.where(bits, 1, -1), launch.out_shape[1])


def interpreted(launch: Launch, operands: list[np.ndarray]) -> np.ndarray:
    """The output of a launch in Triton's interpreter."""
    out, check = guarded(launch)
    kernel = getattr(interpret.load(f"kernels_triton.{launch.module}"), launch.kernel)
    named = {
        a.name: v for a, v in zip(launch.arguments, values(launch, operands, out), strict=True)
    }
    interpret.run(kernel, launch.grid, **named, **dict(launch.constants))
    check()
    return out


def emulated(launch: Launch, operands: list[np.ndarray]) -> np.ndarray:
    """The output of the PTX compiled for sm_80, in the emulator, which checks every access."""
    compiled = aot.compile_launch(launch, 80)
    out = np.full(launch.out_shape, 0x5A, launch.out_dtype)
    for operand in operands:
        operand.flags.writeable = False
    arguments = values(launch, operands, out)
    Kernel(compiled.ptx).launch(launch.grid, arguments, shared_bytes=compiled.shared_bytes)
    return out


def values(launch: Launch, operands: list[np.ndarray], out: np.ndarray) -> list[np.ndarray | int]:
    """A launch's arguments in order."""
    pointers = iter([*operands, out])
    return [next(pointers) if a.value is None else a.value for a in launch.arguments]


def guarded(launch: Launch) -> tuple[np.ndarray, Callable[[], None]]:
    """An output between guards, and a function that asserts that they are untouched."""
    size = int(np.prod(launch.out_shape))
    memory = np.full(size + 2 * GUARD, 0x5A, launch.out_dtype)
    out = memory[GUARD : GUARD + size].reshape(launch.out_shape)

    def check() -> None:
        assert (memory[:GUARD] == 0x5A).all() and (memory[GUARD + size :] == 0x5A).all()

    return out, check
