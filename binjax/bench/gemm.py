"""Matrix products of ±1: ours in every mode, against float, bfloat16 and int8 products."""

from __future__ import annotations

import functools
import importlib.util
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from binjax.bench.timing import Array, Case, Contestant, WrongResult
from binjax.xnor import (
    backends,
    pack_bits,
    pack_conv_kernel,
    packed_matmul,
    packed_matmul_threshold,
    xnor_matmul,
)

_TOO_SLOW = 10.0  # seconds of one run from which a low-precision product of XLA is left out
_PROBE = 512


def gemm_case(group: str, shape: tuple[int, ...], threads: int) -> Case:
    """The contestants of ``[M, K] @ [K, N]``, with their operands in place.

    Args:
        group: name for the rows.
        shape: (M, K, N); K below 2^24, so that float32 sums are exact.
        threads: of libraries that do not go by the CPUs they are bound to.

    Raises:
        WrongResult: numpy's float product, the reference, is not exact here.
    """
    m, k, n = shape
    rng = np.random.default_rng(m * 7919 + k * 31 + n)
    x, w = random_signs(rng, (m, k)), random_signs(rng, (k, n))
    dot = exact_product(rng, x, w)
    threshold, flip = thresholds(rng, n, k)
    bits = threshold_bits(dot, threshold, flip)
    peers, notes = _low_precision(x, w, dot)
    contestants = [
        *(c for name in own_backends() for c in _ours(name, x, w, dot, threshold, flip, bits)),
        Contestant("xla", "float32", _xla_float(x, w), dot, "fma"),
        *peers,
        Contestant("numpy", "float32", lambda: x @ w, dot, "fma", pool="numpy"),
        *_torch(x, w, dot, threads),
        *_bnn_lab(x, w, dot, threads),
    ]
    return Case(group, f"{m}x{k}x{n}", m * k * n, contestants, notes)


def own_backends() -> tuple[str, ...]:
    """Back ends of ours that run on JAX's default device."""
    other = "triton" if jax.default_backend() == "cpu" else "native"
    return tuple(name for name in backends() if name != other)


