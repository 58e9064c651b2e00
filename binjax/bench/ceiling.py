"""What this machine is, and what one core of it can do at most."""

from __future__ import annotations

import ctypes
import datetime
import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

import jax

from binjax.bench import timing
from binjax.bench.plan import usable_threads
from binjax.xnor.native import native

# Whoever limits the instruction sets of the float libraries has to see it in the rows.
_LIMITS = ("OPENBLAS_CORETYPE", "ONEDNN_MAX_CPU_ISA")


@dataclass(frozen=True)
class Ceiling:
    """Multiply-accumulates per second of one core, in registers; 0 where it was not measured.

    Attributes:
        popcount: xor, population count and addition with the instruction set in use.
        fma: fused multiply-adds of float32, with the widest vectors of the machine.
    """

    popcount: float = 0.0
    fma: float = 0.0

    def of(self, unit: timing.Unit) -> float:
        """The one that applies to a contestant; 0 if none does."""
        return {"popcount": self.popcount, "fma": self.fma, "": 0.0}[unit]


@dataclass(frozen=True)
class Machine:
    """Where a row comes from."""

    date: str
    device: str
    isa: str
    threads: int
    jax: str
    binjax: str


class Gauge:
    """The highest ceiling seen so far: clocks change while a benchmark runs.

    Attributes:
        best: each of its numbers the highest of all samples; the first is taken at the start.
    """

    def __init__(self) -> None:
        self.best = measure_ceiling()

    def sample(self) -> None:
        """Measure again; takes some 30 ms."""
        now = measure_ceiling()
        self.best = Ceiling(max(self.best.popcount, now.popcount), max(self.best.fma, now.fma))


def measure_ceiling() -> Ceiling:
    """Measure it with the native library; zeros without it, and on other devices than CPUs."""
    found = native()
    if found.problem is not None or jax.default_backend() != "cpu":
        return Ceiling()
    library = ctypes.CDLL(str(found.path))
    peaks = (library.binjax_peak_popcount, library.binjax_peak_fma)
    for peak in peaks:
        peak.restype = ctypes.c_double
    return Ceiling(*(float(peak()) for peak in peaks))


def describe(version: str) -> Machine:
    """The machine and the day; ``version`` is binjax's."""
    on_cpu = jax.default_backend() == "cpu"
    device = cpu_model() if on_cpu else jax.devices()[0].device_kind
    limits = [f"{name}={os.environ[name]}" for name in _LIMITS if name in os.environ]
    limits += re.findall(r"--xla_cpu_\S+", os.environ.get("XLA_FLAGS", ""))
    return Machine(
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        device=" ".join([device, *limits]),
        isa=(native().isa or "none") if on_cpu else "gpu",
        threads=usable_threads(),
        jax=jax.__version__,
        binjax=version,
    )


def cpu_model() -> str:
    """The CPU's name as the system tells it, without the frequency."""
    info = Path("/proc/cpuinfo")
    found = (
        re.search(r"^model name\s*:\s*(.+)$", info.read_text(encoding="utf-8"), re.M)
        if info.exists()
        else None
    )
    name = found[1] if found else platform.processor() or platform.machine()
    return " ".join(name.split("@")[0].split())
