"""Preprocessing and augmentation of image batches inside jit. Pure functions; NHWC.

Each function is deterministic in its arguments, its key included.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

Scalars = float | Sequence[float] | jax.Array


def normalize(images: jax.Array, mean: Scalars, std: Scalars) -> jax.Array:
    """(images - mean) / std, computed as (images - mean) * (1 / std).

    XLA rewrites a division by a broadcast value into that product on some back ends; written out,
    the result is the same on all.

    Args:
        images: [n, h, w, c], uint8 or float, in units of 0..255.
        mean: scalar or one value per channel, in the same units.
        std: likewise, > 0.

    Returns:
        float32 [n, h, w, c].

    Raises:
        ValueError: mean or std is neither a scalar nor of length c.
    """
    channels = images.shape[-1]
    x = images.astype(jnp.float32)
    inverse = jnp.reciprocal(_per_channel(std, channels, "std"))
    return (x - _per_channel(mean, channels, "mean")) * inverse


def scale_to_unit(images: jax.Array) -> jax.Array:
    """2·images/255 - 1: the input of BinaryNet's Theano code (its `cifar10.py`).

    Computed as (2·images - 255)·float32(1/255). The first factor is exact, so there is one
    rounding, -1 and +1 are reached exactly, and neither a fused multiply-add nor XLA's rewriting
    of divisions can change the result: it is the same on every back end.

    Args:
        images: any shape, uint8 or float, in units of 0..255.

    Returns:
        float32 of the same shape, in [-1, 1].
    """
    x = images.astype(jnp.float32)
    return jnp.multiply(x + x - jnp.float32(255), jnp.float32(1 / 255))


def random_crop(
    key: jax.Array,
    images: jax.Array,
    padding: int,
    fill: Scalars = 0.0,
    size: tuple[int, int] | None = None,
) -> jax.Array:
    """Pad on all four sides, then cut a window at a random place per image.

    Args:
        key: a JAX random key.
        images: [n, h, w, c], any dtype.
        padding: pixels on each side, ≥ 0, static under jit.
        fill: value of the padding, scalar or per channel, cast to the images' dtype.
        size: (height, width) of the window, no larger than the padded image; None: the images'.

    Returns:
        [n, *size, c] of the same dtype; all places are equally likely.

    Raises:
        ValueError: padding < 0, a window that does not fit, or fill is neither a scalar nor of
            length c.
    """
    if padding < 0:
        raise ValueError(f"padding must be >= 0, got {padding}")
    n, height, width, channels = images.shape
    high, wide = (height, width) if size is None else size
    free = (height + 2 * padding - high, width + 2 * padding - wide)
    if min(free) < 0:
        raise ValueError(
            f"a window of {high}x{wide} does not fit into {height}x{width} and {padding} around it"
        )
    padded = jnp.broadcast_to(
        _per_channel(fill, channels, "fill").astype(images.dtype),
        (n, height + 2 * padding, width + 2 * padding, channels),
    )
    padded = padded.at[:, padding : padding + height, padding : padding + width].set(images)
    offsets = jax.random.randint(key, (n, 2), 0, jnp.array([[free[0] + 1, free[1] + 1]]))

    def cut(image: jax.Array, offset: jax.Array) -> jax.Array:
        start = (offset[0], offset[1], jnp.zeros((), offset.dtype))
        return jax.lax.dynamic_slice(image, start, (high, wide, channels))

    return jax.vmap(cut)(padded, offsets)


def random_flip(key: jax.Array, images: jax.Array) -> jax.Array:
    """Mirror each image left to right with probability 1/2.

    Args:
        key: a JAX random key.
        images: [n, h, w, c], any dtype.

    Returns:
        Images of the same shape and dtype.
    """
    flip = jax.random.bernoulli(key, 0.5, (images.shape[0], 1, 1, 1))
    return jnp.where(flip, images[:, :, ::-1, :], images)


def _per_channel(value: Scalars, channels: int, name: str) -> jax.Array:
    array = jnp.asarray(value, jnp.float32)
    if array.shape not in ((), (channels,)):
        raise ValueError(
            f"{name} has shape {array.shape}: give a scalar or one value for each of the "
            f"{channels} channels"
        )
    return jnp.broadcast_to(array.reshape((1, 1, 1, -1)), (1, 1, 1, channels))
