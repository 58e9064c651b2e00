"""Quantizers with variables of their own: annealed over a run, or with trainable parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike


class Progress(nnx.Variable[jax.Array]):
    """How much of the training is done: a float32 scalar in [0, 1], the same in all layers.

    Annealed quantizers read it. ``train`` sets it before each step to the share of epochs that
    are over; a loop of your own does with :func:`set_progress`.
    """


def set_progress(model: nnx.Module, value: ArrayLike) -> None:
    """Set every :class:`Progress` of a model, in place."""
    for _, leaf in nnx.to_flat_state(nnx.state(model, Progress)):
        leaf[...] = jnp.asarray(value, jnp.float32)


QUANTIZER_MODULES: Mapping[str, Callable[..., Any]] = MappingProxyType({})
"""NNX modules that quantize, by the name a config uses: ``module(n, **parameters)``."""
