"""The compute capability that the Triton kernels are compiled for."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import jax

TARGET_VARIABLE = "BINJAX_TARGET_CC"  # compute capability to compile for
DEFAULT_TARGET = 90  # where neither a GPU nor the environment names one


class TritonUnavailable(RuntimeError):
    """The Triton back end cannot be used here. The message says what is missing."""


@dataclass(frozen=True)
class Status:
    """Whether something is usable, and what was found."""

    usable: bool
    reason: str


def choose_capability(explicit: int | None, found: Callable[[], list[int]]) -> int:
    """The first of: the argument, ``BINJAX_TARGET_CC``, the one GPU that is found, 90.

    Raises:
        ValueError: the environment variable is not such a number.
        TritonUnavailable: GPUs of several compute capabilities.
    """
    if explicit is not None:
        return explicit
    wanted = os.environ.get(TARGET_VARIABLE)
    if wanted is not None:
        if wanted.isdecimal():
            return int(wanted)
        raise ValueError(
            f"{TARGET_VARIABLE}={wanted!r}: expected 10 · major + minor, such as 90 for 9.0"
        )
    capabilities = found()
    if len(capabilities) > 1:
        raise TritonUnavailable(
            f"GPUs of several compute capabilities, {', '.join(map(dotted, capabilities))}; make "
            f"equal ones visible (CUDA_VISIBLE_DEVICES) or set {TARGET_VARIABLE}"
        )
    return capabilities[0] if capabilities else DEFAULT_TARGET


def device_capabilities() -> list[int]:
    """The distinct compute capabilities of the local GPUs, in order."""
    try:
        devices = jax.local_devices(backend="cuda")
    except RuntimeError:  # what JAX raises for a platform that is not there
        return []
    versions = [device.compute_capability.split(".") for device in devices]
    return sorted({10 * int(major) + int(minor) for major, minor in versions})


def dotted(capability: int) -> str:
    """A compute capability as NVIDIA writes it: "9.0" for 90."""
    return f"{capability // 10}.{capability % 10}"
