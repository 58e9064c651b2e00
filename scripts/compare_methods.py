"""Train a list of methods on one small network, several seeds each: does each ingredient help?

    python scripts/compare_methods.py configs/methods/cifar10.toml --data.dir DIR \
        --csv docs/methods.csv

The list is a TOML file: ``config`` (relative to it), ``minutes`` (the budget of the whole table on
the machine that its header names), ``seeds``, and ``[[methods]]`` with ``name``, ``overrides``
(words of a command line) and ``against``, the method it adds an ingredient to. Seeds of all methods
take turns, so that a slow hour of the machine is shared; on each core one run at a time, which ends
sooner than one run on all cores (``--jobs``). Options behind the script's own are overrides of
every method.

One row per method: test accuracy for each seed, mean, sample standard deviation; the mean and
standard deviation of the difference to ``against``, seed by seed; seconds of training.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import io
import multiprocessing
import os
import shlex
import statistics
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any, NamedTuple

import jax
from run_seeds import machine, run

from binjax import config as configs
from binjax.train.rundir import describe_environment, write_atomic

COLUMNS = (
    "name",
    "overrides",
    "against",
    "test_accuracy",
    "mean",
    "sd",
    "gain",
    "gain_sd",
    "seconds",
    "machine",
    "versions",
    "date",
)


class Method(NamedTuple):
    name: str
    overrides: tuple[str, ...]
    against: str


class Plan(NamedTuple):
    config: Path
    minutes: float
    seeds: tuple[int, ...]
    methods: tuple[Method, ...]


def read_plan(path: Path) -> Plan:
    """The methods of a file; a mistake in it is one line."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        methods = tuple(
            Method(m["name"], tuple(shlex.split(m.get("overrides", ""))), m.get("against", ""))
            for m in table["methods"]
        )
        plan = Plan(path.parent / table["config"], table["minutes"], (*table["seeds"],), methods)
    except OSError as error:
        raise SystemExit(f"{path}: cannot be read: {error.strerror}") from None
    except tomllib.TOMLDecodeError as error:
        raise SystemExit(f"{path}: not valid TOML: {error}") from None
    except KeyError as error:
        raise SystemExit(f"{path}: {error} is missing") from None
    names = [method.name for method in methods]
    for i, method in enumerate(methods):
        if method.name in names[:i]:
            raise SystemExit(f"{path}: the method {method.name!r} is there twice")
        if method.against and method.against not in names[:i]:
            raise SystemExit(
                f"{path}: {method.name!r} stands against {method.against!r}, which is not above it"
            )
    return plan


def load(plan: Plan, method: Method, more: list[str], seed: int) -> configs.Config:
    return configs.load(plan.config, [*method.overrides, *more, "--seed", str(seed)])


