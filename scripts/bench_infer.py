"""Inference: binjax packed and as C, the same network in floats by XLA and PyTorch, bnn-lab, Larq.

    python scripts/bench_infer.py --csv docs/bench_infer.csv --png docs/bench_infer.png
    python scripts/bench_infer.py --nets mlp-1024 --batches 1 100 --threads 1 --seconds 2

Networks have random weights and norms; weights are packed, or made ±1 floats, beforehand. Ours have
to give the scores of the network in floats bit for bit, others its classes (Larq has weights of its
own). They run in interleaved rounds; a number is the median of its rounds. Each number of threads
has a process of its own, since thread pools take their size when they start.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from binjax.bench import default_threads, inference, pinned, usable_threads
from binjax.bench.peers import LeftOut
from binjax.bench.report import can_draw, save
from binjax.bench.timing import WrongResult

LABELS = {
    "packed": "binjax, packed",
    "c": "binjax, as C",
    "float-xla": "XLA, float32",
    "torch": "PyTorch, float32",
    "bnn-lab": "bnn-lab",
    "larq": "Larq",
    "lce": "Larq Compute Engine",
}
PEERS = Path(__file__).with_name("bench_infer_larq.py")
SETTINGS = ("nets", "batches", "contestants", "seconds", "rounds", "larq_python", "lce_python")
Row = dict[str, str]


def main() -> int:
    """Measure, print, write."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # else torch's workers spin after a pass
    args = _arguments()
    problem = _problem(args)
    if problem:
        print(f"bench_infer: {problem}", file=sys.stderr)
        return 2
    threads = list(dict.fromkeys(args.threads or default_threads()))
    if threads == [usable_threads()]:
        try:
            rows = _measure(args)
        except (WrongResult, LeftOut) as error:
            print(f"bench_infer: {error}", file=sys.stderr)
            return 1
    else:
        rows = []
        for count in threads:
            status, found = _again(args, count)
            if status:
                return status
            rows += found
    if args.csv is not None:
        _write(rows, args.csv)
    if args.png is not None:
        _draw(rows, args.png)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    nets, contestants = list(inference.NETS), list(inference.CONTESTANTS)
    parser.add_argument("--nets", nargs="+", choices=nets, default=nets)
    parser.add_argument("--batches", nargs="+", type=int, help="default 1 to 10000")
    parser.add_argument("--contestants", nargs="+", choices=contestants, default=contestants)
    parser.add_argument("--seconds", type=float, default=10, help="per network and batch")
    parser.add_argument("--rounds", type=int, default=25, help="at most")
    parser.add_argument("--threads", nargs="+", type=int, help="default 1, then all there are")
    parser.add_argument("--larq-python", default="", help="a Python that has larq")
    parser.add_argument("--lce-python", default="", help="a Python that has larq-compute-engine")
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--png", type=Path)
    return parser.parse_args()


def _problem(args: argparse.Namespace) -> str:
    """What is wrong with the options, before minutes have been spent."""
    every = usable_threads()
    for count in args.threads or ():
        if not 1 <= count <= every:
            return f"--threads: is {count}; this process may use 1 to {every}"
    if args.rounds < 1 or not args.seconds >= 0:
        return "--rounds: at least 1; --seconds: at least 0"
    if min(args.batches or [1]) < 1:
        return f"--batches: is {min(args.batches)}; at least 1"
    for option in ("larq_python", "lce_python"):
        program = getattr(args, option)
        if program and shutil.which(program) is None:
            return f"--{option.replace('_', '-')}: {program} is no program"
    for option, path in (("csv", args.csv), ("png", args.png)):
        if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
            return f"--{option}: {path} is a folder, or in none"
    if args.png is not None and not can_draw():
        return "--png: needs matplotlib (pip install 'binjax[plot]')"
    if args.png is not None and inference.BASELINE not in args.contestants:
        return f"--png: speed-ups need {inference.BASELINE} among the contestants"
    return ""


