"""Two tiny networks trained for five steps: our layers, losses and optimizers against numpy.

The numpy side is written out by hand in ``reference.py``, forward and backward. In float64 every
number must agree; in float32 all but those that are rounding noise by nature (a bias in front of
batch normalization has a zero gradient, and Adam blows its noise up).
"""

from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from flax import nnx

from binjax import losses, optim
from binjax.layers import BatchNorm, BinaryDense, BinaryWeight, Sequential, ShiftBatchNorm

SIZES = (7, 6, 5, 3)
BATCH = 16
STEPS = 5


def start(with_bias: bool) -> list[reference.Tree]:
    """Layers with nothing at a special value: no beta of 0 that a rounding could sign."""
    rng = np.random.default_rng(3)
    layers = []
    for n_in, n_out in pairwise(SIZES):
        layer = {
            "kernel": rng.uniform(-0.99, 0.99, (n_in, n_out)),
            "gamma": rng.uniform(0.6, 1.9, n_out) * rng.choice([-1, 1], n_out),
            "beta": rng.uniform(0.1, 0.4, n_out) * rng.choice([-1, 1], n_out),
            "mean": np.zeros(n_out),
            "inverse_std": np.ones(n_out),
            "variance": np.ones(n_out),
        }
        layer["kernel"][0] = 0.999 * np.sign(layer["kernel"][0])  # some will be clipped
        if with_bias:
            layer["bias"] = rng.uniform(-0.5, 0.5, n_out)
        layers.append(layer)
    return layers


def data() -> list[tuple[np.ndarray, np.ndarray]]:
    """Batches of (inputs, ±1 targets)."""
    rng = np.random.default_rng(4)
    batches = []
    for _ in range(STEPS):
        x = rng.normal(size=(BATCH, SIZES[0]))
        batches.append((x, reference.one_vs_rest(rng.integers(0, SIZES[-1], BATCH), SIZES[-1])))
    return batches


def layer_key(step: Any, layer: int) -> jax.Array:
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(5), step), layer)


def noise_of(step: int, dtype: Any) -> list[np.ndarray]:
    """What the hidden layers compare with: a layer draws its signs from ``fold_in(key, 0)``."""
    keys = [jax.random.fold_in(layer_key(step, n), 0) for n in range(1, len(SIZES) - 1)]
    shapes = [(BATCH, n) for n in SIZES[1:-1]]
    draws = (
        jax.random.uniform(*args, dtype, minval=-1, maxval=1)
        for args in zip(keys, shapes, strict=True)
    )
    return [np.asarray(draw, np.float64) for draw in draws]


def filled(
    dense: BinaryDense, norm: BatchNorm | ShiftBatchNorm, layer: reference.Tree
) -> tuple[BinaryDense, BatchNorm | ShiftBatchNorm]:
    pairs = [(dense.kernel, "kernel"), (norm.scale, "gamma"), (norm.bias, "beta")]
    pairs += [(dense.bias, "bias")] if dense.bias is not None else []
    for variable, name in pairs:
        variable[...] = jnp.asarray(layer[name], variable[...].dtype)
    return dense, norm


def named(model: Sequential, params: Any, stats: Any) -> list[reference.Tree]:
    """Our state under the reference's names."""
    layers = []
    for n in range(len(SIZES) - 1):
        dense, norm, moving = params[f"dense{n}"], params[f"norm{n}"], stats[f"norm{n}"]
        layer = {**dense, "gamma": norm["scale"], "beta": norm["bias"], **moving}
        if "spread" in layer:
            layer[getattr(model, f"norm{n}").running] = layer.pop("spread")
        layers.append(layer)
    return layers


def train(
    model: Sequential, tx: optax.GradientTransformation, stochastic: bool = False
) -> reference.Trained:
    """As ``binjax.train`` does it, with keys of its own."""
    graphdef, params, stats = nnx.split(model, nnx.Param, ...)
    params, stats = nnx.to_pure_dict(params), nnx.to_pure_dict(stats)

    def scores(params: Any, stats: Any, x: jax.Array, train: bool, t: Any) -> Any:
        model = nnx.merge(graphdef, params, stats)
        for n in range(len(SIZES) - 1):
            key = layer_key(t, n) if train and stochastic else None
            x = getattr(model, f"dense{n}")(x, train=train, key=key)
            x = getattr(model, f"norm{n}")(x, train=train)
        return x, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))

    def loss(params: Any, stats: Any, x: Any, targets: Any, t: Any) -> Any:
        y, stats = scores(params, stats, x, True, t)
        return losses.squared_hinge(y, targets), stats

    @jax.jit
    def step(params: Any, stats: Any, opt_state: Any, x: Any, targets: Any, t: Any) -> Any:
        gradient = jax.value_and_grad(loss, has_aux=True)
        (value, stats), grads = gradient(params, stats, x, targets, t)
        updates, opt_state = tx.update(grads, opt_state, params)
        return value, optax.apply_updates(params, updates), stats, opt_state

    dtype = params["dense0"]["kernel"].dtype
    opt_state, values = tx.init(params), []
    batches = data()
    for t, batch in enumerate(batches):
        x, targets = (jnp.asarray(a, dtype) for a in batch)
        value, params, stats, opt_state = step(params, stats, opt_state, x, targets, t)
        values.append(float(value))
    evaluate = jax.jit(lambda params, stats, x: scores(params, stats, x, False, None)[0])
    evaluated = evaluate(params, stats, jnp.asarray(batches[0][0], dtype))
    return reference.Trained(values, named(model, params, stats), np.asarray(evaluated))