def cores() -> list[int]:
    """Those this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def prepare(free: Queue[int], compiled: Path) -> None:
    """Keep a worker on a core that no other worker has, and not for longer than the script runs."""
    jax.config.update("jax_compilation_cache_dir", str(compiled))
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {free.get()})

    def end() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()


Key = tuple[str, int]


def run_all(
    all_configs: dict[Key, configs.Config], root: Path, jobs: int
) -> Iterator[tuple[Key, dict[str, Any]]]:
    """Name, seed and last line of metrics of runs as they end; each method is compiled once."""
    folders = {key: root / "runs" / key[0].replace("/", "_") for key in all_configs}
    compiled = root / "compiled"
    if jobs == 1:
        jax.config.update("jax_compilation_cache_dir", str(compiled))
        for key, config in all_configs.items():
            yield key, run(config, folders[key])
        return
    context = multiprocessing.get_context("spawn")
    free = context.Queue()
    for i in range(jobs):
        free.put(cores()[i % len(cores())])
    with ProcessPoolExecutor(jobs, context, initializer=prepare, initargs=(free, compiled)) as pool:
        started = {
            pool.submit(run, config, folders[key]): key for key, config in all_configs.items()
        }
        try:
            for done in as_completed(started):
                yield started[done], done.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def gain(scores: list[float], base: list[float] | None) -> tuple[str, str]:
    """Mean and standard deviation of the differences, seed by seed."""
    if base is None:
        return "", ""
    differences = [a - b for a, b in zip(scores, base, strict=True)]
    sd = statistics.stdev(differences) if len(differences) > 1 else 0.0
    return f"{statistics.mean(differences):+.4f}", f"{sd:.4f}"


def rows(plan: Plan, found: dict[str, list[dict[str, Any]]], versions: str) -> list[list[str]]:
    scores = {name: [line["test_accuracy"] for line in lines] for name, lines in found.items()}
    table = []
    for method in plan.methods:
        own = scores[method.name]
        table.append(
            [
                method.name,
                shlex.join(method.overrides),
                method.against,
                " ".join(f"{score:.4f}" for score in own),
                f"{statistics.mean(own):.4f}",
                f"{statistics.stdev(own) if len(own) > 1 else 0:.4f}",
                *gain(own, scores.get(method.against)),
                f"{statistics.median(line['seconds'] for line in found[method.name]):.1f}",
                machine(),
                versions,
                datetime.date.today().isoformat(),
            ]
        )
    return table


def markdown(table: list[list[str]]) -> str:
    lines = ["| method | accuracy, % | against | gain |", "|---|---|---|---|"]
    for name, _, against, _, mean, sd, more, more_sd, *_ in table:
        difference = f"{100 * float(more):+.1f} ± {100 * float(more_sd):.1f}" if more else "–"
        accuracy = f"{100 * float(mean):.1f} ± {100 * float(sd):.1f}"
        lines.append(f"| {name} | {accuracy} | {against or '–'} | {difference} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("plan", type=Path)
    parser.add_argument("--csv", type=Path, help="write the table here")
    parser.add_argument("--only", nargs="+", help="names of methods, in place of all")
    parser.add_argument("--seeds", type=int, nargs="+", help="in place of the list's")
    parser.add_argument("--jobs", type=int, default=len(cores()), help="runs at a time")
    args, overrides = parser.parse_known_args()
    if args.jobs < 1:
        parser.error(f"--jobs {args.jobs}: expected 1 or more")
    plan = read_plan(args.plan)
    plan = plan._replace(seeds=tuple(args.seeds or plan.seeds))
    names = [method.name for method in plan.methods]
    for name in args.only or ():
        if name not in names:
            raise SystemExit(f"{args.plan}: has no method {name!r}; it has {', '.join(names)}")
    if args.only:
        kept = tuple(method for method in plan.methods if method.name in args.only)
        plan = plan._replace(methods=kept)
    try:
        all_configs = {
            (method.name, seed): load(plan, method, overrides, seed)
            for seed in plan.seeds
            for method in plan.methods
        }
    except configs.ConfigError as error:
        raise SystemExit(f"{args.plan}: {error}") from None

    start = time.perf_counter()
    lines: dict[Key, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="methods_") as temporary:
        for (name, seed), line in run_all(all_configs, Path(temporary), args.jobs):
            lines[name, seed] = line
            print(
                f"{name}, seed {seed}: {line['test_accuracy']:.4f}, {line['seconds']:.0f} s",
                flush=True,
            )
    found = {m.name: [lines[m.name, seed] for seed in plan.seeds] for m in plan.methods}
    minutes = (time.perf_counter() - start) / 60
    config = next(iter(all_configs.values()))
    environment = describe_environment(config, sys.argv, {})["versions"]
    versions = " ".join(f"{name}={environment[name]}" for name in ("jax", "flax", "optax"))
    table = rows(plan, found, versions)
    print(markdown(table))
    print(f"{minutes:.1f} minutes, {args.jobs} at a time; the budget is {plan.minutes:g}")
    if args.csv:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([COLUMNS, *table])
        write_atomic(args.csv, text.getvalue())


if __name__ == "__main__":
    main()
