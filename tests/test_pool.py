"""Max-pooling by tiles against Flax's own: values and gradients, ties and NaN included."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from binjax.layers import MaxPool

WINDOWS = [(2, 2), (3, 3), (2, 1), (1, 3), (1, 1)]


@functools.partial(jax.jit, static_argnums=0)
def both(pool, x, g):
    y, pull = jax.vjp(pool, x)
    return y, pull(g[:, : y.shape[1], : y.shape[2]])[0]


def flax_pool(window, strides=None):
    return lambda x: nnx.max_pool(x, window, strides=strides or window)


def compare(window, x, g):
    found, expected = both(MaxPool(window), x, g), both(flax_pool(window), x, g)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])
    assert [a.dtype for a in found] == [x.dtype, x.dtype]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("window", WINDOWS)
def test_many_ties(window, dtype):
    rng = np.random.default_rng(0)
    for size in ((6, 6), (7, 5), (9, 10)):
        x = jnp.asarray(rng.integers(-2, 3, (2, *size, 3)), dtype)
        compare(window, x, jnp.asarray(rng.normal(size=x.shape), dtype))


def test_a_window_of_more_places_than_a_byte_holds():
    x = np.random.default_rng(5).integers(-99, 99, (1, 35, 33, 2)).astype(np.float32)
    compare((17, 16), jnp.asarray(x), x)


def test_extremes():
    rng = np.random.default_rng(1)
    x = rng.choice(
        np.asarray([-1, -np.inf, np.inf, -3e38, 3e38, 1e-30, 0.0], np.float32), (3, 8, 8, 5)
    )
    g = rng.normal(size=x.shape).astype(np.float32)
    compare((2, 2), jnp.asarray(x), g)


def test_nan_wins():
    rng = np.random.default_rng(2)
    x = rng.integers(-2, 3, (2, 8, 9, 3)).astype(np.float32)
    x[rng.random(x.shape) < 0.1] = np.nan
    for window in ((2, 2), (3, 3)):
        y, gx = both(MaxPool(window), x, np.ones_like(x))
        high, wide = y.shape[1:3]
        tiles = x[:, : high * window[0], : wide * window[1]]
        tiles = tiles.reshape(2, high, window[0], wide, window[1], 3)
        np.testing.assert_array_equal(y, tiles.max((2, 4)))
        np.testing.assert_array_equal(np.isnan(y), np.isnan(tiles).any((2, 4)))
        assert float(gx.sum()) == y.size  # one place of each window gets the gradient
        picked = x[np.asarray(gx) == 1]
        assert np.isnan(picked).sum() == np.isnan(y).sum()


@pytest.mark.parametrize(("window", "strides"), [((3, 3), (2, 2)), ((2, 2), (1, 1))])
def test_overlapping_windows_are_those_of_flax(window, strides):
    rng = np.random.default_rng(3)
    x = rng.integers(-2, 3, (2, 7, 8, 3)).astype(np.float32)
    g = rng.integers(-3, 4, x.shape).astype(np.float32)
    found = both(MaxPool(window, strides), x, g)
    expected = both(flax_pool(window, strides), x, g)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


def test_strides_apart():
    x = jnp.arange(2 * 7 * 7 * 1, dtype=jnp.float32).reshape(2, 7, 7, 1)
    expected = nnx.max_pool(x, (2, 2), strides=(3, 3))
    np.testing.assert_array_equal(MaxPool((2, 2), (3, 3))(x), expected)


def test_under_vmap_and_in_a_network_that_is_too_small():
    x = jnp.asarray(np.random.default_rng(4).integers(-2, 3, (3, 2, 5, 4, 2)), jnp.float32)
    pool = MaxPool()
    together = jax.vmap(jax.grad(lambda x: jnp.sum(jnp.sin(pool(x)))))(x)
    for i in range(3):
        single = jax.grad(lambda x: jnp.sum(jnp.sin(pool(x))))(x[i])
        np.testing.assert_array_equal(together[i], single)
    assert pool(x[0, :, :1]).shape == (2, 0, 2, 2)


@pytest.mark.parametrize("window", [(0, 2), (2,), (2, 2, 2), (-1, 1)])
def test_refusals(window):
    with pytest.raises(ValueError, match=r"MaxPool window is .*; expected 2 positive integers"):
        MaxPool(window)
    with pytest.raises(ValueError, match=r"MaxPool strides is .*; expected 2 positive integers"):
        MaxPool((2, 2), window)
