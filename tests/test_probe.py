"""Gradient mismatch: the cosine between a network's gradient and that without signs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from runs import TINY, fit, metrics_lines, write_config

from binjax import config, metrics
from binjax.layers import BinaryConv, BinaryDense, RSign, Sequential
from binjax.layers.base import BinaryLayer
from binjax.ste import ste_sign
from binjax.train.probe import relaxed
from binjax.train.task import make_task

SHAPE = (3, 3, 1)


def load(**telemetry):
    model = {"kind": "mlp", "widths": [8], "input_dropout": 0.0, "hidden_dropout": 0.0}
    model |= {"first_layer": "float", "norm": {"kind": "batch", "eps": 1e-3}}
    table = {"batch_size": 6, "model": model, "loss": "cross_entropy", "telemetry": telemetry}
    return config.validate(table, "it")


def clamp(x):
    return jnp.clip(x, -1, 1)


def by_hand(params, x, labels, squash, first):
    def norm(y, own):
        centered = y - y.mean(0, keepdims=True)
        spread = jnp.sqrt(y.var(0, keepdims=True) + 1e-3)
        return centered / spread * own["scale"][None] + own["bias"][None]

    def loss(kernels):
        y = norm(first(x) @ squash(kernels[0]), params["norm1"])
        scores = norm(squash(y) @ squash(kernels[1]), params["norm2"])
        return -jnp.mean(jax.nn.log_softmax(scores)[jnp.arange(len(labels)), labels])

    return jax.grad(loss)([params["dense1"]["kernel"], params["dense2"]["kernel"]])


def test_against_gradients_by_hand():
    task = make_task(load(gradient_cosine=True), SHAPE, 10, 60)
    state = task.init()
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, *SHAPE), np.uint8)
    labels = rng.integers(0, 10, 6).astype(np.int32)
    x = task.preprocess(jnp.asarray(images)).reshape(6, -1)
    own = nnx.merge(task.graphdef, state.params, state.stats)
    first = (lambda x: x) if own.dense1.input_quantizer is None else ste_sign
    soft = first if own.dense1.input_quantizer is None else clamp
    hard = by_hand(state.params, x, labels, ste_sign, first)
    other = by_hand(state.params, x, labels, clamp, soft)
    found = task.probe(state, images, labels)
    assert list(found) == ["dense1", "dense2"]
    for cosine, a, b in zip(found.values(), hard, other, strict=True):
        expected = metrics.gradient_cosine(a, b)
        assert 0 < float(expected) < 0.999
        np.testing.assert_allclose(cosine, expected, rtol=1e-3)
    assert make_task(load(), SHAPE, 10, 60).probe is None


def test_what_is_relaxed():
    rngs = nnx.Rngs(0)
    model = Sequential(
        {
            "scaled": BinaryConv(3, 4, kernel_quantizer="magnitude_aware_sign", rngs=rngs),
            "levels": BinaryConv(4, 4, input_quantizer="dorefa", rngs=rngs),
            "learned": BinaryDense(4, 2, input_quantizer=RSign(4), rngs=rngs),
        }
    )
    soft = relaxed(model)
    own = {"/".join(map(str, p)): m for p, m in nnx.iter_modules(soft)}
    layers = {name: m for name, m in own.items() if isinstance(m, BinaryLayer)}
    assert all(layer.floats_because(train=True) for layer in layers.values())
    w = soft.scaled.kernel[...]
    scale = jnp.abs(w).mean((0, 1, 2), keepdims=True)
    np.testing.assert_allclose(soft.scaled.kernel_quantizer(w), clamp(w) * scale, rtol=1e-6)
    assert soft.levels.input_quantizer is model.levels.input_quantizer
    assert isinstance(soft.learned.input_quantizer, RSign)
    assert model.scaled.floats_because(train=True) is None  # the model itself is as it was


def test_a_run_tells(tmp_path):
    path = write_config(tmp_path, TINY)
    words = ["--telemetry.gradient_cosine", "true", "--epochs", "1"]
    fit(path, tmp_path / "run", *words)
    layers = metrics_lines(tmp_path / "run")[0]["layers"]
    assert all(-1 <= layers[name]["gradient_cosine"] <= 1 for name in ("dense1", "dense2"))
    with pytest.raises(config.ConfigError, match="gradient_cosin: unknown key"):
        load(gradient_cosin=True)