def compare(
    ours: reference.Trained, theirs: reference.Trained, tolerance: float, noisy: bool = False
) -> None:
    """Losses and all variables; those that hold the noise of a bias only unless it is noisy."""
    np.testing.assert_allclose(ours.losses, theirs.losses, rtol=tolerance)
    for n, (got, expected) in enumerate(zip(ours.layers, theirs.layers, strict=True)):
        assert set(got) <= set(expected)
        for name in set(got) - ({"bias", "mean"} if noisy else set()):
            message = f"{name} of layer {n}"
            np.testing.assert_allclose(
                got[name], expected[name], rtol=tolerance, atol=tolerance, err_msg=message
            )
    if not noisy:
        close = {"rtol": tolerance, "atol": tolerance}
        np.testing.assert_allclose(ours.evaluated, theirs.evaluated, **close)


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> Any:
    if request.param == "float64":
        request.getfixturevalue("x64")
    return jnp.dtype(request.param)


def test_theano_network(dtype: Any) -> None:
    initial, batches = start(with_bias=True), data()
    layers: dict[str, nnx.Module] = {}
    for n, layer in enumerate(initial):
        n_in, n_out = layer["kernel"].shape
        first = None if n == 0 else "ste_sign"
        options = {"input_quantizer": first, "use_bias": True, "param_dtype": dtype}
        dense = BinaryDense(n_in, n_out, **options, rngs=nnx.Rngs(0))
        norm = BatchNorm(n_out, running="inverse_std", param_dtype=dtype)
        layers[f"dense{n}"], layers[f"norm{n}"] = filled(dense, norm, layer)
    model = Sequential(layers)
    mask = optim.variable_mask(model, BinaryWeight)
    tx = optax.chain(optax.adam(0.003), optim.scale_by_glorot(mask), optim.clip_latent(mask=mask))
    theirs = reference.train_theano_net(initial, batches, lr=0.003)
    # Not closer in float64: optax scales Adam's eps by sqrt(1 - b2^t), Lasagne does not. In
    # float32 the bias drifts by noise, the running mean follows it late, and evaluation shows it.
    compare(train(model, tx), theirs, 1e-5, noisy=dtype == jnp.float32)
    moved = [a["kernel"] - b["kernel"] for a, b in zip(theirs.layers, initial, strict=True)]
    assert all(np.abs(m).max() > 0.01 for m in moved)  # the Glorot scale is in


@pytest.mark.parametrize(
    ("stochastic", "power_of_two"),
    [(False, False), (True, True)],
    ids=["deterministic", "stochastic, scale a power of two"],
)
def test_torch_network(dtype: Any, stochastic: bool, power_of_two: bool) -> None:
    initial, batches = start(with_bias=False), data()
    layers: dict[str, nnx.Module] = {}
    for n, layer in enumerate(initial):
        n_in, n_out = layer["kernel"].shape
        hidden = "stochastic_sign" if stochastic else "ste_sign"
        options = {"input_quantizer": None if n == 0 else hidden, "param_dtype": dtype}
        dense = BinaryDense(n_in, n_out, **options, rngs=nnx.Rngs(0))
        if n == len(initial) - 1:
            norm: Any = BatchNorm(n_out, eps=1e-5, param_dtype=dtype)
        else:
            norm = ShiftBatchNorm(n_out, param_dtype=dtype)
        layers[f"dense{n}"], layers[f"norm{n}"] = filled(dense, norm, layer)
    model = Sequential(layers)
    mask = optim.variable_mask(model, BinaryWeight)
    tx = optax.chain(
        optim.shift_adamax(2**-6, 0.9, 0.999, variant="torch"),
        optim.scale_by_glorot(mask, power_of_two=power_of_two),
        optim.clip_latent(mask=mask),
    )
    noises = [noise_of(t, dtype) for t in range(STEPS)] if stochastic else None
    theirs = reference.train_torch_net(initial, batches, noises, power_of_two=power_of_two)
    compare(train(model, tx, stochastic), theirs, 1e-5 if dtype == jnp.float32 else 1e-11)
    assert any((np.abs(layer["kernel"]) == 1).any() for layer in theirs.layers)  # clipping is in
