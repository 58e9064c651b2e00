"""Telemetry of binary networks: how many weights flip, how activations use their sign."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from binjax.ste import sign


def flip_ratio(old: ArrayLike, new: ArrayLike) -> jax.Array:
    """Share of elements whose sign differs (sign(0) = +1), float32 scalar.

    Args:
        old, new: latent or binary weights of one shape.

    Raises:
        ValueError: the shapes differ.
    """
    old, new = jnp.asarray(old), jnp.asarray(new)
    if old.shape != new.shape:
        raise ValueError(f"flip_ratio: shapes {old.shape} and {new.shape} differ")
    return jnp.mean(sign(old) != sign(new), dtype=jnp.float32)


def saturation(x: ArrayLike, clip_value: float = 1.0) -> jax.Array:
    """Share of pre-activations with ``|x| > clip_value``, which pass no gradient; float32."""
    return jnp.mean(jnp.abs(jnp.asarray(x)) > clip_value, dtype=jnp.float32)


def sign_entropy(x: ArrayLike) -> jax.Array:
    """Mean over channels of the entropy of the sign, in bits: 1 is balanced, 0 is dead.

    Args:
        x: ``[..., channels]``; probabilities are taken over all axes but the last.

    Returns:
        float32 scalar in [0, 1].
    """
    x = jnp.asarray(x)
    p = jnp.mean(x >= 0, axis=tuple(range(x.ndim - 1)), dtype=jnp.float32)
    return jnp.mean(-(jax.scipy.special.xlogy(p, p) + jax.scipy.special.xlog1py(1 - p, -p))) / (
        jnp.log(2.0)
    )


def pack_signs(weights: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Signs of each array as bits, uint8 ``[ceil(size/8)]``, to compare with later ones."""
    return {name: jnp.packbits(sign(w).reshape(-1) > 0) for name, w in weights.items()}


def packed_flip_ratios(
    signs: Mapping[str, jax.Array], weights: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
    """:func:`flip_ratio` per array, between :func:`pack_signs` of before and the weights now."""
    now = pack_signs(weights)
    return {
        name: jnp.sum(jnp.bitwise_count(signs[name] ^ now[name]), dtype=jnp.float32) / w.size
        for name, w in weights.items()
    }
