"""Bop against plain numpy, and partitions of parameters among optimizers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from binjax import optim
from binjax.layers import BatchNorm, BinaryDense, BinaryWeight, Sequential, apply, split

RNG = np.random.default_rng(0)


def bop_numpy(w, gradients, tau, gamma):
    """Helwegen et al. 2019, algorithm 1, with Larq's ties: sign(-sign(wm - tau) w), sign(0) = 1."""
    m = np.zeros_like(w)
    trace = []
    for t, g in enumerate(gradients):
        rate, bound = (np.float32(v(t) if callable(v) else v) for v in (gamma, tau))
        m = m + rate * (g - m)
        inner = -np.sign(w * m - bound) * w
        w = np.where(inner >= 0, np.float32(1), np.float32(-1))
        trace.append(w)
    return np.stack(trace)


def run(tx, w, gradients):
    state, trace = tx.init(w), []
    update = jax.jit(tx.update)
    for g in gradients:
        steps, state = update(g, state, w)
        w = optax.apply_updates(w, steps)
        trace.append(np.asarray(w))
    return np.stack(trace)


def signs(*shape):
    return RNG.choice(np.float32([-1, 1]), shape)


@pytest.mark.parametrize("scheduled", [False, True])
def test_bop(scheduled):
    gradients = RNG.normal(0, 1e-3, (30, 50)).astype(np.float32)
    gradients[:, :3] = 0
    tau, gamma = 1e-5, 0.01
    if scheduled:
        tau = lambda t: 1e-5 * 0.9**t  # noqa: E731
        gamma = lambda t: 0.1 / (1 + t)  # noqa: E731
    w = signs(50)
    found = run(optim.bop(tau, gamma), jnp.asarray(w), gradients)
    expected = bop_numpy(w, gradients, tau, gamma)
    assert np.mean(found != expected) < 1e-3  # a rounded average may stand at the threshold
    assert np.mean(found[-1] != w) > 0.1
    np.testing.assert_array_equal(np.abs(found), 1)


def test_ties_and_the_first_step():
    # m = gamma g after the first step; w m == tau turns to +1, with tau = 0 also where g = 0.
    w = jnp.asarray([1.0, -1.0, 1.0, -1.0, 1.0])
    g = jnp.asarray([0.5, -0.5, 1.0, -1.0, 0.25])
    np.testing.assert_array_equal(run(optim.bop(0.25, 0.5), w, [g])[0], [1, 1, -1, 1, 1])
    zero = run(optim.bop(0.0, 0.5), w, [jnp.zeros(5)])[0]
    np.testing.assert_array_equal(zero, np.ones(5))


@pytest.mark.parametrize("unbiased", [False, True])
def test_second_order(unbiased):
    gradients = RNG.normal(0, 1e-2, (20, 40)).astype(np.float32)
    w = signs(40)
    tau, gamma, sigma, eps = 0.05, 0.1, 0.2, 1e-8
    m, v, expected = np.zeros(40), np.zeros(40), w.astype(np.float64)
    tx = optim.second_order_bop(tau, gamma, sigma, eps, unbiased)
    found = run(tx, jnp.asarray(w), gradients)
    for t, g in enumerate(gradients.astype(np.float64), start=1):
        m, v = m + gamma * (g - m), v + sigma * (g**2 - v)
        first, second = (1 - (1 - gamma) ** t, 1 - (1 - sigma) ** t) if unbiased else (1, 1)
        along = (m / first) / (np.sqrt(v / second) + eps)
        expected = np.where(-np.sign(expected * along - tau) * expected >= 0, 1.0, -1.0)
        np.testing.assert_array_equal(found[t - 1], expected)


def test_latent_weights_become_signs():
    w = jnp.asarray([0.3, -0.2, 0.0])
    params = optim.binarize_params({"a": w, "b": w}, {"a": True, "b": False})
    np.testing.assert_array_equal(params["a"], [1, -1, 1])
    np.testing.assert_array_equal(params["b"], w)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: optim.bop(gamma=0.0), "gamma is 0.0"),
        (lambda: optim.bop(threshold=-1.0), "threshold is -1.0"),
        (lambda: optim.second_order_bop(sigma=2.0), "sigma is 2.0"),
        (lambda: optim.second_order_bop(eps=0.0), "eps is 0.0"),
        (lambda: optim.piecewise([0, 5, 5], [1, 2, 3]), "must ascend from 0"),
        (lambda: optim.piecewise([1], [1]), "must ascend from 0"),
        (lambda: optim.piecewise([0, 5], [1]), "one for each of 1 values"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()
    with pytest.raises(ValueError, match="bop needs the parameters"):
        optim.bop().update(jnp.ones(2), optim.bop().init(jnp.ones(2)))


def test_piecewise():
    schedule = jax.jit(optim.piecewise([0, 3, 10], [1.0, 0.5, 0.25]))
    found = [float(schedule(i)) for i in (0, 2, 3, 9, 10, 10**6)]
    assert found == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]


def model():
    rngs = nnx.Rngs(0)
    layers = {"dense": BinaryDense(8, 4, use_bias=True, rngs=rngs), "norm": BatchNorm(4)}
    return Sequential(layers)


def test_partition_trains_each_part_by_its_own_rule():
    net = model()
    tx = optim.partition(net, {"binary": (BinaryWeight, optim.bop(0.0, 1.0))}, optax.sgd(0.5))
    graphdef, params, stats = split(net)
    params = optim.binarize_params(params, optim.variable_mask(net, BinaryWeight))
    x = jnp.asarray(RNG.normal(size=(5, 8)), jnp.float32)

    def loss(params):
        return jnp.sum(jnp.sin(apply(graphdef, params, stats, x, train=True)[0]))

    gradients = jax.grad(loss)(params)
    steps, _ = tx.update(gradients, tx.init(params), params)
    new = optax.apply_updates(params, steps)
    np.testing.assert_array_equal(jnp.abs(new["dense"]["kernel"]), 1)
    np.testing.assert_allclose(
        new["norm"]["bias"], params["norm"]["bias"] - 0.5 * gradients["norm"]["bias"]
    )


def test_partition_refuses():
    sgd = optax.sgd(0.1)
    by_path = lambda name, variable: name.startswith("dense")  # noqa: E731
    with pytest.raises(ValueError, match="dense/kernel is claimed by one and two"):
        optim.partition(model(), {"one": (BinaryWeight, sgd), "two": (by_path, sgd)}, sgd)
    with pytest.raises(ValueError, match="nobody claims dense/bias; give a default"):
        optim.partition(model(), {"one": (BinaryWeight, sgd)})
    with pytest.raises(ValueError, match="none claims no parameter"):
        optim.partition(model(), {"none": (lambda name, variable: False, sgd)}, sgd)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (("dense", optim.bop()), "case 'a' is claimed for 'dense'; give a variable type"),
        ((BinaryDense, optim.bop()), "case 'a' is claimed for <class .*BinaryDense'>; give"),
        (optim.bop(), "case 'a' is of type GradientTransformation; give a pair"),
        ((BinaryWeight,), "case 'a' is of type tuple; give a pair"),
        ((BinaryWeight, 0.1), "the optimizer of case 'a' is of type float; give an optax"),
    ],
)
def test_partition_names_what_is_no_case(case, message):
    with pytest.raises(TypeError, match=message):
        optim.partition(model(), {"a": case}, optax.sgd(0.1))
