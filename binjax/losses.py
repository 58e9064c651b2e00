"""Losses of the BinaryNet papers. Scores are the network's outputs, floating, any batch shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import jax
import jax.numpy as jnp
import optax


def squared_hinge(scores: jax.Array, targets: jax.Array) -> jax.Array:
    """``mean(max(0, 1 - t·y)^2)`` over all elements (Theano BinaryNet; Lee et al. 2015).

    Args:
        scores: y, floating ``[..., classes]``.
        targets: t, ±1 of the same shape, +1 at the true class (see :func:`one_vs_rest`).

    Raises:
        ValueError: the shapes differ.
    """
    return jnp.mean(jnp.square(_violation("squared_hinge", scores, targets)))


def hinge(scores: jax.Array, targets: jax.Array) -> jax.Array:
    """``mean(max(0, 1 - t·y))`` over all elements; arguments as :func:`squared_hinge`."""
    return jnp.mean(_violation("hinge", scores, targets))


def cross_entropy(scores: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean softmax cross-entropy of logits ``[..., classes]`` and integer labels ``[...]``."""
    losses = optax.losses.softmax_cross_entropy_with_integer_labels(scores, labels)
    return jnp.mean(losses)


def one_vs_rest(labels: jax.Array, n_classes: int, dtype: jax.typing.DTypeLike) -> jax.Array:
    """Integer labels ``[...]`` as ±1 targets ``[..., n_classes]``: +1 at the label, else -1."""
    return 2 * jax.nn.one_hot(labels, n_classes, dtype=dtype) - 1


def _violation(name: str, scores: jax.Array, targets: jax.Array) -> jax.Array:
    if scores.shape != targets.shape:
        raise ValueError(
            f"{name}: scores {scores.shape} and targets {targets.shape} must have one shape; "
            "make ±1 targets of integer labels with one_vs_rest"
        )
    return jnp.maximum(0, 1 - targets * scores)


def _on_labels(
    loss: Callable[[jax.Array, jax.Array], jax.Array],
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    def of_labels(scores: jax.Array, labels: jax.Array) -> jax.Array:
        return loss(scores, one_vs_rest(labels, scores.shape[-1], scores.dtype))

    return of_labels


LABEL_LOSSES: Mapping[str, Callable[[jax.Array, jax.Array], jax.Array]] = MappingProxyType(
    {
        "squared_hinge": _on_labels(squared_hinge),
        "hinge": _on_labels(hinge),
        "cross_entropy": cross_entropy,
    }
)
"""Losses of (scores, integer labels) by the name a config uses."""
