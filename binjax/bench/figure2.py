"""Figure 2 of the BNN paper on this machine.

Courbariaux, Hubara et al. 2016, section 4: the time of an 8192^3 product of ±1 matrices, the time
of the MLP on a test set and its accuracy, each with an unoptimised kernel, with the vendor's
library, and with XNOR and population counts. As there, packing both operands is counted, and the
first layer, whose input is not binary, is computed in floating point.

Pixels and ±1 are integers, and sums of them below 2^24 are exact in float32: with batch
normalization and sign folded into a threshold, the three networks are the same function, and
their last sums are required to be equal.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from binjax.bench import gemm, report, suite
from binjax.bench.ceiling import Gauge, Machine
from binjax.bench.mlp import (
    Network,
    Packed,
    Product,
    Size,
    float_sums,
    load_images,
    pack_network,
    packed_sums,
    train_network,
)
from binjax.bench.timing import (
    Array,
    Case,
    Contestant,
    Result,
    Timing,
    WrongResult,
    check,
    difference,
    race,
    summarize,
)

_BATCH = 1000

FULL = Size()
QUICK = Size(matrix=1024, widths=(512, 512, 512), epochs=2, seconds=0.5, slow_seconds=0.5)


def measure(
    size: Size,
    data_dir: str | None,
    machine: Machine,
    gauge: Gauge,
    baselines: Sequence[str],
    tell: Callable[[Sequence[report.Row], Sequence[str]], None],
) -> list[report.Row]:
    """Both measurements on this process's threads.

    Args:
        size: how large.
        data_dir: folder of the MNIST files; None for the images that come with the package.
        machine: from :func:`binjax.bench.ceiling.describe`.
        gauge: of the ceiling.
        baselines: see :func:`binjax.bench.suite.rows_of`.
        tell: called after each with its rows and notes.

    Raises:
        WrongResult: two kernels differ.
        DataError: no MNIST there.
    """
    config, dataset = load_images(size, data_dir)
    rows = suite.rows_of(*_race_products(size, machine, gauge), machine, gauge.best, baselines)
    tell(rows, _notes(rows))
    network = train_network(config, dataset)
    test = dataset.test[: size.test_images]
    images, labels = test.images.reshape(len(test), -1).astype(np.float32), test.labels
    case, results = _race_networks(size, network, images, gauge)
    rows_found = suite.rows_of(case, results, machine, gauge.best, baselines)
    accuracy = {r.contestant.provider: _accuracy(network, r, labels) for r in results}
    found = [dataclasses.replace(row, accuracy=accuracy[row.provider]) for row in rows_found]
    tell(found, [*_notes(found), *_accuracies(found)])
    return [*rows, *found]


def _race_products(size: Size, machine: Machine, gauge: Gauge) -> tuple[Case, list[Result]]:
    shape = (size.matrix,) * 3
    full = gemm.gemm_case("figure2-gemm", shape, machine.threads)
    best = f"binjax-{gemm.own_backends()[0]}"
    wanted = {
        ("xla", "float32"),
        ("numpy", "float32"),
        *((best, mode) for mode in ("pack-both", "int32", "bits")),
    }
    case = dataclasses.replace(
        full, contestants=[c for c in full.contestants if (c.provider, c.mode) in wanted]
    )
    results = [
        _slow_product(size, case),
        *race(case, seconds=size.seconds, most_rounds=15, between=gauge.sample),
    ]
    return case, results


def _slow_product(size: Size, case: Case) -> Result:
    """The unoptimised kernel on as many rows as time allows, scaled to all of them."""
    rng = np.random.default_rng(0)
    n = size.matrix
    w = gemm.random_signs(rng, (n, n))
    few = min(n, 8)

    def contestant(rows: int) -> Contestant:
        x = gemm.random_signs(rng, (rows, n))
        run = gemm.compiled(unoptimised, x, w)
        expected = gemm.exact_product(rng, x, w)
        return Contestant("unoptimised", "float32", run, expected, "fma", ours=True)

    def timed(slow: Contestant) -> Timing:
        alone = dataclasses.replace(case, contestants=[slow])
        (result,) = race(alone, seconds=0, most_rounds=3)
        assert result.timing is not None  # a wrong one of ours has raised
        return result.timing

    probe = timed(contestant(few))
    rows = max(few, min(n, int(size.slow_seconds / probe.median * few)))
    slow = contestant(rows)
    median, q20, q80, rounds = timed(slow)
    share = rows / n
    scaled = Timing(median / share, q20 / share, q80 / share, rounds)
    return Result(slow, scaled, "" if rows == n else f"{rows} of {n} rows measured, scaled to all")


def unoptimised(x: jax.Array, w: jax.Array) -> jax.Array:
    """``x @ w`` as three plain loops, row by row of x and of w, without blocks or a library."""

    def one_row(row: jax.Array) -> jax.Array:
        def add(i: jax.Array, total: jax.Array) -> jax.Array:
            factor = lax.dynamic_index_in_dim(row, i)
            out: jax.Array = total + factor * lax.dynamic_index_in_dim(w, i, keepdims=False)
            return out

        total: jax.Array = lax.fori_loop(0, w.shape[0], add, jnp.zeros(w.shape[1], x.dtype))
        return total

    out: jax.Array = lax.map(one_row, x)
    return out


def _race_networks(
    size: Size, network: Network, images: Array, gauge: Gauge
) -> tuple[Case, list[Result]]:
    """Time the test set in batches, with each kernel."""
    batches = [images[i : i + _BATCH] for i in range(0, len(images), _BATCH)]
    placed = [jnp.asarray(batch) for batch in batches]
    on_device = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), network)
    sums = float_sums(network, images, np.matmul, np)
    _check_sums(network, images, sums)
    backend = gemm.own_backends()[0]

    def whole(function: Callable[..., jax.Array], model: Any) -> Callable[[], Array]:
        jitted = jax.jit(function)
        return lambda: np.concatenate([np.asarray(jitted(model, batch)) for batch in placed])

    def with_floats(product: Product) -> Callable[..., jax.Array]:
        return lambda model, batch: float_sums(model, batch, product, jnp)

    def numpy_run() -> Array:
        return np.concatenate([float_sums(network, b, np.matmul, np) for b in batches])

    def packed_run(model: Packed, batch: jax.Array) -> jax.Array:
        return packed_sums(model, batch, backend)

    slow = Contestant(
        "unoptimised", "float32", whole(with_floats(unoptimised), on_device), sums, "fma", ours=True
    )
    fast = [
        Contestant("xla", "float32", whole(with_floats(jnp.matmul), on_device), sums, "fma"),
        Contestant("numpy", "float32", numpy_run, sums, "fma", pool="numpy"),
        Contestant(
            f"binjax-{backend}",
            "packed-mlp",
            whole(packed_run, pack_network(network, backend)),
            sums,
            ours=True,
        ),
    ]
    macs = len(images) * sum(kernel.size for kernel in network.kernels)
    sizes = "-".join(str(k.shape[0]) for k in network.kernels)
    shape = f"{sizes}-{network.kernels[-1].shape[1]}, {len(images)} images"
    case = Case("figure2-mlp", shape, macs, fast)
    results = [_once(slow), *race(case, seconds=size.seconds, most_rounds=15, between=gauge.sample)]
    return case, results


def _check_sums(network: Network, images: Array, sums: Array) -> None:
    """Compute those of the first images once more, in integers."""

    def product(x: Array, w: Array) -> Array:
        out: Array = x.astype(np.int64) @ w.astype(np.int64)
        return out

    few = images[:8]
    problem = difference(sums[:8], float_sums(network, few, product, np))
    if problem:
        raise WrongResult(f"numpy's float32 sums of the MLP: {problem}")


def _once(contestant: Contestant) -> Result:
    """A single timed run of what takes long, after its result has been checked."""
    check(contestant)
    began = time.perf_counter()
    contestant.run()
    return Result(contestant, summarize([time.perf_counter() - began]))


def _accuracy(network: Network, result: Result, labels: Array) -> float:
    """Of the sums that the kernel was checked to compute; nan if it computed others."""
    if result.timing is None:
        return float("nan")
    scores = result.contestant.expected.astype(np.float64) * network.scale + network.bias
    return float(np.mean(np.argmax(scores, 1) == labels))


def _notes(rows: Sequence[report.Row]) -> list[str]:
    return [f"{row.provider}: {row.note}" for row in rows if row.note]


def _accuracies(rows: Sequence[report.Row]) -> list[str]:
    found = ", ".join(f"{row.provider} {row.accuracy:.4f}" for row in rows)
    return [f"accuracy: {found}; the last layer's sums are equal for all images"]
