"""Training a network to imitate another one: its scores, and where its activations are large."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from binjax.layers import apply_watched
from binjax.losses import AttentionMaps, attention_transfer, distillation

Target = tuple[jax.Array, dict[str, jax.Array]]


@dataclass(frozen=True)
class Teacher:
    """A trained network to imitate, in evaluation.

    Attributes:
        graphdef: of the network.
        variables: its params and stats, plain dicts; an argument of the jitted step.
        preprocess: uint8 images to its input.
    """

    graphdef: nnx.GraphDef[Any]
    variables: tuple[Any, Any]
    preprocess: Callable[[jax.Array], jax.Array]


@dataclass(frozen=True)
class Distillation:
    """How a student imitates its teacher.

    The loss is ``(1 - weight)·loss(labels) + weight·T^2·KL + attention_weight·sum of attention
    distances`` (:func:`binjax.losses.distillation`, :func:`binjax.losses.attention_transfer`).

    Attributes:
        teacher: whom.
        weight: of the scores' divergence, in [0, 1].
        temperature: of the softmax.
        pairs: (student's layer, teacher's layer) whose attention maps are compared.
        attention_weight: of each comparison.
        attention_maps: how they are scaled and compared.
    """

    teacher: Teacher
    weight: float
    temperature: float
    pairs: tuple[tuple[str, str], ...]
    attention_weight: float
    attention_maps: AttentionMaps = "l2"

    @property
    def watched(self) -> tuple[str, ...]:
        """Layers of the student whose outputs :meth:`loss` wants."""
        return tuple(ours for ours, _ in self.pairs)

    def target(self, variables: tuple[Any, Any], images: jax.Array) -> Target:
        """The teacher's scores, and activations of its layers by name, for uint8 images."""
        teacher = self.teacher
        names = tuple(theirs for _, theirs in self.pairs)
        x = teacher.preprocess(images)
        scores, _, seen = apply_watched(teacher.graphdef, *variables, x, names, train=False)
        return scores.astype(jnp.float32), seen

    def loss(
        self, of_labels: jax.Array, scores: jax.Array, seen: dict[str, jax.Array], target: Target
    ) -> jax.Array:
        """The student's whole loss."""
        total = of_labels
        if self.weight:
            divergence = distillation(scores, target[0], self.temperature)
            total = (1 - self.weight) * of_labels + self.weight * divergence
        for ours, theirs in self.pairs:
            distance = attention_transfer(seen[ours], target[1][theirs], self.attention_maps)
            total = total + self.attention_weight * distance
        return total


def parse_pairs(names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """``"stage1"`` or ``"student_layer=teacher_layer"`` to (student's, teacher's)."""
    parts = (name.partition("=") for name in names)
    return tuple((ours, theirs if equals else ours) for ours, equals, theirs in parts)
