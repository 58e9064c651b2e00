"""Whole training steps of binjax and of others on the same networks, timed side by side."""

from __future__ import annotations

import datetime
import functools
import importlib.metadata
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from binjax import layers, losses
from binjax.bench import plain, torch_train
from binjax.bench.ceiling import cpu_model
from binjax.bench.plan import usable_threads
from binjax.bench.problems import PROBLEMS, Problem, describe_net
from binjax.config.optimizers import Adam
from binjax.models.options import Compute
from binjax.train.optimizer import make_optimizer
from binjax.train.state import Totals, TrainState
from binjax.train.step import make_gradient, make_step

VARIANTS = (
    *("plain", "plain-real", "float", "packed", "int16", "lean"),
    *("torch", "bnn-lab", "larq"),
)
"""Plain JAX with signs and without any; binjax in floats, packed by memory; others' frameworks."""
PAUSE = 0.25  # seconds until idle workers of another library have ceased to spin


class Stepper(NamedTuple):
    """One way to make training steps.

    Attributes:
        run: makes one step to the end; returns its loss.
        temp_bytes: temporary memory of the compiled step, None if it is not known.
        pool: whose worker threads do the work.
        compiled: how often it was compiled so far.
        close: gives back what it holds.
    """

    run: Callable[[], float]
    temp_bytes: int | None
    pool: str
    compiled: Callable[[], int]
    close: Callable[[], None] = lambda: None


class Measurement(NamedTuple):
    """Milliseconds of a step (median and least over rounds), MiB of temporary memory."""

    variant: str
    median_ms: float
    least_ms: float
    rounds: int
    temp_mib: float | None
    first_loss: float


def make_stepper(problem: Problem, variant: str, larq: Sequence[str] = ()) -> Stepper:
    """A variant on a problem, from binjax's initial parameters of seed 0 (Larq: from its own).

    ``larq`` is the command of the process that makes Larq's steps.

    Raises:
        ImportError: torch, or that process, is not there.
    """
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (problem.batch, *problem.image), np.uint8)
    labels = rng.integers(0, 10, problem.batch).astype(np.int32)
    scaled = (2 / 255 * pixels - 1).astype(np.float32)

    def build(compute: Compute) -> nnx.Module:
        return problem.build(compute=compute, pixels=True, rngs=nnx.Rngs(0))

    if variant in ("plain", "plain-real", "torch", "bnn-lab", "larq"):
        model = build(Compute())
        _, params, stats = layers.split(model)
        net = describe_net(model, problem.eps, problem.momentum)
        if variant == "larq":
            return _larq_stepper(larq, net, params, problem)
        if variant in ("torch", "bnn-lab"):
            step = torch_train.make_step(net, params, usable_threads(), variant)
            return Stepper(lambda: step(scaled, labels), None, "torch", lambda: 1)
        optimizer = optax.adam(1e-3)
        state = (params, stats, optimizer.init(params))
        jitted = plain.make_step(net, optimizer, binarize=variant == "plain")
        return _jax_stepper(jitted, state, scaled, labels, lambda found: found)

    memory = variant if variant in ("int16", "lean") else "full"
    compute = Compute("float" if variant == "float" else "auto", memory)  # type: ignore[arg-type]
    options = Adam(learning_rate=1e-3)
    abstract = nnx.eval_shape(functools.partial(build, compute))
    transform = make_optimizer(options, abstract, 1, 1)
    graphdef, params, stats = layers.split(build(compute))
    loss = losses.LABEL_LOSSES["squared_hinge"]
    gradient = make_gradient(graphdef, loss, lambda key, x: x, lambda x: x)
    train_state = TrainState(
        params=params,
        stats=stats,
        opt_state=transform.init(params),
        key=jax.random.key_data(jax.random.key(0)),
        step=jnp.int32(0),
        totals=Totals.zero(),
        epoch_signs={},
        start_signs={},
        flips={},
        failed_step=jnp.int32(-1),
    )
    jitted = make_step(gradient, transform)
    return _jax_stepper(jitted, train_state, pixels, labels, lambda metrics: metrics["loss"])


