"""Telemetry of binary networks: how many weights flip, how activations use their sign."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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


def c2i_ratio(initial: ArrayLike, now: ArrayLike) -> jax.Array:
    """Correlation to the initialization: 1 less twice the share of signs that differ from it.

    1 where all signs are those of the start, 0 where half of them have flipped, as by chance
    (Liu et al. 2021, "How do Adam and training strategies help BNNs optimization", §4.3; their FF
    ratio is :func:`flip_ratio` between two steps).

    Args:
        initial, now: latent or binary weights of one shape.

    Raises:
        ValueError: the shapes differ.
    """
    return 1 - 2 * flip_ratio(initial, now)


def dead_weights(weights: ArrayLike, clip_value: float = 1.0) -> jax.Array:
    """Share of latent weights with ``|w| >= clip_value``: at the bound, or past any gradient."""
    return jnp.mean(jnp.abs(jnp.asarray(weights)) >= clip_value, dtype=jnp.float32)


def sign_margin(x: ArrayLike) -> jax.Array:
    """How far pre-activations stand from their sign's threshold, in standard deviations.

    Mean over channels of ``mean(|x|)/std(x)``: about .8 for a normal distribution around zero, more
    where signs are decided; a channel of one value, whose sign never changes, is left out (0 if
    all are).

    Args:
        x: ``[..., channels]``; over all axes but the last.

    Returns:
        float32 scalar.
    """
    wide = jnp.asarray(x, jnp.float32)
    axes = tuple(range(wide.ndim - 1))
    spread = jnp.std(wide, axes)
    some = spread > 0
    margins = jnp.where(some, jnp.mean(jnp.abs(wide), axes) / jnp.where(some, spread, 1), 0)
    return jnp.sum(margins) / jnp.maximum(jnp.sum(some), 1)


def gradient_cosine(ours: Any, other: Any) -> jax.Array:
    """Cosine of the angle between two gradients of one structure; float32, 0 if one is zero.

    Of the straight-through gradient and that of another surrogate on one batch, it says how much
    the choice of the surrogate matters (gradient mismatch: Lin et al. 2020, RBNN, §3.3).

    Raises:
        ValueError: the structures differ.
    """
    pairs = list(zip(jax.tree.leaves(ours), jax.tree.leaves(other), strict=True))
    products = [(jnp.vdot(a, b), jnp.vdot(a, a), jnp.vdot(b, b)) for a, b in pairs]
    dot, left, right = jnp.sum(jnp.asarray(products, jnp.float32), 0)
    norm = jnp.sqrt(left) * jnp.sqrt(right)
    return jnp.where(norm > 0, dot / jnp.where(norm > 0, norm, 1), 0)


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
