"""Crops of image batches inside jit: of the centre, and of random parts that are resized. NHWC."""

from __future__ import annotations

import math
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from binjax.data.pixels import as_floats, as_pixels

Batch = TypeVar("Batch", jax.Array, np.ndarray)

_TRIES = 10  # torchvision's, and Inception's own code has as many


def center_crop(images: Batch, size: tuple[int, int]) -> Batch:
    """The middle of each image; of an odd rest the smaller half is above and left.

    Args:
        images: [n, h, w, c], any dtype, of numpy or JAX.
        size: (height, width) ≤ (h, w).

    Returns:
        [n, *size, c] of the same dtype.

    Raises:
        ValueError: the size does not fit.
    """
    (height, width), (high, wide) = images.shape[1:3], size
    if high > height or wide > width:
        raise ValueError(f"a centre of {high}x{wide} does not fit into images of {height}x{width}")
    top, left = (height - high) // 2, (width - wide) // 2
    return images[:, top : top + high, left : left + wide]


def resize(images: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Bilinear; where images shrink, over the area that a new pixel covers (Pillow's BILINEAR).

    Args:
        images: [n, h, w, c], uint8 or float.
        size: (height, width) ≥ 1.

    Returns:
        [n, *size, c] of the same dtype; uint8 is rounded.
    """
    n, height, width, _ = images.shape
    whole = jnp.broadcast_to(jnp.float32([0, 0, height, width]), (n, 4))
    return crop_and_resize(images, whole, size)


def fit(images: np.ndarray, size: tuple[int, int], rows: int = 1000) -> np.ndarray:
    """A whole set made to fit: each image's largest middle part of the size's proportions, resized.

    Args:
        images: [n, h, w, c], uint8 or float.
        size: (height, width) ≥ 1.
        rows: images computed at a time.

    Returns:
        [n, *size, c] of the same dtype; the images themselves where they have that size.
    """
    (height, width), (high, wide) = images.shape[1:3], size
    if (height, width) == size:
        return images
    part = (
        min(height, max(1, round(width * high / wide))),
        min(width, max(1, round(height * wide / high))),
    )
    middle = center_crop(images, part)
    found = np.empty((len(images), *size, images.shape[3]), images.dtype)
    shrink = jax.jit(resize, static_argnums=1)
    for start in range(0, len(images), rows):
        found[start : start + rows] = shrink(middle[start : start + rows], size)
    return found


def crop_and_resize(images: jax.Array, boxes: jax.Array, size: tuple[int, int]) -> jax.Array:
    """A box of each image, resized as :func:`resize` would if the box were the whole image.

    Args:
        images: [n, h, w, c], uint8 or float.
        boxes: float32 [n, 4]: top, left, height, width in pixels, whole numbers within the image.
        size: (height, width) ≥ 1.

    Returns:
        [n, *size, c] of the same dtype; uint8 is rounded, ties to even.
    """
    _, height, width, _ = images.shape
    down = _weights(boxes[:, 0], boxes[:, 2], size[0], height)
    across = _weights(boxes[:, 1], boxes[:, 3], size[1], width)
    x = as_floats(images)
    x = jnp.einsum("nih,nhwc->niwc", down, x, precision="highest")
    x = jnp.einsum("njw,niwc->nijc", across, x, precision="highest")
    return as_pixels(x, images.dtype)


def random_boxes(
    key: jax.Array,
    n: int,
    image_size: tuple[int, int],
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> jax.Array:
    """Boxes of random area, shape and place: Inception's, as torchvision draws them.

    Of ten drawn (area uniform, logarithm of width/height uniform, both sides rounded) the first
    that fits is taken, at a uniform place; if none fits, the largest box in the middle whose
    width/height is in the range.

    Args:
        key: a JAX random key.
        n: how many.
        image_size: (height, width).
        scale: least and greatest area, as a share of the image's.
        ratio: least and greatest width/height.

    Returns:
        float32 [n, 4]: top, left, height, width; whole numbers.
    """
    height, width = image_size
    area_key, ratio_key, place_key = jax.random.split(key, 3)
    area = (
        height * width * jax.random.uniform(area_key, (n, _TRIES), minval=scale[0], maxval=scale[1])
    )
    shape = jnp.exp(
        jax.random.uniform(
            ratio_key, (n, _TRIES), minval=math.log(ratio[0]), maxval=math.log(ratio[1])
        )
    )
    wide, high = jnp.round(jnp.sqrt(area * shape)), jnp.round(jnp.sqrt(area / shape))
    fits = (wide >= 1) & (wide <= width) & (high >= 1) & (high <= height)
    first = jnp.argmax(fits, 1, keepdims=True)
    sizes = jnp.stack([high, wide], -1)
    drawn = jnp.take_along_axis(sizes, first[..., None], 1)[:, 0]
    found = jnp.any(fits, 1, keepdims=True)
    drawn = jnp.where(found, drawn, jnp.float32([_fallback(image_size, ratio)]))
    free = jnp.float32([[height, width]]) - drawn
    place = jnp.floor(jax.random.uniform(place_key, (n, 2)) * (free + 1))
    # uniform < 1, but its product may be rounded up to free + 1.
    place = jnp.where(found, jnp.minimum(place, free), jnp.floor(free / 2))
    return jnp.concatenate([place, drawn], 1)


def random_resized_crop(
    key: jax.Array,
    images: jax.Array,
    size: tuple[int, int],
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> jax.Array:
    """:func:`random_boxes` of the images, resized by :func:`crop_and_resize`.

    Args:
        key: a JAX random key.
        images: [n, h, w, c], uint8 or float.
        size: (height, width) of the results.
        scale, ratio: as for :func:`random_boxes`.

    Returns:
        [n, *size, c] of the same dtype.
    """
    n, height, width, _ = images.shape
    return crop_and_resize(images, random_boxes(key, n, (height, width), scale, ratio), size)


def _weights(start: jax.Array, length: jax.Array, n_out: int, n_in: int) -> jax.Array:
    """[n, n_out, n_in]: how much of each old pixel is in each new one; rows add up to 1."""
    start, length = start[:, None, None], length[:, None, None]
    step = length / n_out
    new = jnp.asarray(np.arange(n_out, dtype=np.float32)[None, :, None] + np.float32(0.5))
    old = jnp.asarray(np.arange(n_in, dtype=np.float32)[None, None, :])
    distance = jnp.abs(old + 0.5 - (start + new * step)) / jnp.maximum(step, 1)
    inside = (old >= start) & (old < start + length)
    weights = jnp.where(inside, jnp.maximum(1 - distance, 0), 0)
    return weights / jnp.sum(weights, -1, keepdims=True)


def _fallback(image_size: tuple[int, int], ratio: tuple[float, float]) -> tuple[int, int]:
    height, width = image_size
    if width / height < ratio[0]:
        return max(1, min(height, round(width / ratio[0]))), width
    if width / height > ratio[1]:
        return height, max(1, min(width, round(height * ratio[1])))
    return height, width
