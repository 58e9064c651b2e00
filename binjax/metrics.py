"""Telemetry of binary networks: how many weights flip, how activations use their sign."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from binjax.ste import (
    Quantizer,
    Stochastic,
    factors_of,
    is_sign,
    precision,
    sign,
    sign_input_of,
)


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


def dead_weights(
    weights: ArrayLike, clip_value: float | None = 1.0, quantizer: Quantizer | None = None
) -> jax.Array:
    """Share of latent weights at their bound or past any gradient, float32 scalar.

    Args:
        weights: any shape that the quantizer takes.
        clip_value: the bound: those with ``|w| >= clip_value`` count; None for no bound.
        quantizer: those that no gradient reaches through it count too, see :func:`unreached`.
    """
    weights = jnp.asarray(weights)
    bound = math.inf if clip_value is None else clip_value
    dead = jnp.abs(weights) >= bound
    if quantizer is not None:
        dead |= unreached(quantizer, weights)
    return jnp.mean(dead, dtype=jnp.float32)


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


def unreached(quantizer: Quantizer | Stochastic, x: ArrayLike) -> jax.Array:
    """Where no gradient reaches x through a quantizer: bools of x's shape.

    Found by differentiating it, so for any quantizer and surrogate: beyond ``clip_value`` of
    ``ste_sign``, outside [0, 1] of ``dorefa``, and of ``ede`` where the hyperbolic tangent is 1 in
    x's dtype. A stochastic quantizer counts as it is in evaluation.

    Args:
        quantizer: of one array, see :func:`binjax.ste.declare`.
        x: floating, any shape that it takes.
    """
    x = jnp.asarray(x)
    y, pull = jax.vjp(_evaluated(quantizer), x)
    # Equal cotangents would cancel where a mean is taken off.
    cotangents = jnp.linspace(1, 2, y.size, dtype=y.dtype).reshape(y.shape)
    gradient: jax.Array = pull(cotangents)[0]
    return gradient == 0


def value_planes(quantizer: Quantizer | Stochastic, x: ArrayLike) -> tuple[jax.Array, ...]:
    """Which of its values a quantizer takes at each element: planes of bools of x's shape.

    Of one bit a single plane, set where the value is +1 or the higher of the two. Of more, or of a
    function that declares nothing, two: where the value is positive, and where it is not zero.
    """
    x = jnp.asarray(x)
    value = _evaluated(quantizer)
    if is_sign(quantizer):
        factors = factors_of(quantizer)
        return ((value(x) if factors is None else factors(x).signs) > 0,)
    inner = sign_input_of(quantizer)
    if inner is not None:
        return (sign(inner(x)) > 0,)
    y = value(x)
    return (y > 0,) if precision(quantizer) == 1 else (y > 0, y != 0)


def pack_planes(planes: Sequence[jax.Array]) -> jax.Array:
    """Planes of bools as bits, uint8 ``[planes·ceil(size/8)]``, to compare with later ones."""
    return jnp.concatenate([jnp.packbits(plane.reshape(-1)) for plane in planes])


def packed_flip_ratio(before: jax.Array, planes: Sequence[jax.Array]) -> jax.Array:
    """Share of elements that differ in any plane from :func:`pack_planes` of before; float32."""
    differ = (before ^ pack_planes(planes)).reshape(len(planes), -1)
    flips = jnp.bitwise_count(functools.reduce(jnp.bitwise_or, differ))
    return jnp.sum(flips, dtype=jnp.float32) / planes[0].size


def _evaluated(quantizer: Quantizer | Stochastic) -> Quantizer:
    return quantizer.evaluation if isinstance(quantizer, Stochastic) else quantizer
