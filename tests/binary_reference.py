"""Binary products once more, in plain numpy: integers, no packing tricks, nothing fast."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from binjax import xnor

Array = np.ndarray

# K around a word and a chunk of words, one element, primes; M and N around the tiles of the native
# kernel (rows of 4 to 13, columns of 32 or 64) and of the XLA form (panels of 256), and ones.
LENGTHS = (1, 31, 32, 33, 77, 1000, 4099)
SIZES = ((1, 1), (1, 37), (2, 67), (13, 1), (7, 31), (12, 32), (67, 70), (131, 257))

# Every loop of the native kernels, for runs with each instruction set and with sanitizers.
KERNEL_FILES = ("packing", "ste_packing", "xnor_matmul", "xnor_conv", "gradients", "pixels")
KERNEL_TESTS = (
    "native and (test_grid or test_blocks or test_equals_the_float_convolution or packing"
    " or test_gradient_kernels or test_rows or test_windows)"
)


def signs(x: Array) -> Array:
    """±1 in int64; -0.0 is +1."""
    return np.where(np.asarray(x).astype(np.float64) >= 0, 1, -1)


def packed(positive: Array) -> Array:
    """Booleans [..., n] to uint32[..., ceil(n/32)], bit by bit."""
    n = positive.shape[-1]
    words = np.zeros((*positive.shape[:-1], -(-n // 32)), np.uint64)
    for i in range(n):
        words[..., i // 32] |= positive[..., i].astype(np.uint64) << np.uint64(i % 32)
    return words.astype(np.uint32)


def random_signs(rng: np.random.Generator, shape: tuple[int, ...], dtype: type = np.float32):
    return np.where(rng.random(shape) < 0.5, -1, 1).astype(dtype)


def thresholds(rng: np.random.Generator, dot: Array, k: int) -> tuple[Array, Array]:
    """Per column: values that occur, the neighbours of extremes, "always" and "never"; flips."""
    n = dot.shape[-1]
    columns = dot.reshape(-1, n)
    values = columns[rng.integers(0, len(columns), n), np.arange(n)]
    special = rng.integers(0, 6, n)
    values = np.where(special == 0, -k, np.where(special == 1, k + 1, values))
    return values.astype(np.int32), rng.random(n) < 0.5


def affine(rng: np.random.Generator, n: int) -> tuple[Array, Array]:
    """Scale and bias whose results are exact in float32, however often they are rounded."""
    scale = np.exp2(rng.integers(-4, 5, n)) * random_signs(rng, (n,))
    return scale.astype(np.float32), rng.integers(-99, 99, n).astype(np.float32) / 4


def each_backend() -> pytest.MarkDecorator:
    """Parametrize over the back ends: native is skipped where it cannot run, triton left out."""
    found = xnor.backends()
    usable = "native" in found and jax.default_backend() == "cpu"
    reason = f"no native library here: {found} on {jax.default_backend()}"
    native = pytest.param("native", marks=pytest.mark.skipif(not usable, reason=reason))
    return pytest.mark.parametrize("backend", ["xla", native, *({"triton"} & {*found})])
