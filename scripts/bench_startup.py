"""How long a user waits before anything happens: medians of whole processes, side by side.

    python scripts/bench_startup.py --csv docs/bench_startup.csv

Rows: the interpreter alone; `binjax --help`; a config error; `import jax, flax.nnx, optax`; the
same with `import binjax`; the same with every public name of binjax loaded.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import subprocess
import sys
import time
from pathlib import Path

BASE = "import jax, flax.nnx, optax"
PROGRAMS = {
    "python": (["-c", "pass"], 0),
    "binjax --help": (["-m", "binjax", "--help"], 0),
    "config error": (["-m", "binjax", "train", "{config}", "--epohcs", "3"], 2),
    "jax, flax.nnx, optax": (["-c", BASE], 0),
    "the same and binjax": (["-c", f"{BASE}, binjax"], 0),
    "the same, all of binjax": (
        ["-c", f"{BASE}, binjax; [getattr(binjax, name) for name in binjax.__all__]"],
        0,
    ),
}


def seconds(arguments: list[str], status: int) -> float:
    """One run of the interpreter; its exit status is checked."""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], capture_output=True, check=False)
    if done.returncode != status:
        raise SystemExit(f"{arguments}: exit status {done.returncode}, wanted {status}")
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--csv", type=Path, help="write the medians here")
    args = parser.parse_args()
    config = Path(__file__).parent.parent / "configs" / "quickstart.toml"

    times: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for _ in range(args.runs + 1):
        for name, (words, status) in PROGRAMS.items():
            times[name].append(seconds([w.format(config=config) for w in words], status))
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}
    for name, median in medians.items():
        print(f"{name:24} {median:6.3f} s")
    beyond = medians["the same and binjax"] - medians["jax, flax.nnx, optax"]
    print(f"import binjax beyond jax, flax.nnx, optax: {beyond:.3f} s")
    if args.csv:
        with args.csv.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("program", "median_seconds", "runs"))
            writer.writerows((name, f"{m:.3f}", args.runs) for name, m in medians.items())


if __name__ == "__main__":
    main()
