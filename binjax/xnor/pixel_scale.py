"""What 8-bit pixels stand for: integers around zero, and their scale.

A pixel p counts as the odd integer ``q = 2p - 255``. Products of q and ±1 are integers, exact in
float32 below 2^24; a scale makes inputs, or results, of them.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from binjax.rounding import apart

LARGEST_K = (2**24 - 1) // 255  # every sum of so many integers of up to 255 is a float32
SCALE = np.float32(1) / np.float32(255)


def centered(x: jax.Array) -> jax.Array:
    """``2x - 255`` of uint8, in float32."""
    return 2 * x.astype(jnp.float32) - 255


def scaled(dot: jax.Array, scale: float | np.float32 = SCALE) -> jax.Array:
    """``float32(dot) * float32(scale)``, rounded whatever is done with it next."""
    return apart(dot.astype(jnp.float32) * np.float32(scale))


class PixelScale(NamedTuple):
    """What pixels stand for: ``x = scale (2p - 255) + shift``; by default from -1 to 1."""

    scale: float = 1 / 255
    shift: float = 0.0

    @classmethod
    def standard(cls, mean: float, std: float) -> PixelScale:
        """``x = (p - mean) / std``."""
        return cls(1 / (2 * std), (255 - 2 * mean) / (2 * std))

    def inputs(self, x: jax.Array) -> jax.Array:
        """float32 inputs of uint8 pixels."""
        real = scaled(centered(x), self.scale)
        return real + np.float32(self.shift) if self.shift else real

    def outputs(self, dot: jax.Array, weight_sums: jax.Array) -> jax.Array:
        """float32 results of integer sums ``int32[..., N]``, given the sums ``int32[N]`` of columns
        of weights.
        """
        real = scaled(dot, self.scale)
        if not self.shift:
            return real
        added = weight_sums.astype(jnp.float32) * np.float32(self.shift)
        return real + added.reshape((1,) * (dot.ndim - 1) + (-1,))


UNIT = PixelScale()
