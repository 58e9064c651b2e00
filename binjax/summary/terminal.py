"""A summary as tables of ``rich``, for a terminal."""

from __future__ import annotations

from rich import box
from rich.console import Console, Group
from rich.measure import Measurement
from rich.table import Table

from binjax.summary.count import Summary
from binjax.summary.show import LEFT, cells, totals


def rich_tables(summary: Summary, *, macs: bool = True) -> Group:
    """What :func:`binjax.summary.table` says, as two tables to be printed by a console."""
    header, *rows, sums = cells(summary, macs=macs)
    layers = Table(box=box.SIMPLE_HEAD, show_footer=True, pad_edge=False)
    for i, (name, total) in enumerate(zip(header, sums, strict=True)):
        words = i < LEFT or i == len(header) - 1
        layers.add_column(
            name.replace(" ", "\n") if not words else name,
            total,
            justify="left" if words else "right",
            overflow="fold",
            min_width=max(len(line[i]) for line in (*rows, sums)) if i < len(header) - 1 else 20,
            style="bold" if i == 0 else None,
        )
    for row in rows:
        layers.add_row(*row)
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="bold")
    facts.add_column()
    for name, value in totals(summary, macs=macs):
        facts.add_row(name, value)
    return Group(layers, facts)


def fits(console: Console, tables: Group) -> bool:
    """Whether a console is wide enough to show all numbers in full."""
    unbounded = console.options.update(max_width=10_000)
    return Measurement.get(console, unbounded, tables).minimum <= console.width
