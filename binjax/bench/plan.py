"""What is measured, and on how many threads. Imports no JAX."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

GROUPS = ("gemm", "mlp", "conv")
BASELINES = ("xla", "numpy")

# (M, K, N) of [M, K] times [K, N]; (batch, height, width, in, out) of a 3x3 convolution.
SHAPES: dict[str, tuple[tuple[int, ...], ...]] = {
    "gemm": tuple((n, n, n) for n in (512, 1024, 2048, 4096, 8192)),
    "mlp": (
        *((m, k, 4096) for k in (784, 4096) for m in (1, 32, 128, 1000)),
        (64, 4096, 4096),
        (100, 4096, 10),
    ),
    "conv": (
        (50, 32, 32, 128, 128),
        (50, 16, 16, 128, 256),
        (50, 16, 16, 256, 256),
        (50, 8, 8, 256, 512),
        (50, 8, 8, 512, 512),
    ),
}
QUICK: dict[str, tuple[tuple[int, ...], ...]] = {
    "gemm": ((512, 512, 512), (1024, 1024, 1024)),
    "mlp": ((1, 4096, 4096), (64, 4096, 4096), (100, 4096, 10)),
    "conv": ((8, 16, 16, 128, 256), (8, 8, 8, 512, 512)),
}


@dataclass(frozen=True)
class Plan:
    """The shapes to measure and how long.

    Attributes:
        shapes: (group, shape) in order; the group is a name of ``GROUPS``.
        seconds: of timing for each shape; longer where three rounds take longer.
        most_rounds: an upper limit of rounds.
        baselines: the providers to whose fastest float32 ratios are.
    """

    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    seconds: float = 4.0
    most_rounds: int = 25
    baselines: tuple[str, ...] = BASELINES

    @classmethod
    def make(
        cls,
        groups: tuple[str, ...] = GROUPS,
        shapes: tuple[tuple[int, ...], ...] = (),
        *,
        quick: bool = False,
        baselines: tuple[str, ...] = BASELINES,
    ) -> Plan:
        """Given shapes only, or else those of the groups."""
        listed = QUICK if quick else SHAPES
        chosen = (
            tuple((group_of(shape), shape) for shape in shapes)
            if shapes
            else tuple((group, shape) for group in groups for shape in listed[group])
        )
        plan = cls(chosen, baselines=baselines)
        return replace(plan, seconds=0.5, most_rounds=9) if quick else plan


def parse_shape(text: str) -> tuple[int, ...]:
    """``"1000x784x4096"`` (M, K, N), or ``"50x16x16x128x256"`` (batch, h, w, in, out).

    Raises:
        ValueError: anything else.
    """
    parts = text.split("x")
    if len(parts) not in (3, 5) or not all(p.isdecimal() and int(p) > 0 for p in parts):
        raise ValueError(
            f"shape {text!r} is neither MxKxN nor BATCHxHEIGHTxWIDTHxINxOUT, such as 64x4096x4096"
        )
    return tuple(int(p) for p in parts)


def group_of(shape: tuple[int, ...]) -> str:
    """The name that rows of a shape get."""
    if len(shape) == 5:
        return "conv"
    return "gemm" if len(set(shape)) == 1 else "mlp"


def usable_threads() -> int:
    """CPUs that this process may run on: the size that thread pools take at their start."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_threads() -> tuple[int, ...]:
    """One thread, then all; only all where a process cannot be bound to CPUs."""
    every = usable_threads()
    return (1, every) if every > 1 and hasattr(os, "sched_setaffinity") else (every,)


@contextmanager
def pinned(threads: int) -> Iterator[None]:
    """Bind this thread, and so the processes it starts, to ``threads`` of its CPUs.

    XLA and OpenBLAS size their thread pools by the CPUs a process is bound to when they start: a
    binding made later changes nothing, so it is for processes started inside.

    Raises:
        ValueError: more CPUs than there are, or a system without such bindings.
    """
    every = usable_threads()
    if threads == every:
        yield
        return
    if not 1 <= threads < every:
        raise ValueError(f"{threads} threads were asked for; this process may use 1 to {every}")
    if not hasattr(os, "sched_setaffinity"):
        raise ValueError(f"this system cannot bind processes to CPUs; ask for {every} threads")
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(sorted(before)[:threads]))
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
