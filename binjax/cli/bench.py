"""``binjax bench``: binary products against float ones, on one thread and on all."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import binjax
from binjax.bench import Plan, Row, default_threads, pinned, read_csv, usable_threads, write_csv
from binjax.bench.plan import BASELINES, GROUPS, parse_shape
from binjax.config import ConfigError

_WIDTH = 110  # of tables, at least: narrower ones would lose digits


def add_bench(commands: Any) -> None:
    """Register the command's options."""
    bench = commands.add_parser(
        "bench", help="measure the binary kernels of this machine", allow_abbrev=False
    )
    bench.add_argument("--quick", action="store_true", help="few and small shapes; a minute")
    bench.add_argument("--cases", nargs="+", choices=GROUPS, metavar="|".join(GROUPS))
    bench.add_argument(
        "--shapes",
        nargs="+",
        metavar="MxKxN",
        help="these only; five numbers are a 3x3 convolution: BATCHxHxWxINxOUT",
    )
    bench.add_argument(
        "--threads", type=int, metavar="N", help="default: one, then all; --figure2: all"
    )
    bench.add_argument(
        "--baseline",
        choices=("best", *BASELINES),
        default="best",
        help="whose float32 ratios are to; default the fastest",
    )
    bench.add_argument("--csv", metavar="FILE", help="write a row for each measurement")
    bench.add_argument("--png", metavar="FILE", help="draw them (needs matplotlib)")
    bench.add_argument(
        "--figure2",
        action="store_true",
        help="figure 2 of the BNN paper instead: 8192^3 product, MLP inference, accuracy",
    )
    bench.add_argument(
        "--data-dir", metavar="DIR", help="MNIST for --figure2; default the embedded images"
    )


def run_bench(args: argparse.Namespace) -> int:
    """Measure, print, write. A kernel that is not exact gives status 1 and no files."""
    plan, threads = _check(args)
    # Read when numpy is loaded: else its workers spin 2^26 cycles beside whoever is timed next.
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "16")
    if threads == (usable_threads(),):
        rows = _measure(args, plan)
    else:
        rows = _measure_in_children(args, threads)
    if isinstance(rows, int):
        return rows
    if args.csv:
        write_csv(rows, Path(args.csv))
    if args.png:
        from binjax.bench import report

        (report.draw_figure2 if args.figure2 else report.draw)(rows, Path(args.png))
    return 0


def _check(args: argparse.Namespace) -> tuple[Plan, tuple[int, ...]]:
    """Find mistakes before minutes have been spent."""
    every = usable_threads()
    if args.threads is not None and not 1 <= args.threads <= every:
        raise ConfigError(f"--threads: is {args.threads}; this process may use 1 to {every}")
    if args.cases and args.shapes:
        raise ConfigError("--cases: goes without --shapes, which names all that is measured")
    if args.data_dir and not args.figure2:
        raise ConfigError("--data-dir: is for --figure2 only")
    if args.figure2 and (args.cases or args.shapes):
        raise ConfigError("--figure2: goes without --cases and --shapes")
    for option in ("csv", "png"):
        path = getattr(args, option)
        if path and not Path(path).absolute().parent.is_dir():
            raise ConfigError(f"--{option}: no folder {Path(path).absolute().parent}")
        if path and Path(path).is_dir():
            raise ConfigError(f"--{option}: {path} is a folder")
    if args.data_dir and not Path(args.data_dir).is_dir():
        raise ConfigError(f"--data-dir: no folder {args.data_dir}")
    if args.png:
        from binjax.bench.report import can_draw

        if not can_draw():
            raise ConfigError("--png: needs matplotlib (pip install 'binjax[plot]')")
    try:
        shapes = tuple(parse_shape(text) for text in args.shapes or ())
    except ValueError as error:
        raise ConfigError(f"--shapes: {error}") from None
    baselines = BASELINES if args.baseline == "best" else (args.baseline,)
    groups = tuple(dict.fromkeys(args.cases or GROUPS))
    plan = Plan.make(groups, shapes, quick=args.quick, baselines=baselines)
    if args.threads is not None:
        return plan, (args.threads,)
    return plan, (every,) if args.figure2 else default_threads()


def _measure(args: argparse.Namespace, plan: Plan) -> list[Row] | int:
    """Measure in this process; an exit status if a kernel is wrong."""
    from rich.console import Console

    from binjax.bench import ceiling, report
    from binjax.bench.timing import WrongResult

    console = Console(width=max(shutil.get_terminal_size().columns, _WIDTH), highlight=False)

    def tell(rows: Sequence[Row], notes: Sequence[str]) -> None:
        if rows:
            title = f"{rows[0].case} {rows[0].shape}, threads: {rows[0].threads}"
            console.print(report.make_table(rows, title))
        for note in notes:
            console.print(note)

    try:
        gauge = ceiling.Gauge()
    except ValueError as error:
        raise ConfigError(str(error)) from None
    machine, found = ceiling.describe(binjax.__version__), gauge.best
    console.print(
        f"{machine.device}, {machine.isa}, threads: {machine.threads}, jax {machine.jax}\n"
        "ceiling of one core, multiply-accumulates: "
        f"xor + popcount + add {_giga(found.popcount)}, float32 FMA {_giga(found.fma)}"
    )
    try:
        if args.figure2:
            from binjax.bench import figure2

            size = figure2.QUICK if args.quick else figure2.FULL
            return figure2.measure(size, args.data_dir, machine, gauge, plan.baselines, tell)
        from binjax.bench import suite

        return suite.measure(plan, machine, gauge, tell)
    except WrongResult as error:
        print(f"binjax: wrong result: {error}", file=sys.stderr)
        return 1


def _environment(threads: int) -> dict[str, str]:
    """Ours, with the thread counts of libraries that may not go by a process's CPUs."""
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "BNN_NUM_THREADS")
    return dict(os.environ) | dict.fromkeys(names, str(threads))


def _giga(rate: float) -> str:
    return f"{rate / 1e9:,.1f} G/s" if rate else "not measured"


def _measure_in_children(args: argparse.Namespace, threads: Sequence[int]) -> list[Row] | int:
    """A process for each number of threads: pools cannot change theirs once they run.

    Returns:
        All rows, or the exit status of the first process that failed; it has said why.
    """
    words = [sys.executable, "-m", "binjax", "bench", "--baseline", args.baseline]
    for option in ("quick", "figure2"):
        words += [f"--{option}"] * getattr(args, option)
    for option in ("cases", "shapes"):
        words += [f"--{option}", *getattr(args, option)] if getattr(args, option) else []
    words += ["--data-dir", args.data_dir] if args.data_dir else []
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="binjax_bench_") as folder:
        for count in threads:
            path = Path(folder) / f"{count}.csv"
            command = [*words, "--threads", str(count), "--csv", str(path)]
            sys.stdout.flush()
            with pinned(count):
                status = subprocess.run(command, check=False, env=_environment(count)).returncode
            if status:
                return status if status > 0 else 1
            rows += read_csv(path)
    return rows
