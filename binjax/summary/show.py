"""A summary as a table of text, or as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from binjax.summary.count import Summary
from binjax.summary.rows import Row

_COLUMNS = (
    "name",
    "kind",
    "output_shape",
    "input_bits",
    "kernel_bits",
    "params_1bit",
    "params_kbit",
    "params_32bit",
    "memory_bytes",
    "macs",
    "mac_bits",
    "product",
    "trainable",
    "non_trainable",
    "calls",
    "operand_bits",
)
LEFT = 3
"""Columns of :func:`cells` that are words, at the left; another one is the last."""


def table(summary: Summary, *, macs: bool = True) -> str:
    """The rows and totals as plain text.

    Larq's columns: bits of the input, outputs, parameters by bit width, memory (1 kB is 1024
    bytes), multiply-accumulates by precision; a column for each width in use. Beside them the bits
    of the kernel and what multiplies in training.

    Args:
        summary: what is shown.
        macs: show multiply-accumulates, and what is computed from them.
    """
    lines = cells(summary, macs=macs)
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    texts = [_aligned(line, widths) for line in lines]
    rule = "-" * max(map(len, texts))
    head, *rows, total = texts
    shown = [head, rule, *rows, rule, total, ""]
    facts = totals(summary, macs=macs)
    width = max(len(name) for name, _ in facts) + 1
    shown += [f"{name:<{width}}{value}" for name, value in facts]
    return "\n".join(text.rstrip() for text in shown)


def cells(summary: Summary, *, macs: bool = True) -> list[list[str]]:
    """The table's texts: a header, the rows, their sums."""
    widths = sorted({bits for row in summary.rows for bits in row.params_by_bits} | {1, 32})
    precisions = sorted({row.mac_bits for row in summary.rows if row.macs} | {1, 32})
    precisions = precisions if macs else []
    header = [
        *("layer", "kind", "outputs", "input bits", "kernel bits"),
        *(f"{bits}-bit x 1" for bits in widths),
        "memory (kB)",
        *(f"{bits}-bit MACs" for bits in precisions),
        "product in training",
    ]
    lines = [header]
    for row in summary.rows:
        by_bits = row.params_by_bits
        lines.append(
            [
                *(row.name or "-", row.kind, "x".join(map(str, row.output_shape)) or "-"),
                *("-" if bits is None else f"{bits}" for bits in (row.input_bits, row.kernel_bits)),
                *(f"{by_bits.get(bits, 0):,}" for bits in widths),
                f"{row.memory_bytes / 1024:,.2f}",
                *(f"{row.macs * (row.mac_bits == bits):,}" for bits in precisions),
                row.product,
            ]
        )
    sums = [
        *("total", "", "", "", ""),
        *(f"{summary.params_by_bits.get(str(bits), 0):,}" for bits in widths),
        f"{summary.memory_bytes / 1024:,.2f}",
        *(f"{summary.macs.get(str(bits), 0):,}" for bits in precisions),
        "",
    ]
    return [*lines, sums]


def totals(summary: Summary, *, macs: bool = True) -> list[tuple[str, str]]:
    """Names and values of the totals: Larq's, with its rounding behind the numbers, and ours."""
    ratio = summary.memory_bytes / max(summary.memory_bytes_float32, 1)
    found = [
        ("Total params", _count(summary.params)),
        ("Trainable params", _count(summary.trainable)),
        ("Non-trainable params", _count(summary.non_trainable)),
        ("Params as Keras counts", _count(summary.keras_params)),
        ("Model size", _memory(summary.memory_bytes)),
        ("Model size (8-bit FP weights)", _memory(summary.memory_bytes_8bit)),
        ("Float-32 equivalent", _memory(summary.memory_bytes_float32)),
        ("Compression ratio of memory", f"{ratio:.4f} (1 to {1 / ratio:.1f})" if ratio else "-"),
    ]
    if macs:
        found += _costs(summary)
    kept = summary.activations
    found += [
        (f"Kept by a step of {kept.batch}, {name}", "-" if n is None else _memory(n))
        for name, n in kept.training.items()
    ]
    held = ", ".join(f"{_memory(n)} {name}" for name, n in kept.inference.items())
    return [*found, ("Activations held, one image", held)]


def _costs(summary: Summary) -> list[tuple[str, str]]:
    energy = summary.energy_model_pj
    found = [
        ("Number of MACs", _count(sum(summary.macs.values()))),
        ("Ratio of MACs that are binarized", f"{summary.binary_macs_ratio:.4f}"),
    ]
    if summary.ternary_macs_ratio:
        found.append(("Ratio of MACs that are ternarized", f"{summary.ternary_macs_ratio:.4f}"))
    return [
        *found,
        ("OPs (binary MACs / 64)", _count(round(summary.ops))),
        ("ACE (MACs x bits x bits)", _count(summary.ace)),
        (
            "Energy, a model (45 nm)",
            f"{energy['arithmetic'] / 1e6:,.3f} µJ of arithmetic, "
            f"{energy['weights_from_dram'] / 1e6:,.1f} µJ to read the weights once",
        ),
    ]


def as_csv(summary: Summary, *, macs: bool = True) -> str:
    """The rows as CSV with a header; multiply-accumulates if ``macs``."""
    columns = [name for name in _COLUMNS if macs or name not in ("macs", "mac_bits")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row, column) for column in columns] for row in summary.rows)
    return text.getvalue()


def _cell(row: Row, column: str) -> object:
    value: object = getattr(row, column)
    return "x".join(map(str, value)) if isinstance(value, tuple) else value


def _count(n: int) -> str:
    """``"10,359,700 (10.4 M)"``: in full, and to three digits as Larq prints it."""
    if n < 1000:
        return str(n)
    short = float(f"{n:.3g}")
    for unit in ("k", "M", "B", "T"):
        short /= 1000
        if short < 1000:
            return f"{n:,} ({short:.3g} {unit})"
    return f"{n:,} ({n:.2E})"


def _memory(n: int) -> str:
    """In the largest unit of 1024 that gives at least 1, to two places."""
    size = float(n)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.2f} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"


def _aligned(line: Sequence[str], widths: Sequence[int]) -> str:
    text = [c.ljust(w) for c, w in zip(line[:LEFT], widths[:LEFT], strict=True)]
    numbers = [c.rjust(w) for c, w in zip(line[LEFT:-1], widths[LEFT:-1], strict=True)]
    return "  ".join([*text, *numbers, line[-1]])
