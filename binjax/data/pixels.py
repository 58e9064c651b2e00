"""Between pixels and the floats that augmentation computes in."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


def as_floats(images: jax.Array) -> jax.Array:
    """float32 of the same values."""
    return images.astype(jnp.float32)


def as_pixels(x: jax.Array, dtype: DTypeLike) -> jax.Array:
    """Floats as uint8, rounded (ties to even) and cut to 0..255, or as another float dtype."""
    if jnp.issubdtype(dtype, jnp.floating):
        return x.astype(dtype)
    return jnp.clip(jnp.round(x), 0, 255).astype(dtype)