def _larq_stepper(command: Sequence[str], net: plain.Net, params: Any, problem: Problem) -> Stepper:
    if not command:
        raise ImportError("no Python with Larq was given")
    described = [
        layer._asdict()
        | {
            "n_out": params[f"{layer.kind}{layer.number}"]["kernel"].shape[-1],
            "scale": "scale" in params[f"norm{layer.number}"],
        }
        for layer in net.layers
    ]
    network = {
        "layers": described,
        "image": problem.image,
        "batch": problem.batch,
        "eps": problem.eps,
        "momentum": problem.momentum,
        "threads": usable_threads(),
    }
    peer = subprocess.Popen(
        [*command, json.dumps(network)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )

    def run() -> float:
        assert peer.stdin is not None
        assert peer.stdout is not None
        peer.stdin.write("\n")
        peer.stdin.flush()
        return float(peer.stdout.readline())

    return Stepper(run, None, "larq", lambda: 1, peer.kill)


def _jax_stepper(
    step: Any, state: Any, images: Any, labels: Any, read: Callable[[Any], Any]
) -> Stepper:
    images, labels = jnp.asarray(images), jnp.asarray(labels)
    memory = step.lower(state, images, labels).compile().memory_analysis()
    held = [state]

    def run() -> float:
        held[0], found = step(held[0], images, labels)
        jax.block_until_ready(held[0])
        return float(read(found))

    temp = None if memory is None else int(memory.temp_size_in_bytes)
    return Stepper(run, temp, "jax", step._cache_size)


def race(
    problem: Problem,
    variants: Sequence[str],
    *,
    seconds: float,
    most_rounds: int,
    larq: Sequence[str] = (),
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[Measurement | str]:
    """Time variants in interleaved rounds; a string says why one is missing.

    Raises:
        RuntimeError: the first losses of binjax's variants differ, or one was compiled again.
    """
    steppers: dict[str, Stepper] = {}
    for variant in variants:
        try:
            steppers[variant] = make_stepper(problem, variant, larq)
        except ImportError as error:
            yield f"{variant}: left out, {error}"
    first = {variant: stepper.run() for variant, stepper in steppers.items()}
    ours = {v: first[v] for v in first if v in ("float", "packed", "int16", "lean")}
    if len(set(ours.values())) > 1:
        raise RuntimeError(f"first losses differ: {ours}")
    once = {variant: _sample(stepper, clock) for variant, stepper in steppers.items()}
    rounds = int(seconds / max(2 * sum(once.values()), 1e-9))
    rounds = min(max(rounds, 3), most_rounds)
    samples: dict[str, list[float]] = {variant: [] for variant in steppers}
    pools: dict[str, list[str]] = {}
    for variant, stepper in steppers.items():
        pools.setdefault(stepper.pool, []).append(variant)
    for i in range(rounds):
        for members in pools.values():
            time.sleep(PAUSE if len(pools) > 1 else 0)
            for variant in members[i % len(members) :] + members[: i % len(members)]:
                steppers[variant].run()
                samples[variant].append(_sample(steppers[variant], clock))
    for variant, stepper in steppers.items():
        stepper.close()
        if stepper.compiled() != 1:
            raise RuntimeError(f"{variant} was compiled {stepper.compiled()} times")
        temp = None if stepper.temp_bytes is None else stepper.temp_bytes / 2**20
        taken = [1e3 * s for s in samples[variant]]
        yield Measurement(
            variant, float(np.median(taken)), min(taken), rounds, temp, first[variant]
        )


def _sample(stepper: Stepper, clock: Callable[[], float]) -> float:
    began = clock()
    stepper.run()
    return clock() - began


def rows(name: str, found: Sequence[Measurement]) -> list[dict[str, Any]]:
    """Measurements of one problem as lines of a CSV file; ratios are to ``plain``."""
    problem = PROBLEMS[name]
    reference = next((m.median_ms for m in found if m.variant == "plain"), None)
    return [
        {
            "net": name,
            "batch": problem.batch,
            "variant": m.variant,
            "threads": usable_threads(),
            "step_ms": f"{m.median_ms:.5g}",
            "least_ms": f"{m.least_ms:.5g}",
            "images_per_second": f"{1e3 * problem.batch / m.median_ms:.5g}",
            "temp_mib": "" if m.temp_mib is None else f"{m.temp_mib:.5g}",
            "ratio": "" if reference is None else f"{reference / m.median_ms:.4g}",
            "rounds": m.rounds,
            "first_loss": f"{m.first_loss:.7g}",
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "version": _version(m.variant),
            "cpu": cpu_model(),
            "cores": os.cpu_count(),
        }
        for m in found
    ]


def _version(variant: str) -> str:
    """Of whose code it is; Larq's is unknown here, since it runs in another Python."""
    if variant in ("torch", "bnn-lab"):
        return f"{variant} {importlib.metadata.version(variant)}"
    if variant == "larq":
        return variant
    own = "" if variant.startswith("plain") else f"binjax {importlib.metadata.version('binjax')}, "
    return f"{own}jax {jax.__version__}"
