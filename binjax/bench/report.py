"""Rows of measurements: as CSV, as a table, as a figure. Imports no JAX."""

from __future__ import annotations

import csv
import dataclasses
import importlib.util
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MODES = {
    "bits": "packed to bits",
    "int32": "packed to int32",
    "int32-donated": "packed to donated int32",
    "pack-x": "pack x, to int32",
    "pack-x-bits": "pack x, to bits",
    "pack-both": "pack x and w, to int32",
    "xnor_matmul": "xnor_matmul, float to float",
    "packed-float32": "packed to float32",
    "packed-mlp": "packed but first layer",
}
_INTEGERS = ("threads", "rounds")
_TEXTS = (
    "date",
    "device",
    "isa",
    "jax",
    "binjax",
    "case",
    "shape",
    "provider",
    "mode",
    "baseline",
    "note",
)


@dataclass(frozen=True)
class Row:
    """One measurement.

    Attributes:
        date, device, isa, threads, jax, binjax: where and with what it was made; ``isa`` is the
            native library's instruction set.
        case, shape, provider, mode: what was measured.
        median_ms, q20_ms, q80_ms, rounds: milliseconds of a run, over so many samples.
        gmacs: 1e9 multiply-accumulates per second.
        tops: 1e12 operations per second, two in a multiply-accumulate.
        percent_of_ceiling: of what the threads' cores can do at most: population counts for
            binary products, fused multiply-adds for float32; None for others.
        ratio: how many times as fast as ``baseline``.
        baseline: the faster float32 of XLA and numpy in the same rounds.
        accuracy: on the test images, of rows that classify.
        note: what else a reader has to know.
    """

    date: str
    device: str
    isa: str
    threads: int
    jax: str
    binjax: str
    case: str
    shape: str
    provider: str
    mode: str
    median_ms: float
    q20_ms: float
    q80_ms: float
    rounds: int
    gmacs: float
    tops: float
    percent_of_ceiling: float | None
    ratio: float | None
    baseline: str
    accuracy: float | None = None
    note: str = ""


COLUMNS = tuple(field.name for field in dataclasses.fields(Row))


