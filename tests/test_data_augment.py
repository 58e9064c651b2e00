"""Augmentation inside jit against plain numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from binjax.data.augment import normalize, random_crop, random_flip, scale_to_unit

N, H, W, C = 64, 6, 5, 3
IMAGES = np.random.default_rng(0).integers(0, 256, (N, H, W, C), dtype=np.uint8)
KEY = jax.random.key(7)


@pytest.mark.parametrize(
    ("mean", "std"), [(33.3, 78.5), ((125.3, 123.0, 113.9), (63.0, 62.1, 66.7))]
)
def test_normalize(mean, std):
    inverse = np.float32(1) / np.asarray(std, np.float32)
    expected = (IMAGES.astype(np.float32) - np.asarray(mean, np.float32)) * inverse
    for function in (normalize, jax.jit(normalize)):
        result = function(jnp.asarray(IMAGES), mean, std)
        assert result.dtype == jnp.float32
        np.testing.assert_allclose(result, expected, rtol=3e-7, atol=1e-7)


def test_normalize_refuses_a_wrong_number_of_channels():
    with pytest.raises(ValueError, match="3 channels"):
        normalize(jnp.asarray(IMAGES), (1.0, 2.0), 1.0)


def test_scale_to_unit_of_every_pixel_value():
    pixels = np.arange(256, dtype=np.uint8)
    exact = 2 * pixels.astype(np.float64) / 255 - 1
    eager = np.asarray(scale_to_unit(jnp.asarray(pixels)))
    assert eager.dtype == np.float32
    assert (eager[0], eager[255]) == (-1.0, 1.0)
    assert np.max(np.abs(eager - exact)) < 2**-23
    assert np.array_equal(eager, jax.jit(scale_to_unit)(jnp.asarray(pixels)))
    assert np.array_equal(eager, scale_to_unit(jnp.arange(256.0, dtype=jnp.float32)))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("padding", [0, 1, 4])
@pytest.mark.parametrize("fill", [0.0, (10.0, 20.0, 30.0)])
def test_random_crop_cuts_windows_of_the_padded_image(dtype, padding, fill):
    images = IMAGES.astype(dtype)
    crop = jax.jit(random_crop, static_argnums=2)
    result = np.asarray(crop(KEY, jnp.asarray(images), padding, fill))
    assert result.dtype == dtype and result.shape == images.shape
    padded = np.empty((N, H + 2 * padding, W + 2 * padding, C), dtype)
    padded[...] = np.asarray(fill, dtype)
    padded[:, padding : padding + H, padding : padding + W] = images
    offsets = [(y, x) for y in range(2 * padding + 1) for x in range(2 * padding + 1)]
    used = set()
    for i in range(N):
        matches = [
            (y, x) for y, x in offsets if np.array_equal(padded[i, y : y + H, x : x + W], result[i])
        ]
        assert len(matches) == 1
        used.add(matches[0])
    assert len(used) >= min(len(offsets), 20)
    assert np.array_equal(result, random_crop(KEY, jnp.asarray(images), padding, fill))


def test_random_crop_refusals():
    with pytest.raises(ValueError, match="padding must be >= 0"):
        random_crop(KEY, jnp.asarray(IMAGES), -1)
    with pytest.raises(ValueError, match="fill has shape"):
        random_crop(KEY, jnp.asarray(IMAGES), 1, (1.0, 2.0))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_random_flip_mirrors_some_images(dtype):
    images = IMAGES.astype(dtype)
    result = np.asarray(jax.jit(random_flip)(KEY, jnp.asarray(images)))
    assert result.dtype == dtype
    flipped = [not np.array_equal(result[i], images[i]) for i in range(N)]
    assert 16 <= sum(flipped) <= 48
    for i in range(N):
        assert np.array_equal(result[i], images[i, :, ::-1] if flipped[i] else images[i])
    assert np.array_equal(result, random_flip(KEY, jnp.asarray(images)))
    other = np.asarray(random_flip(jax.random.key(8), jnp.asarray(images)))
    assert not np.array_equal(result, other)


def test_strict_promotion_is_enough():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        images = jnp.asarray(IMAGES)
        random_flip(KEY, random_crop(KEY, images, 2, (1.0, 2.0, 3.0)))
        normalize(images, (1.0, 2.0, 3.0), 4.0)
        scale_to_unit(images)
