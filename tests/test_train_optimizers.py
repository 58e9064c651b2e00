"""Optimizers and schedules by config: Bop, weight decay, clipping, regimes by epoch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from runs import TINY, Recorder, fit, network, write_config

from binjax import config
from binjax.config import ConfigError
from binjax.layers import BinaryDense, Sequential, split
from binjax.train.optimizer import (
    free_weights_warning,
    make_optimizer,
    make_schedule,
)
from binjax.train.selection import select
from binjax.train.task import make_task, setup

SHAPE = (6, 6, 1)
LONG = {"kind": "cosine", "warmup_epochs": 10}


def load(optimizer, **more):
    model = {"kind": "mlp", "widths": [8], "input_dropout": 0.0, "hidden_dropout": 0.0}
    table = {"epochs": 10, "batch_size": 4, "model": model, "optimizer": optimizer, **more}
    return config.validate(table, "it")


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("others", ["adam", "sgd"])
def test_bop_flips_and_the_others_learn(order, others):
    options = {"kind": "bop", "threshold": 0.0, "gamma": 0.5, "order": order}
    options["others"] = {"kind": others, "learning_rate": 0.01, "weight_decay": 0.1}
    task = make_task(load(options), SHAPE, 10, 40)
    state = task.init()
    before = jax.tree.map(np.array, state.params)
    np.testing.assert_array_equal(np.abs(before["dense1"]["kernel"]), 1)
    rng = np.random.default_rng(0)
    for _ in range(2):
        images = rng.integers(0, 256, (4, *SHAPE), np.uint8)
        state, metrics = task.step(state, images, np.arange(4, dtype=np.int32))
    assert task.step._cache_size() == 1
    for name in ("dense1", "dense2"):
        kernel = np.asarray(state.params[name]["kernel"])
        np.testing.assert_array_equal(np.abs(kernel), 1)
        assert 0 < np.mean(kernel != before[name]["kernel"]) < 1
    assert np.any(state.params["norm2"]["bias"] != before["norm2"]["bias"])
    assert int(metrics["failed_step"]) < 0


def test_two_rules():
    """QuickNet's recipe: Adam for latent weights, SGD for all others; clipping of the former."""
    others = {"kind": "sgd", "learning_rate": 2.0, "momentum": 0.0}
    options = {"kind": "adam", "learning_rate": 0.25, "clip": 0.5, "others": others}
    net = network()
    tx = make_optimizer(load(options).optimizer, net, 1, 1)
    _, params, _ = split(net)
    params["dense"]["kernel"] = params["dense"]["kernel"].at[0, 0].set(0.45).at[0, 1].set(-0.45)
    ones = jax.tree.map(lambda p: -jnp.full_like(p, 3.0), params)
    steps, _ = tx.update(ones, tx.init(params), params)
    for layer, name in (("stem", "kernel"), ("dense", "bias"), ("norm", "scale"), ("norm", "bias")):
        np.testing.assert_allclose(steps[layer][name], 6.0)
    kernel = params["dense"]["kernel"]
    moved = np.clip(np.asarray(kernel) + 0.25, -0.5, 0.5) - np.asarray(kernel)
    np.testing.assert_allclose(steps["dense"]["kernel"], moved, atol=1e-5)


@pytest.mark.parametrize(
    ("quantizer", "latent"),
    [
        ("ste_sign", True),
        ("ste_tern", True),
        ({"kind": "absmax", "per": "channel"}, False),
        ({"kind": "dorefa", "k_bit": 4, "mode": "weights"}, False),
    ],
    ids=str,
)
def test_kernels_of_more_levels_are_not_flipped(quantizer, latent):
    task = make_task(
        load({"kind": "bop"}, model={"kind": "mlp", "widths": [8], "kernel_quantizer": quantizer}),
        SHAPE,
        10,
        40,
    )
    state = jax.eval_shape(task.init)
    assert ("dense1" in state.start_signs) == latent
    kernel = task.init().params["dense1"]["kernel"]
    assert bool(jnp.all(jnp.abs(kernel) == 1)) == latent


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        ("all", {"stem": [1], "dense": [1, 1], "norm": [1, 1]}),
        ("kernels", {"stem": [1], "dense": [0, 1], "norm": [0, 0]}),
        ("real", {"stem": [1], "dense": [0, 0], "norm": [0, 0]}),
        ("binary", {"stem": [0], "dense": [0, 1], "norm": [0, 0]}),
    ],
)
def test_what_decays(which, expected):
    found = select("decay_on", (which,), network())  # dense: bias, kernel; norm: bias, scale
    assert {name: jax.tree.leaves(flags) for name, flags in found.items()} == expected


