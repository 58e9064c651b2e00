"""A chain of named layers."""

from __future__ import annotations

from collections.abc import Mapping

import jax
from flax import nnx


class Sequential(nnx.Module):
    """Layers one after the other, each an attribute under its name.

    The i-th layer gets ``fold_in(key, i)``, so random layers draw independently.

    Args:
        layers: name to layer, in order; a layer is called ``layer(x, train=..., key=...)``.
    """

    def __init__(self, layers: Mapping[str, nnx.Module]):
        self.names = tuple(layers)
        for name, layer in layers.items():
            setattr(self, name, layer)

    def __call__(
        self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> jax.Array:
        """x: what the first layer takes."""
        for i, name in enumerate(self.names):
            inner = None if key is None else jax.random.fold_in(key, i)
            x = getattr(self, name)(x, train=train, key=inner)
        return x
