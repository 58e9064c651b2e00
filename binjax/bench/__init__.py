"""Benchmarks of binary products: exactness first, then speed as a share of the machine's ceiling.

Importing this package costs nothing; :func:`binjax.bench.suite.measure` and
:func:`binjax.bench.figure2.measure` are what imports JAX.
"""

from binjax.bench.plan import Plan, default_threads, pinned, usable_threads
from binjax.bench.report import Row, read_csv, write_csv

__all__ = [
    "Plan",
    "Row",
    "default_threads",
    "pinned",
    "read_csv",
    "usable_threads",
    "write_csv",
]