@pytest.mark.parametrize("kind", ["adam", "adamw", "sgd"])
def test_weight_decay(kind):
    net = network()
    options = {"kind": kind, "learning_rate": 0.1, "weight_decay": 0.01, "clip": 0.0}
    if kind == "adamw":
        options |= {"kind": "adam", "decay": "decoupled"}
    if kind == "sgd":
        options["nesterov"] = True
    tx = make_optimizer(load(options).optimizer, net, 1, 1)
    _, params, _ = split(net)
    zeros = jax.tree.map(jnp.zeros_like, params)
    steps, _ = tx.update(zeros, tx.init(params), params)
    kernel = params["stem"]["kernel"]
    if kind == "adamw":
        expected = -0.1 * 0.01 * kernel
    elif kind == "adam":  # the decay goes through the moments: a step of the learning rate
        expected = -0.1 * jnp.sign(kernel)
    else:
        expected = -0.1 * 0.01 * kernel * 1.9
    np.testing.assert_allclose(steps["stem"]["kernel"], expected, rtol=1e-3, atol=1e-7)
    np.testing.assert_array_equal(steps["norm"]["scale"], 0)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({"kind": "step", "every_epochs": 3, "factor": 0.5}, {0: 1, 29: 1, 30: 0.5, 60: 0.25}),
        (
            {"kind": "piecewise", "epochs": [0, 2, 5], "rates": [0.5, 0.25, 0.125]},
            {0: 0.5, 19: 0.5, 20: 0.25, 49: 0.25, 50: 0.125, 99: 0.125},
        ),
        (
            {"kind": "piecewise", "epochs": [0, 5], "rates": [1.0, 0.5], "warmup_epochs": 2},
            {0: 0, 10: 0.5, 20: 1, 49: 1, 50: 0.5},
        ),
        ({"kind": "constant", "warmup_epochs": 4}, {0: 0, 10: 0.25, 40: 1, 99: 1}),
        ({"kind": "linear"}, {0: 1, 50: 0.5, 100: 0}),
        ({"kind": "linear", "warmup_epochs": 2}, {0: 0, 10: 0.5, 20: 1, 60: 0.5, 100: 0}),
        ({"kind": "cosine", "warmup_epochs": 2}, {0: 0, 10: 0.5, 20: 1, 60: 0.5, 100: 0}),
    ],
    ids=str,
)
def test_schedules(schedule, expected):
    options = load({"kind": "sgd", "learning_rate": 1.0, "schedule": schedule}).optimizer
    rate = make_schedule(options, 10, 10)
    found = {step: float(rate(step)) for step in expected}
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({"kind": "piecewise", "epochs": [0, 0], "rates": [1.0, 2.0]}, "must ascend from 0"),
        ({"kind": "piecewise", "epochs": [0], "rates": [1.0, 2.0]}, "one for each of 2 rates"),
        ({"kind": "cosine", "warmup_epochs": 10}, "warmup_epochs: 10 leave nothing of 10 epochs"),
    ],
)
def test_schedules_that_make_no_sense(schedule, message):
    options = load({"kind": "sgd", "schedule": schedule}).optimizer
    with pytest.raises(ConfigError, match=message):
        make_schedule(options, 10, 10)


