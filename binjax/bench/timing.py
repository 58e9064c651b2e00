"""Timing of contestants side by side, after their results have been checked."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]
Clock = Callable[[], float]
Unit = Literal["popcount", "fma", ""]

_SHORTEST = 1e-3  # seconds of one sample: shorter work is repeated within it
_LONG = 0.25  # seconds of a run from which it is not run once more, untimed, before each sample
_FEWEST_ROUNDS = 3
_SETTLE = 0.03  # seconds until idle workers of a library have ceased to spin


class WrongResult(RuntimeError):
    """A kernel of ours does not compute what the reference computes."""


@dataclass(frozen=True)
class Contestant:
    """One way to compute a case.

    Attributes:
        provider: whose code it is.
        mode: what goes in and comes out.
        run: does the work once and returns the result when it is complete.
        expected: the reference's result, of the same shape; compared exactly.
        unit: which ceiling applies to it, if any.
        ours: a wrong result is then an error; of others it is noted, and they drop out.
        read: the result as a numpy array.
        pool: whose worker threads do the work.
    """

    provider: str
    mode: str
    run: Callable[[], Any]
    expected: Array = field(repr=False)
    unit: Unit = ""
    ours: bool = False
    read: Callable[[Any], Array] = np.asarray
    pool: str = "jax"


@dataclass(frozen=True)
class Case:
    """A problem and those who solve it.

    Attributes:
        group: such as ``"gemm"``.
        shape: such as ``"512x512x512"``.
        macs: multiply-accumulates of one run.
        contestants: in the order in which they are shown.
        notes: what was left out, and why.
    """

    group: str
    shape: str
    macs: int
    contestants: Sequence[Contestant]
    notes: tuple[str, ...] = ()


class Timing(NamedTuple):
    """Seconds of one run: median, 20 % and 80 % quantiles over ``rounds`` samples."""

    median: float
    q20: float
    q80: float
    rounds: int


class Result(NamedTuple):
    """A contestant and its timing; None, with the reason, if it was not timed."""

    contestant: Contestant
    timing: Timing | None
    note: str = ""


def race(
    case: Case,
    *,
    seconds: float,
    most_rounds: int,
    clock: Clock = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
    between: Callable[[], None] = lambda: None,
) -> list[Result]:
    """Check every contestant, then time them in interleaved rounds.

    Each round runs all of them once, starting with another one each time, so that whatever
    disturbs the machine meets all alike. Before its sample each runs once untimed: its threads
    are awake then and its operands in the caches, not those of the one before. Between libraries
    there is a pause, so that no sample shares the cores with workers that still spin for the next
    task. Runs shorter than a millisecond are repeated.

    Args:
        case: what to run.
        seconds: time to spend; at least three rounds are made whatever they take.
        most_rounds: at least 1.
        clock: seconds.
        sleep: waits for so many seconds.
        between: called before each round.

    Raises:
        WrongResult: a contestant of ours differs from the reference.
    """
    exact = {id(c): check(c) for c in case.contestants}
    running = [c for c in case.contestants if not exact[id(c)]]
    once = [_sample(c, 1, clock) for c in running]
    repeats = [max(1, math.ceil(_SHORTEST / max(s, 1e-7))) for s in once]
    runs = [n + (s < _LONG) for s, n in zip(once, repeats, strict=True)]
    pools = {c.pool for c in running}
    pauses = _SETTLE * len(pools) if len(pools) > 1 else 0.0
    round_seconds = pauses + sum(s * n for s, n in zip(once, runs, strict=True))
    affordable = int(seconds / max(round_seconds, 1e-9))
    rounds = min(max(affordable, _FEWEST_ROUNDS), most_rounds)
    samples: list[list[float]] = [[] for _ in running]
    last = running[-1].pool if running else ""
    for first in range(rounds):
        between()
        for i in range(len(running)):
            at = (first + i) % len(running)
            if running[at].pool != last:
                sleep(_SETTLE)
                last = running[at].pool
            if once[at] < _LONG:
                running[at].run()
            samples[at].append(_sample(running[at], repeats[at], clock))
    timings = {id(c): summarize(s) for c, s in zip(running, samples, strict=True)}
    return [Result(c, timings.get(id(c)), exact[id(c)]) for c in case.contestants]


def check(contestant: Contestant) -> str:
    """Run once and compare with the reference, element by element.

    Returns:
        What is wrong with a result that is not ours; empty if nothing is.

    Raises:
        WrongResult: likewise, of ours.
    """
    problem = difference(contestant.read(contestant.run()), contestant.expected)
    if problem and contestant.ours:
        raise WrongResult(f"{contestant.provider} {contestant.mode}: {problem}")
    return f"not exact: {problem}" if problem else ""


def difference(found: Array, expected: Array) -> str:
    """How two arrays differ, of whatever dtypes; empty if they are equal."""
    if found.shape != expected.shape:
        return f"the result has shape {found.shape}, the reference {expected.shape}"
    wrong = sum(
        int(np.count_nonzero(a != b))  # row by row: no large temporaries
        for a, b in zip(np.atleast_1d(found), np.atleast_1d(expected), strict=True)
    )
    return f"{wrong} of {expected.size} elements differ from the reference" if wrong else ""


def summarize(samples: Sequence[float]) -> Timing:
    """Median and quantiles of at least one sample."""
    q20, median, q80 = (float(q) for q in np.quantile(samples, (0.2, 0.5, 0.8)))
    return Timing(median, q20, q80, len(samples))


def _sample(contestant: Contestant, repeats: int, clock: Clock) -> float:
    began = clock()
    for _ in range(repeats):
        contestant.run()
    return (clock() - began) / repeats
