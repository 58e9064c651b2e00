"""Inference timed side by side: packed, as C, in floats by XLA and torch, by others' frameworks."""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import functools
import importlib
import importlib.metadata
import importlib.util
import math
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from binjax import deploy
from binjax.bench.ceiling import cpu_model
from binjax.bench.deployed import Array, Network, macs, prepare, xla_scores
from binjax.bench.peers import LeftOut, Predict, Server, bnn_lab_predict, torch_predict
from binjax.bench.plan import usable_threads
from binjax.bench.problems import PROBLEMS, Problem
from binjax.bench.suite import remarks
from binjax.bench.timing import Case, Contestant, Result, race

NETS: Mapping[str, Problem] = MappingProxyType(
    {
        "mlp-4096": PROBLEMS["mlp-4096-b100"],
        "mlp-1024": PROBLEMS["mlp-1024-b100"],
        "larq-cifar10": PROBLEMS["larq-cifar10-b50"],
    }
)
BATCHES = (1, 100, 1000, 10000)
TOO_LONG: Mapping[str, int] = MappingProxyType({"larq-cifar10": 10000})
"""Batches of which a pass in floats takes minutes, and gigabytes."""
CONTESTANTS = ("packed", "c", "float-xla", "torch", "bnn-lab", "larq", "lce")
BASELINE = "float-xla"
COLUMNS = (
    *("net", "batch", "threads", "contestant"),
    *("median_ms", "q20_ms", "q80_ms", "images_per_second", "ratio", "rounds"),
    *("date", "jax", "version", "cpu", "cores"),
)

_MOST_IN_C = 1000  # images, of a library that takes one at a time on one thread
_CALLS = """#include "{name}.h"
void predict_many(const uint8_t *images, int n, float *scores) {{
  for (int i = 0; i < n; ++i)
    {name}_predict(images + (long)i * {size}, scores + i * {classes});
}}
"""


class Entry(NamedTuple):
    """Whose code it is, with versions, and a contestant for each batch size."""

    version: str
    make: Callable[[int], Contestant]
    notes: tuple[str, ...] = ()


class Measured(NamedTuple):
    """What was found of one batch size: lines of a CSV file, and what there is to say."""

    batch: int
    rows: list[dict[str, str]]
    notes: list[str]


# The contestants


def _exact(
    name: str, network: Network, batch: int, run: Callable[[], Any], pool: str
) -> Contestant:
    """One of ours: every bit of every score."""
    return Contestant(
        name, "scores", run, _bits(network.scores[:batch]), ours=True, read=_bits, pool=pool
    )


def _bits(scores: Any) -> Array:
    return np.asarray(scores, np.float32).view(np.uint32)


def _classes(scores: Any) -> Array:
    return np.asarray(np.argmax(np.asarray(scores), axis=1))


def _packed(network: Network) -> Entry:
    def make(batch: int) -> Contestant:
        images = jnp.asarray(network.images[:batch])
        run = lambda: jax.block_until_ready(network.packed(images))  # noqa: E731
        return _exact("packed", network, batch, run, "jax")

    return Entry(f"binjax {importlib.metadata.version('binjax')}, jax {jax.__version__}", make)


def _float_xla(network: Network) -> Entry:
    jitted = jax.jit(functools.partial(xla_scores, network.packed.graph))
    placed = {name: jnp.asarray(array) for name, array in network.floats.items()}

    def make(batch: int) -> Contestant:
        images = jnp.asarray(network.images[:batch])
        run = lambda: jax.block_until_ready(jitted(placed, images))  # noqa: E731
        expected = _classes(network.scores[:batch])
        return Contestant(BASELINE, "classes", run, expected, read=_classes)

    return Entry(f"jax {jax.__version__}", make)


def _in_python(name: str, network: Network, predict: Predict) -> Entry:
    def make(batch: int) -> Contestant:
        images = network.images[:batch]
        run, expected = functools.partial(predict, images), _classes(network.scores[:batch])
        return Contestant(name, "classes", run, expected, read=_classes, pool=name)

    return Entry(f"{name} {importlib.metadata.version(name)}", make)


def _c(network: Network) -> Entry:
    if usable_threads() > 1:
        raise LeftOut("it uses one thread; --threads 1 measures it")
    predict_many = compile_c(network.packed)

    def make(batch: int) -> Contestant:
        if batch > _MOST_IN_C:
            raise LeftOut(f"takes image by image, up to {_MOST_IN_C} are measured")
        images = np.ascontiguousarray(network.images[:batch])
        scores = np.empty((batch, network.packed.graph.classes), np.float32)

        def run() -> Array:
            predict_many(images.ctypes.data, batch, scores.ctypes.data)
            return scores

        return _exact("c", network, batch, run, "c")

    return Entry(f"binjax {importlib.metadata.version('binjax')}, {_compiler()}", make)