@pytest.mark.parametrize(
    ("optimizer", "key"),
    [
        (
            {"kind": "adam", "others": {"kind": "sgd", "schedule": LONG}},
            "optimizer.others.schedule.warmup",
        ),
        (
            {"kind": "bop", "others": {"kind": "sgd", "schedule": LONG}},
            "optimizer.others.schedule.warmup",
        ),
        ({"kind": "bop", "gamma_schedule": LONG}, "optimizer.gamma_schedule.warmup"),
        ({"kind": "bop", "threshold_schedule": LONG}, "optimizer.threshold_schedule.warmup"),
        (
            {"kind": "sgd", "cases": [{"kind": "sgd", "match": "norm/*", "schedule": LONG}]},
            "optimizer.cases.0.schedule.warmup",
        ),
    ],
)
def test_mistakes_name_their_schedule(optimizer, key):
    loaded = load(optimizer)
    with pytest.raises(ConfigError, match=key):
        make_optimizer(loaded.optimizer, network(), 10, 10)
    quick = config.fast(loaded)
    make_optimizer(quick.optimizer, network(), quick.epochs, 8)


def test_weights_that_nothing_clips(tmp_path):
    options = load({"kind": "adam", "clip": 0.0}).optimizer
    warning = free_weights_warning(options, network())
    assert warning is not None
    assert warning.startswith("dense: the kernel quantizer ste_sign passes no gradient")
    assert "optimizer.clip = 1" in warning and "\n" not in warning
    assert free_weights_warning(load({"kind": "adam"}).optimizer, network()) is None
    wide = load({"kind": "adam", "clip": 1.25}).optimizer
    assert "where optimizer.clip = 1.25 lets them" in str(free_weights_warning(wide, network()))
    reaching = {"kind": "ste_sign", "clip_value": 1.25}
    as_far = Sequential({"dense": BinaryDense(4, 2, kernel_quantizer=reaching, rngs=nnx.Rngs(0))})
    assert free_weights_warning(wide, as_far) is None
    assert free_weights_warning(load({"kind": "bop"}).optimizer, network()) is None
    free = BinaryDense(
        4, 2, kernel_quantizer={"kind": "ste_sign", "clip_value": "none"}, rngs=nnx.Rngs(0)
    )
    assert free_weights_warning(options, Sequential({"dense": free})) is None
    ternary = BinaryDense(4, 2, kernel_quantizer="ste_tern", rngs=nnx.Rngs(0))
    assert "ste_tern passes no" in str(
        free_weights_warning(options, Sequential({"dense": ternary}))
    )

    starving = [{"kind": "scaled_sign", "scale": "learned"}, {"kind": "ste_sign", "clip_value": 9}]
    reached = [{"kind": "scaled_sign", "prepare": "standardize"}, "libra_pb", "recu", "layer_sign"]
    for quantizer in starving + reached:
        model = nnx.eval_shape(
            lambda q=quantizer: BinaryDense(4, 2, kernel_quantizer=q, rngs=nnx.Rngs(0))
        )
        warning = free_weights_warning(options, Sequential({"dense": model}))
        assert (warning is not None) == (quantizer in starving), quantizer

    reporter = Recorder()
    fit(write_config(tmp_path, TINY), tmp_path / "run", "--optimizer.clip", "0", reporter=reporter)
    assert [line for line in reporter.warnings if "optimizer.clip = 0" in line]


def test_setup_warns_of_weights_that_nothing_clips():
    with pytest.warns(UserWarning, match=r"dense1: .*optimizer.clip = 1"):
        setup(load({"kind": "adam", "clip": 0.0}), n_train=8)


def test_without_clipping_weights_leave_the_range():
    net = network()
    tx = make_optimizer(load({"kind": "sgd", "clip": 0.0}).optimizer, net, 1, 1)
    _, params, _ = split(net)
    huge = jax.tree.map(lambda p: jnp.full_like(p, -100.0), params)
    steps, _ = tx.update(huge, tx.init(params), params)
    new = optax.apply_updates(params, steps)
    assert float(jnp.min(new["dense"]["kernel"])) > 1
