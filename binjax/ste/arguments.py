"""Parameters of quantizers: that they are numbers, and of the kind that is wanted."""

from __future__ import annotations

import math
import numbers
import operator
from typing import Any

import jax
import numpy as np


def number(name: str, value: Any, *, least: float | None = None) -> Any:
    """A finite number above 0, or of at least ``least``; arrays, which may be traced, as they are.

    Raises:
        ValueError: anything else.
    """
    if isinstance(value, jax.Array | np.ndarray):
        return value
    if isinstance(value, numbers.Real) and math.isfinite(value):
        real = float(value)
        if real > 0 if least is None else real >= least:
            return real
    wanted = " above 0" if least is None else f" of at least {least:g}"
    wanted = "" if least == -math.inf else wanted
    raise ValueError(f"{name} is {value!r}, must be a finite number{wanted}")


def integer(name: str, value: Any, least: int = 1, most: int | None = None) -> int:
    """An integer of this range; numpy's are integers too.

    Raises:
        ValueError: anything else.
    """
    try:
        found = operator.index(value)
    except TypeError:
        found = least - 1
    if found < least or (most is not None and found > most):
        wanted = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name} is {value!r}, must be an integer {wanted}")
    return found
