"""Train a config with several seeds; print the mean and note it in a CSV.

    python scripts/run_seeds.py configs/quickstart.toml --seeds 0 1 2 --csv docs/results.csv
    python scripts/run_seeds.py configs/mnist_mlp.toml --name MNIST --model.widths 1024 1024

Options behind the script's own are overrides of the config. One row per call: name, command,
test accuracy of each seed (best epoch by validation), mean, sample standard deviation, seconds of
training, machine, versions, date.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import os
import shlex
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from binjax import config as configs
from binjax import train
from binjax.cli.progress import make_reporter
from binjax.train.rundir import describe_environment

COLUMNS = (
    "name",
    "command",
    "test_accuracy",
    "mean",
    "sd",
    "seconds",
    "machine",
    "versions",
    "date",
)


def run(config: configs.Config, root: Path) -> dict[str, Any]:
    """One seed: the last line of its metrics."""
    folder = train.RunFolder(root / str(config.seed))
    with make_reporter(folder, quiet=True) as reporter:
        return train.fit(config, folder, reporter, resume=True, argv=sys.argv)


def machine() -> str:
    """The processor's name and the number of cores."""
    name = "unknown processor"
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        name = lines[0].partition(": ")[2] if lines else name
    return f"{name}, {os.cpu_count()} cores"


def command(config: str, overrides: list[str]) -> str:
    """What a reader types; the data folder is theirs."""
    words: list[str] = []
    for word in overrides:
        words.append("DIR" if words and words[-1] == "--data.dir" else shlex.quote(word))
    return " ".join(["binjax train", config, *words])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("config")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--name", help="of the row; default the config's file name")
    parser.add_argument("--csv", type=Path, help="append the row here")
    parser.add_argument("--out", type=Path, help="keep the run folders here, and go on with them")
    args, overrides = parser.parse_known_args()

    lines = []
    with tempfile.TemporaryDirectory(prefix="seeds_") as temporary:
        for seed in args.seeds:
            config = configs.load(args.config, [*overrides, "--seed", str(seed)])
            lines.append(run(config, args.out or Path(temporary)))
            print(f"seed {seed}: test accuracy {lines[-1]['test_accuracy']:.4f}", flush=True)
    scores = [line["test_accuracy"] for line in lines]
    sd = statistics.stdev(scores) if len(scores) > 1 else 0.0
    seconds = statistics.median(line["seconds"] for line in lines)
    versions = describe_environment(config, sys.argv, {})["versions"]
    print(f"mean {statistics.mean(scores):.4f} ± {sd:.4f} over {len(scores)} seeds")
    if args.csv:
        new = not args.csv.exists()
        with args.csv.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            if new:
                writer.writerow(COLUMNS)
            writer.writerow(
                (
                    args.name or Path(args.config).stem,
                    command(args.config, overrides),
                    " ".join(f"{score:.4f}" for score in scores),
                    f"{statistics.mean(scores):.4f}",
                    f"{sd:.4f}",
                    f"{seconds:.1f}",
                    machine(),
                    " ".join(f"{name}={versions[name]}" for name in ("jax", "flax", "optax")),
                    datetime.date.today().isoformat(),
                )
            )


if __name__ == "__main__":
    main()
