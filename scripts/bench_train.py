"""Whole training steps: plain JAX, binjax in floats and packed, PyTorch, Larq; the same networks.

    python scripts/bench_train.py --csv docs/bench_train.csv --png docs/bench_train.png
    python scripts/bench_train.py --nets mlp-1024-b100 --variants plain packed --seconds 5

All start from the same weights and make forward pass, backward pass, Adam's update and the
clipping of latent weights, the state donated. They run in interleaved rounds in one process; a
number is the median of its rounds. Temporary memory is what XLA reports of the compiled step.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from binjax.bench import pinned, problems, training, usable_threads
from binjax.bench.report import can_draw

LABELS = {
    "plain": "plain JAX",
    "plain-real": "plain JAX, not binarized",
    "float": "binjax, floats",
    "packed": "binjax, packed",
    "int16": "binjax, packed, int16",
    "lean": "binjax, packed, lean",
    "torch": "PyTorch",
    "bnn-lab": "bnn-lab",
    "larq": "Larq",
}
LARQ = Path(__file__).with_name("bench_train_larq.py")


def main() -> int:
    """Measure, print, write."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # else torch's workers spin after a step
    args = _arguments()
    problem = _problem(args)
    if problem:
        print(f"bench_train: {problem}", file=sys.stderr)
        return 2
    if args.threads not in (None, usable_threads()):
        return _again(args.threads)
    console, rows = Console(width=110), []
    for name in args.nets:
        found = []
        race = training.race(
            problems.PROBLEMS[name],
            args.variants,
            seconds=args.seconds,
            most_rounds=args.rounds,
            larq=args.larq_python and [args.larq_python, str(LARQ)],
        )
        for item in race:
            if isinstance(item, str):
                console.print(item)
            else:
                found.append(item)
        lines = training.rows(name, found)
        rows += lines
        console.print(_table(name, lines))
    if args.csv is not None:
        _write(rows, args.csv)
    if args.png is not None:
        _draw(rows, args.png)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--nets", nargs="+", choices=problems.PROBLEMS, default=list(problems.PROBLEMS)
    )
    parser.add_argument(
        "--variants", nargs="+", choices=training.VARIANTS, default=list(training.VARIANTS)
    )
    parser.add_argument("--seconds", type=float, default=40, help="per network")
    parser.add_argument("--rounds", type=int, default=25, help="at most")
    parser.add_argument("--larq-python", default="", help="a Python that has larq")
    parser.add_argument("--threads", type=int, help="default all that this process may use")
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--png", type=Path)
    return parser.parse_args()


def _problem(args: argparse.Namespace) -> str:
    """What is wrong with the options, before minutes have been spent."""
    every = usable_threads()
    if args.threads is not None and not 1 <= args.threads <= every:
        return f"--threads: is {args.threads}; this process may use 1 to {every}"
    if args.rounds < 1 or not args.seconds >= 0:
        return "--rounds: at least 1; --seconds: at least 0"
    if args.larq_python and shutil.which(args.larq_python) is None:
        return f"--larq-python: {args.larq_python} is no program"
    for option, path in (("csv", args.csv), ("png", args.png)):
        if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
            return f"--{option}: {path} is a folder, or in none"
    if args.png is not None and not can_draw():
        return "--png: needs matplotlib (pip install 'binjax[plot]')"
    return ""


def _again(threads: int) -> int:
    """Run the command on fewer CPUs: thread pools take their size when they start."""
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    environment = dict(os.environ) | dict.fromkeys(names, str(threads))
    with pinned(threads):
        return subprocess.run([sys.executable, *sys.argv], check=False, env=environment).returncode


def _table(name: str, lines: list[dict[str, Any]]) -> Table:
    table = Table(title=name, title_justify="left")
    for column in ("variant", "step ms", "least", "images/s", "x plain", "temporary MiB"):
        table.add_column(column, justify="left" if column == "variant" else "right")
    for line in lines:
        table.add_row(
            LABELS[line["variant"]],
            line["step_ms"],
            line["least_ms"],
            line["images_per_second"],
            line["ratio"],
            line["temp_mib"],
        )
    return table


def _write(rows: list[dict[str, Any]], path: Path) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    temporary.replace(path)


def _draw(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    nets = list(dict.fromkeys(row["net"] for row in rows))
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    figure, panels = plt.subplots(1, 2, figsize=(11, 0.9 * len(nets) + 1.2), sharey=True)
    for panel, column, title in (
        (panels[0], "ratio", "speed of a training step, plain JAX = 1"),
        (panels[1], "temp_mib", "temporary memory, MiB"),
    ):
        height = 0.8 / len(variants)
        for i, variant in enumerate(variants):
            mine = {r["net"]: r[column] for r in rows if r["variant"] == variant}
            values = [float(mine.get(net) or 0) for net in nets]
            places = [n + (i - len(variants) / 2) * height for n in range(len(nets))]
            panel.barh(places, values, height, label=LABELS[variant])
        panel.set_title(title, fontsize=9)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(nets)), nets)
    panels[0].invert_yaxis()
    panels[0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    sys.exit(main())
