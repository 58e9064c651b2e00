"""A summary as a table of text, or as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from binjax.summary.count import Row, Summary

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
)


def table(summary: Summary) -> str:
    """The rows and totals as plain text.

    Larq's columns: parameters by bit width, memory, multiply-accumulates by precision; a column
    for each width in use.
    """
    kernels = sorted(int(bits) for bits in summary.params_by_bits if int(bits) not in (1, 32))
    widths_in_use = sorted({row.mac_bits for row in summary.rows if row.macs} | {1, 32})
    header = (
        *("layer", "kind", "output", "in/kernel bits", "1-bit x 1"),
        *(f"{bits}-bit x 1" for bits in kernels),
        *("32-bit x 1", "KiB"),
        *(f"{bits}-bit MACs" for bits in widths_in_use),
        "product in training",
    )
    lines = [header]
    for row in summary.rows:
        bits = "-" if row.kernel_bits is None else f"{row.input_bits}/{row.kernel_bits}"
        lines.append(
            (
                *(row.name, row.kind, "x".join(map(str, row.output_shape)) or "-", bits),
                f"{row.params_1bit:,}",
                *(f"{row.params_kbit * (row.kernel_bits == bits):,}" for bits in kernels),
                *(f"{row.params_32bit:,}", f"{row.memory_bytes / 1024:,.2f}"),
                *(f"{row.macs * (row.mac_bits == bits):,}" for bits in widths_in_use),
                row.product,
            )
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    texts = [_aligned(line, widths) for line in lines]
    texts.insert(1, "-" * len(texts[0]))
    return "\n".join([*(text.rstrip() for text in texts), "", *_totals(summary)])


def _totals(summary: Summary) -> list[str]:
    full_size = 4 * summary.params
    total_macs = sum(summary.macs.values())
    others = "".join(
        f"{count:,} of {bits}, "
        for bits, count in summary.params_by_bits.items()
        if bits not in ("1", "32")
    )
    energy = summary.energy_model_pj
    return [
        f"parameters            {summary.params:,} "
        f"({summary.params_1bit:,} of 1 bit, {others}{summary.params_32bit:,} of 32)",
        f"trainable             {summary.trainable:,}",
        f"with batch statistics {summary.keras_params:,} ({summary.non_trainable:,} of them)",
        f"deployed memory       {summary.memory_bytes / 2**20:.3f} MiB "
        f"(in float32 {full_size / 2**20:.3f} MiB, "
        f"{full_size / max(summary.memory_bytes, 1):.1f} times as much)",
        f"MACs per image        {total_macs:,} ({summary.binary_macs_ratio:.2%} binary)",
        f"OPs, ACE              {summary.ops:,.0f}, {summary.ace:,}",
        f"energy, a model       {energy['arithmetic'] / 1e6:,.3f} µJ of arithmetic, "
        f"{energy['weights_from_dram'] / 1e6:,.1f} µJ to read the weights once",
    ]


def as_csv(summary: Summary) -> str:
    """The rows as CSV with a header."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows([_cell(row, column) for column in _COLUMNS] for row in summary.rows)
    return text.getvalue()


def _cell(row: Row, column: str) -> object:
    value: object = getattr(row, column)
    return "x".join(map(str, value)) if isinstance(value, tuple) else value


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    text = [c.ljust(w) for c, w in zip(cells[:3], widths[:3], strict=True)]
    numbers = [c.rjust(w) for c, w in zip(cells[3:-1], widths[3:-1], strict=True)]
    return "  ".join([*text, *numbers, cells[-1]])
