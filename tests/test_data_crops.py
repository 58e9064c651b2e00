"""Crops, resizing and colours inside jit against plain numpy and Pillow."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from binjax.data.augment import random_crop
from binjax.data.color import blend_in_order, color_jitter, lighting, lighting_colors
from binjax.data.crops import (
    center_crop,
    crop_and_resize,
    fit,
    random_boxes,
    random_resized_crop,
    resize,
)
from binjax.data.pixels import as_pixels

RNG = np.random.default_rng(0)
N, H, W = 6, 9, 13
IMAGES = RNG.integers(0, 256, (N, H, W, 3), dtype=np.uint8)
KEY = jax.random.key(3)


@pytest.fixture(scope="module", autouse=True)
def quick_compile():
    """Half the compile time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def test_floats_become_pixels():
    x = jnp.float32([-np.inf, -3, -0.0, 0.5, 1.5, 254.5, 255.4, 300, np.inf])
    assert as_pixels(x, np.uint8).tolist() == [0, 0, 0, 0, 2, 254, 255, 255, 255]
    assert np.array_equal(as_pixels(x, np.float32), x)


# Centre and windows


@pytest.mark.parametrize("size", [(9, 13), (4, 4), (1, 1), (9, 2), (8, 12)])
def test_center_crop(size):
    top, left = (H - size[0]) // 2, (W - size[1]) // 2
    expected = IMAGES[:, top : top + size[0], left : left + size[1]]
    for found in (center_crop(jnp.asarray(IMAGES), size), center_crop(IMAGES, size)):
        assert found.dtype == np.uint8 and np.array_equal(found, expected)
    with pytest.raises(ValueError, match="a centre of 10x4 does not fit into images of 9x13"):
        center_crop(IMAGES, (10, 4))


@pytest.mark.parametrize(("padding", "size"), [(0, (5, 12)), (2, (9, 9)), (1, (11, 15))])
def test_random_crop_of_another_size(padding, size):
    images = np.repeat(IMAGES, 30, 0)
    crop = jax.jit(random_crop, static_argnums=(2, 4))
    found = np.asarray(crop(KEY, jnp.asarray(images), padding, 7.0, size))
    assert found.shape == (len(images), *size, 3) and found.dtype == np.uint8
    padded = np.pad(images, ((0, 0), *2 * [2 * (padding,)], (0, 0)), constant_values=7)
    free = (H + 2 * padding - size[0], W + 2 * padding - size[1])
    places = list(itertools.product(range(free[0] + 1), range(free[1] + 1)))
    used = set()
    for image, result in zip(padded, found, strict=True):
        (place,) = [
            (y, x)
            for y, x in places
            if np.array_equal(image[y : y + size[0], x : x + size[1]], result)
        ]
        used.add(place)
    assert len(used) >= 0.8 * len(places)
    with pytest.raises(ValueError, match="a window of 14x3 does not fit into 9x13 and 2 around"):
        random_crop(KEY, jnp.asarray(IMAGES), 2, size=(14, 3))


# Resizing


def resized(image, box, size):
    """Triangles over the box, as wide as a new pixel where it is larger than an old one; loops."""
    top, left, height, width = box
    part = image[top : top + height, left : left + width].astype(np.float64)
    for n_out in size:
        n_in = len(part)
        step = n_in / n_out
        rows = []
        for i in range(n_out):
            centre = (i + 0.5) * step
            weights = np.array(
                [max(0, 1 - abs(j + 0.5 - centre) / max(step, 1)) for j in range(n_in)]
            )
            rows.append(np.tensordot(weights / weights.sum(), part, 1))
        part = np.stack(rows).swapaxes(0, 1)  # the other side next; twice is none
    return part


SIZES = [(9, 13), (4, 5), (1, 1), (20, 31), (3, 40)]


@pytest.mark.parametrize("size", SIZES)
def test_crop_and_resize(size):
    boxes = [[0, 0, 9, 13], [2, 3, 5, 7], [8, 12, 1, 1], [0, 5, 9, 2], [4, 0, 1, 13], [3, 3, 4, 4]]
    expected = np.stack([resized(*pair, size) for pair in zip(IMAGES, boxes, strict=True)])
    crop = jax.jit(crop_and_resize, static_argnums=2)
    found = crop(jnp.float32(IMAGES), jnp.float32(boxes), size)
    np.testing.assert_allclose(found, expected, atol=2e-4)
    pixels = np.asarray(crop(jnp.asarray(IMAGES), jnp.float32(boxes), size))
    assert pixels.dtype == np.uint8 and np.max(np.abs(pixels - expected)) < 0.5 + 1e-3
    for image, box, result in zip(IMAGES, boxes, pixels, strict=True):
        top, left, height, width = box
        part = Image.fromarray(image[top : top + height, left : left + width])
        pillow = np.asarray(part.resize(size[::-1], Image.Resampling.BILINEAR), int)
        assert np.max(np.abs(pillow - result)) <= 1


