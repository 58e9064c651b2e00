"""Changes of colour inside jit: jitter and lighting. Images are NHWC in units of 0..255."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from binjax.data.pixels import as_floats, as_pixels

LUMA = (0.299, 0.587, 0.114)
"""Of red, green and blue in gray (ITU-R BT.601)."""

# Principal components of the colours of ImageNet's pixels, in units of 1: eigenvalues, and
# eigenvectors in columns, as fb.resnet.torch (`datasets/imagenet.lua`) published them for the
# method of Krizhevsky, Sutskever and Hinton 2012, section 4.1; BinaryNet.pytorch has the same.
EIGENVALUES = (0.2175, 0.0188, 0.0045)
EIGENVECTORS = (
    (-0.5675, 0.7192, 0.4009),
    (-0.5808, -0.0045, -0.8140),
    (-0.5836, -0.6948, 0.4203),
)

Factors = tuple[float, float]


def color_jitter(
    key: jax.Array,
    images: jax.Array,
    brightness: Factors = (0.6, 1.4),
    contrast: Factors = (0.6, 1.4),
    saturation: Factors = (0.6, 1.4),
) -> jax.Array:
    """Brightness, contrast and saturation, in a random order per image.

    Each draws a factor f, uniform in its range, and makes ``f·x + (1 - f)·d`` of pixels x, cut to
    0..255: d is 0 (brightness), the mean of the image's luma (contrast), or each pixel's luma
    (saturation). BinaryNet.pytorch's ranges are [0.6, 1]. Gray images have no saturation.

    Args:
        key: a JAX random key.
        images: [n, h, w, c], uint8 or float, c = 1 or 3.
        brightness, contrast, saturation: least and greatest factor, ≥ 0.

    Returns:
        Images of the same shape and dtype; uint8 is rounded once, at the end.

    Raises:
        ValueError: neither 1 nor 3 channels.
    """
    n, channels = images.shape[0], images.shape[3]
    if channels not in (1, 3):
        raise ValueError(f"color jitter wants 1 or 3 channels, got {channels}")
    factor_key, order_key = jax.random.split(key)
    ranges = jnp.array([brightness, contrast, saturation], jnp.float32)
    least, greatest = ranges[None, :, 0], ranges[None, :, 1]
    factors = least + (greatest - least) * jax.random.uniform(factor_key, (n, 3))
    order = jnp.argsort(jax.random.uniform(order_key, (n, 3)), 1)
    return as_pixels(blend_in_order(as_floats(images), factors, order), images.dtype)


def blend_in_order(x: jax.Array, factors: jax.Array, order: jax.Array) -> jax.Array:
    """The arithmetic of :func:`color_jitter`.

    Args:
        x: float32 [n, h, w, c], 0..255.
        factors: [n, 3] of brightness, contrast, saturation.
        order: integers [n, 3], each row a permutation: 0 brightness, 1 contrast, 2 saturation.

    Returns:
        float32 of x's shape, 0..255.
    """
    for i in range(3):
        change = order[:, i]
        factor = jnp.take_along_axis(factors, change[:, None], 1)[:, :, None, None]
        change = change[:, None, None, None]
        gray = _luma(x)
        mean = jnp.mean(gray, (1, 2), keepdims=True)
        toward = jnp.where(change == 0, jnp.float32(0), jnp.where(change == 1, mean, gray))
        x = jnp.clip(factor * x + (1 - factor) * toward, 0, 255)
    return x


def lighting(key: jax.Array, images: jax.Array, deviation: float = 0.1) -> jax.Array:
    """AlexNet's noise: one colour added to all pixels of an image.

    ``255 · Σⱼ αⱼ λⱼ pⱼ`` with the principal components p of ImageNet's colours, their eigenvalues
    λ, and α normal of mean 0.

    Args:
        key: a JAX random key.
        images: [n, h, w, 3], uint8 or float.
        deviation: of α, ≥ 0.

    Returns:
        Images of the same shape and dtype, cut to 0..255.

    Raises:
        ValueError: not 3 channels.
    """
    if images.shape[3] != 3:
        raise ValueError(f"lighting wants 3 channels, got {images.shape[3]}")
    alpha = deviation * jax.random.normal(key, (images.shape[0], 3))
    x = as_floats(images) + lighting_colors(alpha)[:, None, None, :]
    return as_pixels(jnp.clip(x, 0, 255), images.dtype)


def lighting_colors(alpha: jax.Array) -> jax.Array:
    """What :func:`lighting` adds, [n, 3], for α of [n, 3]."""
    components = (
        np.float32(255) * np.array(EIGENVECTORS, np.float32) * np.array(EIGENVALUES, np.float32)
    )
    return jnp.einsum("nj,cj->nc", alpha, components, precision="highest")


def _luma(x: jax.Array) -> jax.Array:
    if x.shape[3] == 1:
        return x
    red, green, blue = (weight * x[..., i : i + 1] for i, weight in enumerate(LUMA))
    return red + green + blue