def compile_c(packed: deploy.PackedModel) -> Callable[[int, int, int], None]:
    """A packed model's C source, compiled: ``predict(address of images, n, address of scores)``.

    Raises:
        LeftOut: no compiler, or it fails.
    """
    if importlib.util.find_spec("binjax.deploy.c") is None:
        raise LeftOut("this binjax does not write C")
    compiler = _compiler()
    write_c = importlib.import_module("binjax.deploy.c").write_c
    image, name = packed.graph.image, "network"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        write_c(packed, Path(folder), name)
        calls = _CALLS.format(name=name, size=math.prod(image.shape), classes=packed.graph.classes)
        Path(folder, "calls.c").write_text(calls, encoding="ascii")
        options = ["-O3", "-march=native", "-shared", "-fPIC", "-o", f"{name}.so"]
        done = subprocess.run(
            [compiler, *options, f"{name}.c", "calls.c"],
            cwd=folder,
            capture_output=True,
            check=False,
        )
        if done.returncode:
            raise LeftOut(f"{compiler} fails with status {done.returncode}")
        function = ctypes.CDLL(str(Path(folder, f"{name}.so"))).predict_many
    function.argtypes, function.restype = [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p], None
    return function


def _compiler() -> str:
    found = os.environ.get("CC", "cc")
    if shutil.which(found) is None:
        raise LeftOut(f"there is no C compiler {found}")
    return found


def _other_python(
    name: str, network: Network, command: Sequence[str], stack: contextlib.ExitStack
) -> Entry:
    """Larq or its engine; what it predicts is not compared, since its weights are its own."""
    if not command:
        raise LeftOut("no Python that has it was given")
    server = Server(command, {**network.described, "engine": name, "threads": usable_threads()})
    stack.callback(server.close)
    trips = []
    for _ in range(20):
        began = time.perf_counter()
        server.predict(0)
        trips.append(time.perf_counter() - began)

    def make(batch: int) -> Contestant:
        server.predict(batch)
        run = functools.partial(server.predict, batch)
        return Contestant(name, "answers", run, np.asarray(batch), pool=name)

    trip = f"{name}: of its times {1e3 * np.median(trips):.2g} ms are the exchange with its process"
    return Entry(server.version, make, (trip, *(f"{name}: {note}" for note in server.notes)))


def _enter(
    name: str, network: Network, commands: Mapping[str, Sequence[str]], stack: contextlib.ExitStack
) -> Entry:
    graph, floats, threads = network.packed.graph, network.floats, usable_threads()
    if name == "torch":
        return _in_python(name, network, torch_predict(graph, floats, threads))
    if name == "bnn-lab":
        return _in_python(name, network, bnn_lab_predict(graph, floats, threads))
    if name in ("larq", "lce"):
        return _other_python(name, network, commands.get(name, ()), stack)
    return {"packed": _packed, "c": _c, BASELINE: _float_xla}[name](network)


# Measuring


def measure(
    net: str,
    problem: Problem,
    batches: Sequence[int],
    contestants: Sequence[str],
    *,
    seconds: float,
    most_rounds: int,
    commands: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> Iterator[Measured]:
    """Check and time contestants on this process's threads, a batch size after the other.

    Args:
        net: its name in the rows.
        problem: the network.
        batches: numbers of images.
        contestants: of ``CONTESTANTS``.
        seconds: for each batch size; longer where three rounds take longer.
        most_rounds: at least 1.
        commands: of the processes that run Larq and its engine, by ``"larq"`` and ``"lce"``.

    Raises:
        WrongResult: scores of ours are not those of the network in floats, bit for bit.
    """
    network = prepare(problem, max(batches))
    entries: dict[str, Entry] = {}
    notes: list[str] = []
    with contextlib.ExitStack() as stack:
        for name in contestants:
            try:
                entries[name] = _enter(name, network, commands, stack)
                notes += entries[name].notes
            except LeftOut as reason:
                notes.append(f"{name}: left out, {reason}")
        for batch in batches:
            running: list[Contestant] = []
            for name, entry in entries.items():
                try:
                    running.append(entry.make(batch))
                except LeftOut as reason:
                    notes.append(f"{name}: left out, {reason}")
            case = Case(net, str(batch), batch * macs(network.packed.graph), running)
            results = race(case, seconds=seconds, most_rounds=most_rounds)
            versions = {name: entry.version for name, entry in entries.items()}
            yield Measured(
                batch, rows_of(net, batch, results, versions), [*notes, *remarks(results)]
            )
            notes = []


def rows_of(
    net: str, batch: int, results: Sequence[Result], versions: Mapping[str, str]
) -> list[dict[str, str]]:
    """A line of a CSV file for each contestant that was timed; ratios are to ``float-xla``."""
    timed = {r.contestant.provider: r.timing for r in results if r.timing is not None}
    reference = timed.get(BASELINE)
    return [
        {
            "net": net,
            "batch": str(batch),
            "threads": str(usable_threads()),
            "contestant": name,
            "median_ms": f"{1e3 * t.median:.5g}",
            "q20_ms": f"{1e3 * t.q20:.5g}",
            "q80_ms": f"{1e3 * t.q80:.5g}",
            "images_per_second": f"{batch / t.median:.5g}",
            "ratio": "" if reference is None else f"{reference.median / t.median:.4g}",
            "rounds": str(t.rounds),
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "jax": jax.__version__,
            "version": versions[name],
            "cpu": cpu_model(),
            "cores": str(os.cpu_count()),
        }
        for name, t in timed.items()
    ]
