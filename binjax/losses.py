"""Losses of the BinaryNet papers. Scores are the network's outputs, floating, any batch shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import optax

AttentionMaps = Literal["l2", "max"]


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


def cross_entropy(scores: jax.Array, labels: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
    """Mean softmax cross-entropy of logits ``[..., classes]`` and integer labels ``[...]``.

    Args:
        scores: floating logits.
        labels: integers.
        label_smoothing: share of the target spread evenly over all classes, in [0, 1)
            (Szegedy et al. 2016, §7).
    """
    if label_smoothing == 0:
        losses = optax.losses.softmax_cross_entropy_with_integer_labels(scores, labels)
    else:
        targets = jax.nn.one_hot(labels, scores.shape[-1], dtype=scores.dtype)
        smooth = optax.smooth_labels(targets, label_smoothing)
        losses = optax.losses.softmax_cross_entropy(scores, smooth)
    return jnp.mean(losses)


def distillation(
    scores: jax.Array, teacher_scores: jax.Array, temperature: float = 1.0
) -> jax.Array:
    """``T^2·KL(teacher || student)`` of the softmax at temperature T, mean over the batch.

    Hinton et al. 2015, §2.1; with T = 1 its gradient is that of ReActNet's distributional loss
    (Liu et al. 2020, eq. 6). No gradient flows to the teacher.

    Args:
        scores, teacher_scores: logits ``[..., classes]`` of one shape.
        temperature: > 0.

    Raises:
        ValueError: the shapes differ, or the temperature is not positive.
    """
    if scores.shape != teacher_scores.shape:
        raise ValueError(
            f"distillation: scores {scores.shape} and teacher_scores {teacher_scores.shape} differ"
        )
    if temperature <= 0:
        raise ValueError(f"distillation: temperature is {temperature}, must be positive")
    ours = jax.nn.log_softmax(scores / temperature)
    theirs = jax.nn.log_softmax(jax.lax.stop_gradient(teacher_scores) / temperature)
    divergence = jnp.sum(jnp.exp(theirs) * (theirs - ours), -1)
    return temperature**2 * jnp.mean(divergence)


def attention_map(x: jax.Array, maps: AttentionMaps = "l2") -> jax.Array:
    """Where activations ``[n, h, w, c]`` are large: ``mean_c x^2``, ``[n, h·w]``.

    Divided by its L2 norm (Zagoruyko & Komodakis 2017, eq. 2 with p = 2), or by its largest
    entry (``maps="max"``: larq/zoo ``knowledge_distillation.py``).
    """
    energy = jnp.mean(jnp.square(x.astype(jnp.float32)), -1).reshape(x.shape[0], -1)
    if maps == "max":
        size = jnp.max(energy, -1, keepdims=True)
    else:
        size = jnp.linalg.norm(energy, axis=-1, keepdims=True)
    return energy / jnp.maximum(size, 1e-12)


def attention_transfer(
    student: jax.Array, teacher: jax.Array, maps: AttentionMaps = "l2"
) -> jax.Array:
    """Distance of two attention maps, mean over the batch.

    Args:
        student, teacher: activations ``[n, h, w, c]``; channels may differ. No gradient flows to
            the teacher.
        maps: ``"l2"``, the L2 distance of maps of norm 1 (Martinez et al. 2020, §4.2); ``"max"``,
            the mean square of the difference of maps whose largest entry is 1 (larq/zoo).

    Raises:
        ValueError: batch, height or width differ, unknown maps.
    """
    if maps not in get_args(AttentionMaps):
        raise ValueError(f'attention_transfer: maps is "l2" or "max", not {maps!r}')
    if student.ndim != 4 or student.shape[:3] != teacher.shape[:3]:
        raise ValueError(
            f"attention_transfer: activations {student.shape} and {teacher.shape} must have one "
            "batch, height and width"
        )
    difference = attention_map(student, maps) - jax.lax.stop_gradient(attention_map(teacher, maps))
    if maps == "max":
        return jnp.mean(jnp.square(difference))
    # The norm itself has no gradient at 0, where student and teacher agree.
    squared = jnp.sum(jnp.square(difference), -1)
    return jnp.mean(jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1)), 0))


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