def _again(args: argparse.Namespace, threads: int) -> tuple[int, list[Row]]:
    """Run the command on so many CPUs: its exit status and rows."""
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    environment = dict(os.environ) | dict.fromkeys(names, str(threads))
    words: list[str] = []
    for name in SETTINGS:
        value = getattr(args, name)
        if value not in (None, ""):
            values = value if isinstance(value, list) else [value]
            words += [f"--{name.replace('_', '-')}", *map(str, values)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.csv")
        words += ["--threads", str(threads), "--csv", str(path)]
        with pinned(threads):
            done = subprocess.run([sys.executable, __file__, *words], check=False, env=environment)
        if done.returncode:
            return done.returncode, []
        with path.open(newline="", encoding="utf-8") as file:
            return 0, list(csv.DictReader(file))


def _measure(args: argparse.Namespace) -> list[Row]:
    """The rows of this process's threads, printed as they come.

    Raises:
        WrongResult: binjax computed something else than the network in floats.
    """
    console, rows = Console(width=110, highlight=False), []
    commands = {
        name: [python, str(PEERS)]
        for name, python in (("larq", args.larq_python), ("lce", args.lce_python))
        if python
    }
    for net in dict.fromkeys(args.nets):
        measured = inference.measure(
            net,
            inference.NETS[net],
            _batches(net, args.batches, console),
            list(dict.fromkeys(args.contestants)),
            seconds=args.seconds,
            most_rounds=args.rounds,
            commands=commands,
        )
        for batch, found, notes in measured:
            for note in notes:
                console.print(note, markup=False)
            console.print(_table(f"{net}, batch {batch}, threads: {usable_threads()}", found))
            rows += found
    return rows


def _batches(net: str, chosen: list[int] | None, console: Console) -> list[int]:
    if chosen is not None:
        return list(dict.fromkeys(chosen))
    most = inference.TOO_LONG.get(net)
    if most is not None:
        console.print(
            f"{net}: batch {most} left out, a pass in floats takes minutes; "
            f"--batches {most} measures it"
        )
    return [batch for batch in inference.BATCHES if most is None or batch < most]


def _table(title: str, rows: list[Row]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("contestant", "ms", "20 to 80 %", "images/s", "x float-xla"):
        table.add_column(column, justify="left" if column == "contestant" else "right")
    for row in rows:
        spread = f"{row['q20_ms']} to {row['q80_ms']}"
        rate = f"{float(row['images_per_second']):,.0f}"
        table.add_row(LABELS[row["contestant"]], row["median_ms"], spread, rate, row["ratio"])
    return table


def _write(rows: list[Row], path: Path) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, inference.COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    temporary.replace(path)


def _draw(rows: list[Row], path: Path) -> None:
    """Speed-ups by network and batch, a panel for each number of threads."""
    from matplotlib.figure import Figure

    threads = sorted({int(row["threads"]) for row in rows})
    places = list(dict.fromkeys((row["net"], row["batch"]) for row in rows))
    present = {row["contestant"] for row in rows} - {inference.BASELINE}
    names = [name for name in LABELS if name in present]
    size = (max(7, 3 + 0.8 * len(places)), 3.6 * len(threads))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(threads), 1, squeeze=False, sharex=True)[:, 0]
    for axis, count in zip(panels, threads, strict=True):
        found = {
            (row["net"], row["batch"], row["contestant"]): float(row["ratio"])
            for row in rows
            if row["threads"] == str(count)
        }
        for i, name in enumerate(names):
            x = [at + (i + 0.5) / len(names) * 0.85 - 0.425 for at in range(len(places))]
            height = [found.get((*place, name), 1) - 1 for place in places]
            axis.bar(x, height, 0.85 / len(names), bottom=1, label=LABELS[name])
        axis.axhline(1, color="black", linewidth=0.6)
        axis.set(yscale="log", ylabel="times as fast as float32 by XLA")
        axis.set_title(f"{count} thread{'s' * (count > 1)}", fontsize="medium")
        axis.grid(axis="y", alpha=0.3)
    panels[-1].set_xticks(range(len(places)), [f"{net}\n{batch}" for net, batch in places])
    panels[-1].tick_params(axis="x", labelsize="small")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    first = rows[0]
    figure.suptitle(f"{first['cpu']}, jax {first['jax']}, {first['date']}", fontsize="small")
    save(figure, path)


if __name__ == "__main__":
    sys.exit(main())
