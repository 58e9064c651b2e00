"""Layers without weights that binarized networks use: dropout, flattening."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx

from binjax.ste.arguments import number


def dropout(key: jax.Array | None, x: jax.Array, rate: float) -> jax.Array:
    """Inverted dropout: zero with probability ``rate``, else divide by ``1 - rate``.

    Raises:
        ValueError: a rate outside [0, 1), or no key.
    """
    if check_rate(rate) == 0:
        return x
    if key is None:
        raise ValueError("dropout needs key=jax.random.key(...) in training")
    keep = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(keep, x / (1 - rate), jnp.zeros_like(x))


def check_rate(rate: float, name: str = "dropout rate") -> float:
    """``rate`` itself, if it is a dropout rate."""
    if not 0 <= float(number(name, rate, least=0)) < 1:
        raise ValueError(f"{name} is {rate!r}, must be in [0, 1)")
    return rate


class Flatten(nnx.Module):
    """``[n, ...]`` to ``[n, features]``, the last axis fastest."""

    def __call__(
        self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> jax.Array:
        """x: ``[n, ...]``."""
        if x.ndim < 1:
            raise ValueError("Flatten takes [n, ...] inputs, got a scalar")
        return x.reshape(x.shape[0], math.prod(x.shape[1:]))