def write_csv(rows: Iterable[Row], path: Path) -> None:
    """Write rows with a header; the file is complete or as it was."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in rows:
            writer.writerow([_text(getattr(row, name)) for name in COLUMNS])
    temporary.replace(path)


def read_csv(path: Path) -> list[Row]:
    """Rows written by :func:`write_csv`.

    Raises:
        ValueError: other columns.
    """
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise ValueError(f"{path}: the columns are not those of a benchmark")
        return [Row(**{name: _value(name, text) for name, text in line.items()}) for line in reader]


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _value(name: str, text: str) -> Any:
    if name in _TEXTS:
        return text
    if not text:
        return None
    return int(text) if name in _INTEGERS else float(text)


def make_table(rows: Sequence[Row], title: str) -> Any:
    """A ``rich`` table of the rows of one case."""
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for name in ("who", "what"):
        table.add_column(name, no_wrap=True)
    for name in ("ms", "20 to 80 %", "TOPS", "% ceiling", "x float32"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row.provider,
            MODES.get(row.mode, row.mode),
            _short(row.median_ms),
            f"{_short(row.q20_ms)} to {_short(row.q80_ms)}",
            f"{row.tops:.3f}",
            "" if row.percent_of_ceiling is None else f"{row.percent_of_ceiling:.1f}",
            "" if row.ratio is None else f"{row.ratio:.2f}",
        )
    return table


def _short(milliseconds: float) -> str:
    return f"{milliseconds:.0f}" if milliseconds >= 1000 else f"{milliseconds:.4g}"


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


# (label, provider, mode) of the bars of a shape
_BARS = (
    ("binjax native, to bits", "binjax-native", "bits"),
    ("binjax native, packing counted", "binjax-native", "pack-both"),
    ("binjax XLA, to bits", "binjax-xla", "bits"),
    ("binjax Triton, to bits", "binjax-triton", "bits"),
    ("bnn-lab", "bnn-lab", "packed-float32"),
    ("XLA int8", "xla", "int8"),
    ("XLA float32", "xla", "float32"),
    ("numpy float32", "numpy", "float32"),
)


def draw(rows: Sequence[Row], path: Path) -> None:
    """A PNG: TOPS by shape, a panel for each number of threads. Needs matplotlib."""
    from matplotlib.figure import Figure

    threads = sorted({row.threads for row in rows})
    shapes = list(dict.fromkeys((row.case, row.shape) for row in rows))
    bars = [bar for bar in _BARS if any((r.provider, r.mode) == bar[1:] for r in rows)]
    figure = Figure(figsize=(3 + 0.62 * len(shapes), 4.2 * len(threads)), layout="constrained")
    panels = figure.subplots(len(threads), 1, squeeze=False, sharex=True)[:, 0]
    for axis, count in zip(panels, threads, strict=True):
        found = {(r.case, r.shape, r.provider, r.mode): r.tops for r in rows if r.threads == count}
        for i, (label, provider, mode) in enumerate(bars):
            x = [at + (i + 0.5) / len(bars) * 0.85 - 0.425 for at in range(len(shapes))]
            height = [found.get((*shape, provider, mode), float("nan")) for shape in shapes]
            axis.bar(x, height, 0.85 / len(bars), label=label)
        axis.set(yscale="log", ylabel="TOPS", title=f"{count} thread{'s' * (count > 1)}")
        axis.grid(axis="y", alpha=0.3)
        axis.margins(x=0.01)
    first = rows[0]
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=8)
    panels[-1].set_xticks(range(len(shapes)), [f"{c} {s}" for c, s in shapes])
    panels[-1].tick_params(axis="x", labelrotation=60, labelsize="small")
    figure.suptitle(f"{first.device}, {first.isa}, jax {first.jax}, {first.date}", fontsize="small")
    save(figure, path)


_KERNELS = ("unoptimised", "float library", "XNOR")


def draw_figure2(rows: Sequence[Row], path: Path) -> None:
    """A PNG after the paper's figure 2: product, MLP, accuracy. Needs matplotlib."""
    from matplotlib.figure import Figure

    product = _best_of_each(r for r in rows if r.case == "figure2-gemm")
    network = _best_of_each(r for r in rows if r.case == "figure2-mlp")
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for axis, found, title in (
        (left, product, f"product {product[0].shape}"),
        (middle, network, f"MLP {network[0].shape}"),
    ):
        seconds = [row.median_ms / 1e3 for row in found]
        bars = axis.bar(_KERNELS, seconds, color=("C7", "C0", "C1"))
        axis.bar_label(bars, [f"{s:.3g} s" for s in seconds])
        axis.set(yscale="log", ylabel="seconds")
        axis.set_title(title, fontsize="medium")
        axis.margins(y=0.15)
    accuracies = [100 * (row.accuracy or 0) for row in network]
    bars = right.bar(_KERNELS, accuracies, color=("C7", "C0", "C1"))
    right.bar_label(bars, [f"{a:.2f}" for a in accuracies])
    right.set(ylabel="% of test images", ylim=(0, 110))
    right.set_title("accuracy", fontsize="medium")
    notes = "; ".join(f"{row.provider}: {row.note}" for row in (*product, *network) if row.note)
    first = rows[0]
    figure.suptitle(
        f"{first.device}, threads: {first.threads}, jax {first.jax}, {first.date}"
        + (f"\n{notes}" if notes else ""),
        fontsize="small",
    )
    save(figure, path)


def _best_of_each(rows: Iterable[Row]) -> list[Row]:
    """Unoptimised, the faster float library, and ours with packing counted."""
    found = list(rows)
    slow = next(r for r in found if r.provider == "unoptimised")
    floats = [r for r in found if r.provider in ("xla", "numpy")]
    ours = [r for r in found if r.provider.startswith("binjax") and r.mode not in ("int32", "bits")]
    return [slow, min(floats, key=lambda r: r.median_ms), ours[0]]


def save(figure: Any, path: Path) -> None:
    """Write a matplotlib figure as PNG; the file is complete or as it was."""
    temporary = path.with_name(f".{path.name}.tmp")
    figure.savefig(temporary, format="png", dpi=110)
    temporary.replace(path)