def test_resize_to_the_same_size_changes_nothing():
    assert np.array_equal(jax.jit(resize, static_argnums=1)(jnp.asarray(IMAGES), (H, W)), IMAGES)


@pytest.mark.parametrize(
    ("size", "box"),
    [((9, 13), (0, 0, 9, 13)), ((4, 5), (0, 1, 9, 11)), ((3, 9), (2, 0, 4, 13)), ((20, 20), None)],
)
def test_fit_takes_the_middle_of_the_proportions(size, box):
    top, left, height, width = box or (0, 2, 9, 9)
    part = IMAGES[:, top : top + height, left : left + width]
    found = fit(IMAGES, size, rows=4)
    assert found.dtype == np.uint8
    assert np.array_equal(found, jax.jit(resize, static_argnums=1)(jnp.asarray(part), size))
    floats = fit(np.float32(IMAGES), size)
    assert np.max(np.abs(floats - found)) <= 0.5 + 1e-3


# Random parts

draw = jax.jit(random_boxes, static_argnums=(1, 2, 3, 4))


@pytest.mark.parametrize(
    ("size", "scale", "ratio"),
    [((40, 40), (0.08, 1.0), (0.75, 4 / 3)), ((30, 60), (0.2, 0.5), (0.5, 0.8))],
)
def test_random_boxes(size, scale, ratio):
    n = 4000
    boxes = np.asarray(draw(KEY, n, size, scale, ratio))
    assert boxes.dtype == np.float32 and np.array_equal(boxes, np.round(boxes))
    top, left, height, width = boxes.T
    assert min(top.min(), left.min()) >= 0 and min(height.min(), width.min()) >= 1
    assert (top + height).max() <= size[0] and (left + width).max() <= size[1]
    # Sides are rounded: half a pixel each.
    assert ((width + 0.5) / (height - 0.5)).min() >= ratio[0]
    assert ((width - 0.5) / (height + 0.5)).max() <= ratio[1]
    whole = size[0] * size[1]
    assert ((height + 0.5) * (width + 0.5)).min() >= scale[0] * whole
    assert ((height - 0.5) * (width - 0.5)).max() <= scale[1] * whole
    # Places are uniform over what is free.
    for start, length, side in ((top, height, size[0]), (left, width, size[1])):
        free = side - length
        share = (start + 0.5) / (free + 1)
        assert abs(share[free > 4].mean() - 0.5) < 0.03
        assert np.any(start == free) and np.any(start == 0)
    assert np.array_equal(boxes, draw(KEY, n, size, scale, ratio))


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((4, 40), (0, 17, 4, 5)),  # wider than 4/3: the middle of its height · 4/3
        ((40, 4), (17, 0, 5, 4)),  # higher than 3/4
        ((7, 7), (0, 0, 7, 7)),
    ],
)
def test_boxes_that_never_fit_are_the_middle(size, box):
    found = draw(KEY, 5, size, (1.0, 1.0), (3 / 4, 4 / 3) if size != (7, 7) else (1.0, 1.0))
    assert np.array_equal(found, [box] * 5)


def test_random_resized_crop_is_boxes_and_resizing():
    images = jnp.asarray(IMAGES)
    crop = jax.jit(random_resized_crop, static_argnums=(2, 3, 4))
    found = np.asarray(crop(KEY, images, (5, 6), (0.2, 0.9), (0.5, 2.0)))
    boxes = np.asarray(draw(KEY, N, (H, W), (0.2, 0.9), (0.5, 2.0))).astype(int)
    for image, box, result in zip(IMAGES, boxes, found, strict=True):
        assert np.max(np.abs(result - resized(image, box, (5, 6)))) < 0.5 + 1e-3
    assert found.dtype == np.uint8 and len({tuple(box) for box in boxes}) > 1


# Colours


def blended(image, factors, order):
    """One image after the other, float64."""
    x = image.astype(np.float64)
    for change in order:
        gray = x @ [0.299, 0.587, 0.114] if x.shape[2] == 3 else x[..., 0]
        toward = [0, gray.mean(), gray[..., None]][change]
        x = np.clip(factors[change] * x + (1 - factors[change]) * toward, 0, 255)
    return x


