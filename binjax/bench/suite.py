"""The measuring process: one case after the other, each turned into rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from binjax.bench.ceiling import Ceiling, Gauge, Machine
from binjax.bench.conv import conv_case
from binjax.bench.gemm import gemm_case
from binjax.bench.plan import BASELINES, Plan
from binjax.bench.report import Row
from binjax.bench.timing import Case, Result, race


def measure(
    plan: Plan,
    machine: Machine,
    gauge: Gauge,
    tell: Callable[[Sequence[Row], Sequence[str]], None],
) -> list[Row]:
    """Run a plan on this process's threads.

    Args:
        plan: shapes and time.
        machine: from :func:`binjax.bench.ceiling.describe`.
        gauge: of the ceiling; measured again in each round.
        tell: called after each case with its rows and notes.

    Raises:
        WrongResult: a kernel of ours is not exact; nothing after it is measured.
    """
    rows: list[Row] = []
    for group, shape in plan.shapes:
        case = (
            conv_case(group, shape) if len(shape) == 5 else gemm_case(group, shape, machine.threads)
        )
        results = race(
            case, seconds=plan.seconds, most_rounds=plan.most_rounds, between=gauge.sample
        )
        found = rows_of(case, results, machine, gauge.best, plan.baselines)
        tell(found, [*case.notes, *remarks(results)])
        rows += found
    return rows


def remarks(results: Sequence[Result]) -> list[str]:
    """What there is to say of contestants that were left out or measured otherwise."""
    return [f"{r.contestant.provider} {r.contestant.mode}: {r.note}" for r in results if r.note]


def rows_of(
    case: Case,
    results: Sequence[Result],
    machine: Machine,
    ceiling: Ceiling,
    baselines: Sequence[str] = BASELINES,
) -> list[Row]:
    """A row for each contestant that was timed.

    ``ratio`` is to the fastest float32 of the providers in ``baselines``.
    """
    timed = [(r.contestant, r.timing, r.note) for r in results if r.timing is not None]
    floats = {
        c.provider: t.median for c, t, _ in timed if c.mode == "float32" and c.provider in baselines
    }
    baseline = min(floats, key=lambda provider: floats[provider], default="")
    rows = []
    for contestant, timing, note in timed:
        rate = case.macs / timing.median
        most = ceiling.of(contestant.unit) * machine.threads
        rows.append(
            Row(
                date=machine.date,
                device=machine.device,
                isa=machine.isa,
                threads=machine.threads,
                jax=machine.jax,
                binjax=machine.binjax,
                case=case.group,
                shape=case.shape,
                provider=contestant.provider,
                mode=contestant.mode,
                median_ms=timing.median * 1e3,
                q20_ms=timing.q20 * 1e3,
                q80_ms=timing.q80 * 1e3,
                rounds=timing.rounds,
                gmacs=rate / 1e9,
                tops=2 * rate / 1e12,
                percent_of_ceiling=100 * rate / most if most else None,
                ratio=floats[baseline] / timing.median if baseline else None,
                baseline=f"{baseline} float32" if baseline else "",
                note=note,
            )
        )
    return rows
