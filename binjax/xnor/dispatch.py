"""Which back end computes: what is usable here, and what a request means on a platform."""

from __future__ import annotations

import functools
import warnings
from typing import Literal

from binjax.xnor import bridge
from binjax.xnor.native import TARGETS, native

Backend = Literal["triton", "native", "xla"]
BACKENDS: tuple[Backend, ...] = ("triton", "native", "xla")

CUSTOM_CALLS = (*TARGETS, bridge.CUSTOM_CALL)
"""Custom calls that compiled programs may hold: ``jax.export`` must be told to accept them.

``disabled_checks=[jax.export.DisabledSafetyCheck.custom_call(name) for name in CUSTOM_CALLS]``. A
process that runs such a program on CPUs calls :func:`backends` first, which registers them; with
``backend="xla"`` a program holds none.
"""


class SlowerBackendWarning(UserWarning):
    """The fast back end of a platform is not usable, and the portable one takes its place."""


def backends() -> tuple[Backend, ...]:
    """Back ends usable on this machine, best first, of "triton", "native" and "xla".

    "triton" needs a CUDA device, triton and JAX's CUDA plugin; "native" the compiled CPU library;
    "xla" is always there. JAX's devices are looked up only where triton and the plugin are
    installed.

    Raises:
        ValueError: ``BINJAX_ISA`` names an instruction set that cannot be used here.
    """
    found: list[Backend] = []
    if bridge.status().usable:
        found.append("triton")
    if native().problem is None:
        found.append("native")
    return (*found, "xla")


def check_backend(backend: str | None) -> None:
    """Refuse a back end that cannot be used.

    Raises:
        ValueError: unknown name, or one whose library is not there.
    """
    if backend is None or backend == "xla":
        return
    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}; choose None, {', '.join(map(repr, BACKENDS))}")
    problem = native().problem if backend == "native" else triton_problem()
    if problem is not None:
        raise ValueError(f"backend={backend!r} cannot be used: {problem}; {_others()}")


def choose(platform: str, backend: str | None, problem: str | None = None) -> Backend:
    """The back end of a computation that is being compiled for ``"cpu"`` or ``"cuda"``.

    Args:
        platform: what is compiled for.
        backend: what was asked for.
        problem: why the platform's own back end cannot do this computation; None if it can.

    Raises:
        ValueError: the back end asked for does not run on the platform, or cannot do this.
    """
    own: Backend = "native" if platform == "cpu" else "triton"
    if backend == own and problem is not None:
        raise ValueError(f"backend={backend!r} cannot be used: {problem}; {_others()}")
    if backend is None:
        problem = problem or (native().problem if own == "native" else triton_problem())
        if problem is None:
            return own
        warn_missing(platform, problem)
        return "xla"
    if backend == "xla":
        return "xla"
    if backend != own:
        refuse(platform, backend)
    return own


def refuse(platform: str, backend: str) -> None:
    """Say that a back end does not run on the platform being compiled for.

    Raises:
        ValueError: always.
    """
    runs_on = "CPUs" if backend == "native" else "CUDA devices"
    raise ValueError(
        f"backend={backend!r} runs on {runs_on}, but this computation is being compiled for "
        f"{platform}; {_others()}"
    )


def _others() -> str:
    return f"leave backend=None to choose, or take one of {', '.join(map(repr, backends()))}"


def triton_problem() -> str | None:
    """Why Triton kernels cannot be compiled here, GPU or not; None if they can."""
    target = bridge.target_status()
    return None if target.usable else target.reason


@functools.cache
def warn_missing(platform: str, problem: str) -> None:
    """Say once that the portable form takes the place of the fast one."""
    warnings.warn(
        f"binjax: {problem}; on {platform} the portable XLA form computes the same results, slower",
        SlowerBackendWarning,
        stacklevel=2,
    )