@pytest.mark.parametrize("channels", [1, 3])
def test_blends_in_every_order(channels):
    orders = np.array(list(itertools.permutations(range(3))))
    factors = RNG.uniform(0, 2, (N, 3)).astype(np.float32)
    images = IMAGES[..., :channels]
    found = jax.jit(blend_in_order)(jnp.float32(images), factors, jnp.asarray(orders))
    expected = [blended(*three) for three in zip(images, factors, orders, strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_color_jitter():
    images = jnp.asarray(np.repeat(IMAGES, 50, 0))
    jitter = jax.jit(color_jitter)
    same = jitter(KEY, images, (1.0, 1.0), (1.0, 1.0), (1.0, 1.0))
    assert np.array_equal(same, images)
    # Brightness alone: one factor per image, within its range.
    dark = np.asarray(jitter(KEY, jnp.float32(images), (0.6, 0.9), (1.0, 1.0), (1.0, 1.0)))
    for image, result in zip(np.asarray(images), dark, strict=True):
        factors = result[image > 0] / image[image > 0]
        assert factors.min() >= 0.6 - 1e-5 and factors.max() <= 0.9 + 1e-5
        assert np.ptp(factors) < 1e-4
    first = dark[:, 0, 0, 0] / np.asarray(images)[:, 0, 0, 0]
    assert len(np.unique(first.round(5))) > 200 and np.ptp(first) > 0.25
    # No saturation, no contrast.
    gray = np.asarray(jitter(KEY, images, (1.0, 1.0), (1.0, 1.0), (0.0, 0.0)))
    assert gray.dtype == np.uint8 and np.array_equal(gray[..., 0], gray[..., 2])
    flat = np.asarray(jitter(KEY, jnp.float32(images), (1.0, 1.0), (0.0, 0.0), (1.0, 1.0)))
    assert np.max(np.ptp(flat, (1, 2))) < 1e-2
    # All three: some order of the three explains each image.
    both = np.asarray(jitter(KEY, images))
    assert not np.array_equal(both, images) and np.array_equal(both, jitter(KEY, images))
    with pytest.raises(ValueError, match="1 or 3 channels, got 2"):
        color_jitter(KEY, images[..., :2])


def test_orders_are_drawn_for_each_image():
    images = jnp.full((3000, 1, 2, 3), 100.0).at[:, 0, 1].set(jnp.float32([0, 50, 250]))
    # With fixed factors an image's result depends on its order alone.
    found = np.asarray(jax.jit(color_jitter)(KEY, images, (1.5, 1.5), (0.5, 0.5), (2.0, 2.0)))
    possible = [
        blended(np.asarray(images[0]), (1.5, 0.5, 2.0), order)
        for order in itertools.permutations(range(3))
    ]
    near = [np.abs(found - each).max((1, 2, 3)) < 1e-2 for each in possible]
    assert np.all(np.any(near, 0))
    kinds = np.unique(np.stack(near, 1), axis=0, return_counts=True)[1]
    assert kinds.sum() == 3000 and kinds.min() > 400


def test_lighting():
    values = np.array([0.2175, 0.0188, 0.0045])
    vectors = np.array(
        [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
    )
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(3), atol=2e-4)
    alpha = RNG.normal(size=(8, 3)).astype(np.float32)
    expected = [sum(255 * a[j] * values[j] * vectors[:, j] for j in range(3)) for a in alpha]
    np.testing.assert_allclose(lighting_colors(jnp.asarray(alpha)), expected, rtol=1e-5, atol=1e-4)

    images = jnp.full((4000, 2, 3, 3), 128.0)
    added = np.asarray(jax.jit(lighting)(KEY, images, 0.1)) - 128
    assert np.ptp(added, (1, 2)).max() == 0
    exact = 0.1 * 255 * np.sqrt((vectors**2) @ values**2)
    np.testing.assert_allclose(added[:, 0, 0].std(0), exact, rtol=0.05)
    np.testing.assert_allclose(added[:, 0, 0].mean(0), 0, atol=0.4)
    ends = np.full((100, 1, 1, 3), 255, np.uint8)
    ends[:50] = 0
    edge = np.asarray(jax.jit(lighting)(KEY, jnp.asarray(ends)))
    assert edge.dtype == np.uint8 and edge[:50].max() < 60 and edge[50:].min() > 195
    assert np.array_equal(jax.jit(lighting)(KEY, jnp.asarray(IMAGES), 0.0), IMAGES)
    with pytest.raises(ValueError, match="3 channels, got 1"):
        lighting(KEY, images[..., :1])


def test_strict_promotion_is_enough():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        images = jnp.asarray(IMAGES)
        for function in (
            lambda key, x: random_resized_crop(key, x, (4, 4)),
            lambda key, x: lighting(key, color_jitter(key, x)),
            lambda key, x: center_crop(random_crop(key, x, 2, size=(8, 8)), (3, 3)),
        ):
            assert jax.eval_shape(function, KEY, images).dtype == np.uint8
