"""First layers that take pixels of other scalings, or drop some of them in training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from binary_reference import each_backend
from flax import nnx
from runs import write_config

from binjax import config, train
from binjax.data.augment import normalize, scale_to_unit
from binjax.layers import UNIT, BinaryConv, BinaryDense, PixelScale, apply
from binjax.xnor import pixel_scale
from binjax.xnor.pixels import make_matrix_product
from binjax.xnor.product import multiply

pytestmark = pytest.mark.filterwarnings("ignore::binjax.xnor.SlowerBackendWarning")
SCALE = PixelScale.standard(33.318, 78.567)


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def test_what_pixels_stand_for():
    x = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(UNIT.inputs(x), scale_to_unit(x))
    scaled = np.asarray(SCALE.inputs(x), np.float64)
    np.testing.assert_allclose(scaled, (x - 33.318) / 78.567, rtol=1e-6, atol=1e-7)
    same = normalize(x.reshape(1, 1, -1, 1), 33.318, 78.567).reshape(-1)
    np.testing.assert_allclose(SCALE.inputs(x), same, rtol=1e-6, atol=1e-6)


@each_backend()
def test_products_are_exact_but_for_two_roundings(backend):
    x, rng = pixels(40, 300), np.random.default_rng(1)
    w = rng.normal(size=(300, 21)).astype(np.float32)
    product = make_matrix_product(
        jnp.asarray(w), ste=True, dtype=jnp.float32, backend=backend, scale=SCALE
    )
    signs = np.where(w >= 0, 1, -1)
    dot = (2 * x.astype(np.int64) - 255) @ signs
    scaled = dot.astype(np.float32) * np.float32(SCALE.scale)
    wanted = scaled + (signs.sum(0)).astype(np.float32) * np.float32(SCALE.shift)
    found = jax.jit(lambda x, w: multiply(product, x, w))(x, w)
    np.testing.assert_array_equal(found, wanted)
    real = ((x - 33.318) / 78.567) @ signs
    np.testing.assert_allclose(found, real, rtol=1e-4, atol=1e-3)


def test_gradients():
    x, rng = pixels(16, 30), np.random.default_rng(2)
    w = (1.2 * rng.normal(size=(30, 5))).astype(np.float32)
    g = rng.normal(size=(16, 5)).astype(np.float32)
    product = make_matrix_product(
        jnp.asarray(w), ste=True, dtype=jnp.float32, backend=None, scale=SCALE
    )
    found = jax.grad(lambda w: jnp.sum(multiply(product, jnp.asarray(x), w) * g))(jnp.asarray(w))
    wanted = ((x - 33.318) / 78.567).T @ g.astype(np.float64) * (np.abs(w) <= 1)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_the_float_path_agrees():
    make = {"n_in": 60, "n_out": 9, "rngs": nnx.Rngs(3)}
    own = BinaryDense(pixels=SCALE, **make)
    other = BinaryDense(input_quantizer=None, **make)
    other.kernel[...] = own.kernel[...]
    x = pixels(8, 60)
    np.testing.assert_allclose(own(x), other(SCALE.inputs(x)), rtol=1e-4, atol=1e-4)


def test_dropout_takes_floats_in_training_only():
    make = {"n_in": 200, "n_out": 7, "dropout": 0.25}
    layer = BinaryDense(pixels=True, rngs=nnx.Rngs(4), **make)
    floats = BinaryDense(input_quantizer=None, rngs=nnx.Rngs(4), **make)
    whole = BinaryDense(200, 7, pixels=True, rngs=nnx.Rngs(4))
    x, key = pixels(30, 200), jax.random.key(5)
    np.testing.assert_array_equal(layer(x), whole(x))
    dropped = layer(x, train=True, key=key)
    np.testing.assert_array_equal(dropped, floats(scale_to_unit(x), train=True, key=key))
    assert (np.asarray(dropped) != np.asarray(whole(x))).mean() > 0.9
    assert layer.floats_because(train=True) == "dropout 0.25 makes zeros of pixels"
    assert layer.floats_because(train=False) is None
    with pytest.raises(ValueError, match="dropout needs key"):
        layer(x, train=True)
    with pytest.raises(ValueError, match=r"'xla' multiplies bits, but dropout 0.25 makes zeros"):
        BinaryDense(200, 7, pixels=True, dropout=0.25, backend="xla", rngs=nnx.Rngs(4))


def test_convolutions_know_one_scale():
    with pytest.raises(ValueError, match=r"pixels scaled to \[-1, 1\] only"):
        BinaryConv(3, 4, pixels=SCALE, rngs=nnx.Rngs(0))
    assert BinaryConv(3, 4, pixels=UNIT, rngs=nnx.Rngs(0)).pixels == UNIT


@pytest.mark.parametrize(
    ("words", "scale"),
    [
        ([], UNIT),
        (["--model.input-dropout", "0.2"], UNIT),
        (
            [
                "--data.scaling.kind",
                "standard",
                "--data.scaling.mean",
                "[33.318]",
                "--data.scaling.std",
                "[78.567]",
            ],
            SCALE,
        ),
        (["--model.first-layer", "float"], None),
    ],
)
def test_evaluation_from_a_config(words, scale, tmp_path):
    text = '[model]\nkind = "mlp"\nwidths = [8]\ninput_dropout = 0.0\nhidden_dropout = 0.0\n'
    task = train.make_task(config.load(write_config(tmp_path, text), words), (4, 4, 1), 10, 200)
    images = pixels(6, 4, 4, 1)
    state = task.init()
    scores, _ = apply(
        task.graphdef, state.params, state.stats, task.preprocess(images), train=False
    )
    model = nnx.merge(task.graphdef, state.params, state.stats)
    assert model.dense1.pixels == scale
    assert task.preprocess(images).dtype == (jnp.float32 if scale is None else jnp.uint8)
    kernel = jnp.where(state.params["dense1"]["kernel"] >= 0, 1.0, -1.0)
    inputs = (scale or UNIT).inputs(images).reshape(6, 16)
    bias = state.params["dense1"]["bias"]
    first = model.dense1(images.reshape(6, 16) if scale else inputs)
    np.testing.assert_allclose(first, inputs @ kernel + bias[None], rtol=1e-5, atol=1e-4)
    assert np.isfinite(scores).all()


def test_a_step_with_input_dropout_learns_from_pixels(tmp_path):
    text = '[model]\nkind = "mlp"\nwidths = [8]\ninput_dropout = 0.3\nhidden_dropout = 0.0\n'
    loaded = config.load(write_config(tmp_path, text), ["--batch-size", "20"])
    state, step = train.setup(loaded, n_train=200)
    before = np.asarray(state.params["dense1"]["kernel"])
    losses = []
    for i in range(5):
        labels = np.arange(20) % 10
        state, metrics = step(state, pixels(20, 28, 28, 1, seed=i), labels.astype(np.int32))
        losses.append(float(metrics["loss"]))
    assert np.isfinite(losses).all()
    assert (np.asarray(state.params["dense1"]["kernel"]) != before).mean() > 0.5


def test_scaled_is_rounded_alone():
    dot = jnp.arange(-50_001, 50_001, 2, dtype=jnp.int32)
    mean = jnp.float32(0.3137)
    found = jax.jit(lambda d: pixel_scale.scaled(d) - mean)(dot)
    wanted = np.asarray(dot).astype(np.float32) * np.float32(1 / 255) - np.float32(0.3137)
    np.testing.assert_array_equal(found, wanted)
