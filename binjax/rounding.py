"""Float expressions that mean the same bits in every compiled program."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def apart(x: jax.Array) -> jax.Array:
    """X itself, with its own rounding: for a finite product in front of a sum.

    XLA makes one fused multiply-add of the two in some places and not in others, even within one
    array (its last elements, past whole vectors), and adds up what are constants to it. A clamp
    that never acts keeps them apart; of an optimization barrier nothing is left in time on CPUs.

    Args:
        x: floating; infinities become the largest finite value.
    """
    limit = np.asarray(jnp.finfo(x.dtype).max, x.dtype)  # type: ignore[no-untyped-call]
    return lax.clamp(-limit, x, limit)