def random_signs(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """±1 in float32."""
    bits: Array = rng.integers(0, 2, shape, np.int8)
    bits += bits
    bits -= 1
    return bits.astype(np.float32)


def exact_product(rng: np.random.Generator, x: Array, w: Array) -> Array:
    """``x @ w`` in int32, by numpy's float32 product, itself checked with integers at places.

    Every partial sum is an integer below 2^24, which float32 holds exactly.

    Raises:
        WrongResult: the two disagree.
    """
    dot = (x @ w).astype(np.int32)
    rows = rng.integers(0, x.shape[0], min(x.shape[0], 16))
    columns = rng.integers(0, w.shape[1], min(w.shape[1], 64))
    sample = x[rows].astype(np.int64) @ w[:, columns].astype(np.int64)
    if not np.array_equal(dot[np.ix_(rows, columns)], sample):
        raise WrongResult("numpy's float32 product of ±1 is not exact on this machine")
    return dot


def thresholds(rng: np.random.Generator, n: int, k: int) -> tuple[Array, Array]:
    """A threshold within a few standard deviations of zero for each feature, and a flip."""
    spread = int(2 * k**0.5)
    return rng.integers(-spread, spread + 1, n, np.int32), rng.random(n) < 0.5


def threshold_bits(dot: Array, threshold: Array, flip: Array) -> Array:
    """``(dot >= threshold) ^ flip`` packed along the last axis, by numpy."""
    positive = (dot >= threshold) ^ flip
    missing = -positive.shape[-1] % 32
    padded = np.pad(positive, [(0, 0)] * (positive.ndim - 1) + [(0, missing)])
    return np.packbits(padded, axis=-1, bitorder="little").view("<u4")


def compiled(function: Callable[..., jax.Array], *operands: Any) -> Callable[[], jax.Array]:
    """A function of no arguments that runs the jitted one on the device and waits for it."""
    jitted = jax.jit(function)
    placed = [jnp.asarray(a) for a in operands]
    return lambda: jax.block_until_ready(jitted(*placed))


def _ours(
    backend: str, x: Array, w: Array, dot: Array, threshold: Array, flip: Array, bits: Array
) -> Iterator[Contestant]:
    k = x.shape[1]
    real_x, real_w = jnp.asarray(x), jnp.asarray(w)
    product = functools.partial(packed_matmul, k=k, backend=backend)
    pack = functools.partial(pack_bits, backend=backend)
    xp, wp = pack(real_x), _pack_columns(real_w, backend)

    def to_bits(xp: jax.Array, wp: jax.Array, t: jax.Array, f: jax.Array) -> jax.Array:
        return packed_matmul_threshold(xp, wp, k, t, f, backend=backend)

    def from_float(x: jax.Array, wp: jax.Array) -> jax.Array:
        return product(pack(x), wp)

    def from_floats(x: jax.Array, w: jax.Array) -> jax.Array:
        return product(pack(x), _pack_columns(w, backend))

    runs: dict[str, Callable[[], jax.Array]] = {
        "bits": compiled(to_bits, xp, wp, threshold, flip),
        "int32": compiled(product, xp, wp),
        "pack-x": compiled(from_float, real_x, wp),
        "pack-both": compiled(from_floats, real_x, real_w),
        "xnor_matmul": compiled(functools.partial(xnor_matmul, backend=backend), real_x, real_w),
    }
    for mode, run in runs.items():
        expected = bits if mode == "bits" else dot
        yield Contestant(f"binjax-{backend}", mode, run, expected, _unit(), ours=True)
    if backend == "native":
        run = Donating(lambda xp, wp, out: product(xp, wp, out=out), xp, wp, shape=dot.shape)
        yield Contestant(
            "binjax-native", "int32-donated", run, dot, _unit(), ours=True, read=run.read
        )


class Donating:
    """Runs ``function(*operands, out)``, giving it its own last result to write into."""

    def __init__(self, function: Callable[..., jax.Array], *operands: Any, shape: tuple[int, ...]):
        self._run = jax.jit(function, donate_argnums=len(operands))
        self._operands = operands
        self._out = jnp.zeros(shape, jnp.int32)

    def __call__(self) -> jax.Array:
        """Run once; the result before this one is gone."""
        self._out = jax.block_until_ready(self._run(*self._operands, self._out))
        return self._out

    @staticmethod
    def read(result: jax.Array) -> Array:
        """A copy: memory that numpy looks at cannot be donated any more."""
        return np.asarray(jnp.copy(result))


def _pack_columns(w: jax.Array, backend: str) -> jax.Array:
    """``[K, N]`` to words ``[N, W]``: a 1x1 kernel's packing, without a transposition."""
    return pack_conv_kernel(w[None, None], backend=backend)[:, 0, 0]


def _unit() -> Any:
    return "popcount" if jax.default_backend() == "cpu" else ""


def _xla_float(x: Array, w: Array) -> Callable[[], jax.Array]:
    return compiled(lambda x, w: x @ w, x, w)


def _dot(x: jax.Array, w: jax.Array, result: Any) -> jax.Array:
    return lax.dot_general(x, w, (((1,), (0,)), ((), ())), preferred_element_type=result)


def _low_precision(x: Array, w: Array, dot: Array) -> tuple[list[Contestant], tuple[str, ...]]:
    """XLA's bfloat16 and int8 products, unless one run would take too long."""
    found, notes = [], []
    macs = x.shape[0] * x.shape[1] * w.shape[1]
    for dtype, result in ((jnp.bfloat16, jnp.float32), (jnp.int8, jnp.int32)):
        product = functools.partial(_dot, result=result)
        seconds = _probe(product, dtype) * macs / _PROBE**3
        name = jnp.dtype(dtype).name
        if seconds > _TOO_SLOW:
            notes.append(f"xla {name} left out: about {seconds:.0f} s a run")
            continue
        run = compiled(product, jnp.asarray(x, dtype), jnp.asarray(w, dtype))
        found.append(Contestant("xla", name, run, dot))
    return found, tuple(notes)


def _probe(product: Callable[..., jax.Array], dtype: Any) -> float:
    """Seconds of a small product."""
    ones = jnp.ones((_PROBE, _PROBE), dtype)
    run = compiled(product, ones, ones)
    run()
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def _torch(x: Array, w: Array, dot: Array, threads: int) -> Iterator[Contestant]:
    if importlib.util.find_spec("torch") is None:
        return
    torch = importlib.import_module("torch")
    torch.set_num_threads(threads)
    a, b = torch.from_numpy(x), torch.from_numpy(w)
    yield Contestant(
        "torch", "float32", lambda: a @ b, dot, "fma", read=lambda c: c.numpy(), pool="torch"
    )


def _bnn_lab(x: Array, w: Array, dot: Array, threads: int) -> Iterator[Contestant]:
    """bnn-lab (PyPI, imported as ``bnn``): packed operands in, float32 out."""
    if importlib.util.find_spec("bnn") is None or importlib.util.find_spec("torch") is None:
        return
    kernels = importlib.import_module("bnn.kernels")
    if not kernels.native_kernel_available():
        return
    kernels.set_num_threads(threads)
    (xp, k), (wp, _) = kernels.pack_binary_pm1(x), kernels.pack_binary_pm1(w, axis=0)
    run = functools.partial(kernels.binary_gemm_native_prepacked, xp, wp, k)
    yield Contestant("bnn-lab", "packed-float32", run, dot, "popcount", pool="bnn-lab")
