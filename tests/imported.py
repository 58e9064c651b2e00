"""What the tests of imported weights share: images, references in float64, comparisons."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from binjax import deploy
from binjax.deploy import DeployError
from binjax.layers import capture
from binjax.models import cifar10_convnet

IMAGE = (8, 12, 3)  # not square: a flattening in the wrong order would pass unseen
MARGIN = 1e-4
INVERSE = {"kind": "batch", "running": "inverse_std"}


def images(shape=IMAGE, n=24):
    return np.random.default_rng(7).integers(0, 256, (n, *shape)).astype(np.uint8)


def scaled(pixels):
    return 2.0 * pixels / 255 - 1


def pooled(x, axes):
    """Maxima of 2x2 windows over two axes."""
    for axis in axes:
        x = np.maximum(
            x.take(range(0, x.shape[axis], 2), axis), x.take(range(1, x.shape[axis], 2), axis)
        )
    return x


def signs(x):
    """Of preactivations, which have to be clear."""
    assert np.abs(x).min() > MARGIN
    return np.where(x >= 0, 1.0, -1.0)


def check(model, x, sums, scores):
    """Sums of signs exactly, scores but for rounding; and again packed."""
    found = {name: rows["output"] for name, rows in capture(model, jnp.asarray(x)).items()}
    assert list(found) == list(sums)
    for i, (name, expected) in enumerate(sums.items()):
        if i:
            np.testing.assert_array_equal(found[name], expected, err_msg=name)
        else:  # pixels: integers over 255
            np.testing.assert_allclose(found[name], expected, atol=1e-5, err_msg=name)
    packed = np.asarray(deploy.pack(model, x.shape[1:])(x))
    for ours in (np.asarray(model(jnp.asarray(x))), packed):
        np.testing.assert_allclose(ours, scores, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(ours.argmax(1), scores.argmax(1))
    assert len(set(scores.argmax(1))) > 1
    assert all(leaf.dtype == jnp.float32 for leaf in leaves(model))


def leaves(model):
    return [variable[...] for _, variable in nnx.to_flat_state(nnx.state(model))]


def fails(load, model, path, *parts):
    with pytest.raises(DeployError) as caught:
        load(model, path)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message


# BinaryNet


def convnet(**options):
    options = {"channels": (4,), "widths": (9,), "norm": INVERSE, "pixels": True} | options
    return cifar10_convnet(IMAGE, 5, rngs=nnx.Rngs(0), **options)


def nonfinite(array, value):
    broken = array.copy()
    broken.flat[2] = value
    return broken
