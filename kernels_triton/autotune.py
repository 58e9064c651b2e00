"""Pick the fastest tile for a shape by timing, where a GPU exists.

How a launch is run and timed is the caller's business (it has the arrays and the GPU); here is
what is tried and how the winner is found.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .launch import Epilogue, Launch, gemm
from .tiles import Tile
from .tiles import candidates as default_candidates


@dataclass(frozen=True)
class Timing:
    """A tile and its times.

    Attributes:
        tile: the tile.
        launch: the launch that was timed.
        seconds: the median of its times.
    """

    tile: Tile
    launch: Launch
    seconds: float


def autotune(
    m: int,
    n: int,
    k: int,
    epilogue: Epilogue = "dot",
    *,
    compute_capability: int,
    measure: Callable[[Launch], float],
    words: int | None = None,
    candidates: Iterable[Tile] | None = None,
    repeats: int = 5,
) -> tuple[Timing, ...]:
    """Time the candidate tiles of a product, fastest first.

    Rounds go over all candidates in turn, so that a clock that drifts slows all of them. Take
    ``autotune(...)[0].tile`` and pass it to ``launch.gemm``.

    Args:
        m, n, k, epilogue, compute_capability, words: as for ``launch.gemm``.
        measure: seconds of one run of a launch, warmed up, once all of its work is done. A
            candidate that fails with RuntimeError (such as too little shared memory) or returns
            a time that is not finite is dropped.
        candidates: tiles to try; ``tiles.candidates`` by default. On equal times the earlier one
            wins.
        repeats: rounds, at least 1.

    Raises:
        ValueError: a size out of range, no candidate that can do this, or none that ran.
    """
    if repeats < 1:
        raise ValueError(f"repeats is at least 1, got {repeats}")
    tiles = default_candidates(m, n, compute_capability) if candidates is None else candidates
    launches = {
        tile: gemm(m, n, k, epilogue, compute_capability=compute_capability, words=words, tile=tile)
        for tile in tiles
    }
    times: dict[Tile, list[float]] = {tile: [] for tile in launches}
    for _ in range(repeats):
        for tile in list(times):
            seconds = _attempt(measure, launches[tile])
            if math.isfinite(seconds):
                times[tile].append(seconds)
            else:
                del times[tile]
    if not times:
        raise ValueError(f"none of {len(launches)} candidate tiles ran; pass others as candidates")
    timings = (Timing(tile, launches[tile], statistics.median(t)) for tile, t in times.items())
    return tuple(sorted(timings, key=lambda timing: timing.seconds))


def _attempt(measure: Callable[[Launch], float], launch: Launch) -> float:
    try:
        return measure(launch)
    except RuntimeError:
        return math.inf
