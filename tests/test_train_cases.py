"""Recipes by config: decay by epoch and by parameter, clipped norms, rules for some parameters."""

import functools
import tomllib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from runs import TINY, assert_same_run, cli, fit, network, write_config

from binjax import checkpoint, config
from binjax.config import ConfigError
from binjax.layers import BatchNorm, Sequential, split
from binjax.optim import shift_adamax
from binjax.train.optimizer import make_optimizer
from binjax.train.selection import select

RATE, STEPS = 0.125, 3
close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
RULES = {
    "adam": ({"kind": "adam"}, optax.adam(RATE)),
    "adamw": ({"kind": "adam", "decay": "decoupled"}, optax.adam(RATE)),
    "sgd": ({"kind": "sgd"}, optax.sgd(RATE, 0.9)),
    "shift_adamax": ({"kind": "shift_adamax"}, shift_adamax(RATE)),
}


def make(options, epochs=4):
    model = network()
    table = {"epochs": epochs, "optimizer": options}
    return make_optimizer(config.validate(table, "it").optimizer, model, epochs, STEPS), model


def steps_of(options, gradient, steps=1):
    """What each parameter, by path, moved in the last of some steps of equal gradients."""
    tx, model = make(options)
    _, params, _ = split(model)
    gradients = jax.tree.map(lambda p: jnp.full_like(p, gradient), params)
    state, update = tx.init(params), jax.jit(tx.update)
    for _ in range(steps):
        updates, state = update(gradients, state, params)
        params = optax.apply_updates(params, updates)
    leaves = jax.tree_util.tree_leaves_with_path(updates)
    found = {jax.tree_util.keystr(path, simple=True, separator="/"): u for path, u in leaves}
    return {path: np.asarray(u) for path, u in found.items()}


@pytest.mark.parametrize("name", RULES)
def test_weight_decays_change_at_the_epoch(name):
    """Against the bare rule whose gradients, or steps, are given the decay by hand."""
    options, bare = RULES[name]
    decays, starts = [0.25, 0.0, 0.5], [0, 1, 3]
    schedule = {"kind": "piecewise", "epochs": starts, "rates": [RATE] * 3, "weight_decays": decays}
    tx, model = make({**options, "clip": 0.0, "schedule": schedule})
    _, params, _ = split(model)
    update, bare_update = jax.jit(tx.update), jax.jit(bare.update)
    state, reference = tx.init(params), params
    bare_state = bare.init(reference)
    rng = np.random.default_rng(0)
    for step in range(4 * STEPS):
        gradients = jax.tree.map(lambda p: rng.normal(size=p.shape).astype(p.dtype), params)
        updates, state = update(gradients, state, params)
        params = optax.apply_updates(params, updates)

        decay = decays[sum(step >= start * STEPS for start in starts) - 1]
        pull = jax.tree.map(lambda p, d=decay: d * p * (p.ndim == 2), reference)
        if name != "adamw":
            gradients = jax.tree.map(jnp.add, gradients, pull)
        updates, bare_state = bare_update(gradients, bare_state, reference)
        if name == "adamw":
            updates = jax.tree.map(lambda u, p: u - RATE * p, updates, pull)
        reference = optax.apply_updates(reference, updates)
        jax.tree.map(close, params, reference)
    assert update._cache_size() == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_decays": [0.1]}, "schedule.weight_decays: 1 for 2 epochs; give one for each"),
        ({"weight_decays": [0.1, 0.0], "constant": 0.5}, "weight_decay: 0.5 stands beside"),
    ],
)
@pytest.mark.parametrize("where", ["optimizer", "optimizer.others", "optimizer.cases.0"])
def test_decays_that_do_not_go_together(options, message, where):
    schedule = {"kind": "piecewise", "epochs": [0, 2], "rates": [1.0, 0.5]}
    schedule["weight_decays"] = options["weight_decays"]
    rule = {"kind": "sgd", "schedule": schedule, "weight_decay": options.get("constant", 0.0)}
    table = {
        "optimizer": rule,
        "optimizer.others": {"kind": "adam", "others": rule},
        "optimizer.cases.0": {"kind": "adam", "cases": [{"match": "norm/*", **rule}]},
    }[where]
    with pytest.raises(ConfigError) as caught:
        make(table)
    assert str(caught.value).startswith(f"{where}.{message}")


@pytest.mark.parametrize("order", [1, 2])
def test_the_threshold_of_bop_by_epoch(order):
    schedule = {"kind": "piecewise", "epochs": [0, 2], "rates": [1e6, 1e-6]}
    options = {"kind": "bop", "gamma": 1.0, "order": order, "threshold_schedule": schedule}
    before = steps_of(options, 1.0, 2 * STEPS)["dense/kernel"]
    behind = steps_of(options, 1.0, 2 * STEPS + 1)["dense/kernel"]
    np.testing.assert_array_equal(before, 0)
    assert set(np.unique(behind)) == {-2.0, 0.0}
    with pytest.raises(ConfigError, match=r"gamma_schedule.weight_decays: belong to the schedule"):
        make({"kind": "bop", "gamma_schedule": {**schedule, "weight_decays": [0.0, 0.0]}})
    with pytest.raises(ConfigError, match="threshold_schedule: no factor leads from 0"):
        make({"kind": "bop", "threshold": 0.0, "threshold_schedule": {"kind": "exponential"}})


@pytest.mark.parametrize("others", [False, True])
@pytest.mark.parametrize("gradient", [0.01, 2.0])
def test_the_norm_is_that_of_all_gradients(gradient, others):
    plain = {"kind": "sgd", "learning_rate": 1.0, "momentum": 0.0}
    options = {**plain, "clip": 0.0, "clip_norm": 0.5} | ({"others": plain} if others else {})
    found = steps_of(options, gradient)
    size = sum(step.size for step in found.values())
    scale = min(1.0, 0.5 / (gradient * np.sqrt(size)))
    for step in found.values():
        np.testing.assert_allclose(step, -gradient * scale, rtol=1e-6)


def test_bop_averages_clipped_gradients():
    """Gradients of 2 in 41 entries, clipped to 0.5, are 0.078: below this threshold."""
    options = {"kind": "bop", "threshold": 0.1, "gamma": 1.0, "clip_norm": 0.5}
    latent = np.asarray(split(network())[1]["dense"]["kernel"])
    clipped = latent + steps_of(options, 2.0)["dense/kernel"]
    free = latent + steps_of({**options, "clip_norm": 0.0}, 2.0)["dense/kernel"]
    np.testing.assert_allclose(clipped, np.sign(latent), atol=1e-6)
    np.testing.assert_allclose(free, -1, atol=1e-6)


def test_words_and_patterns_choose_parameters():
    flags = select("it", ("kernels", "*/bias"), network(), ("norm/*", "binary"))
    assert flags == {
        "stem": {"kernel": True},
        "dense": {"kernel": False, "bias": True},
        "norm": {"scale": False, "bias": False},
    }


@pytest.mark.parametrize("key", ["decay_on", "decay_except", "cases.0.match"])
def test_a_pattern_without_a_match(key):
    options = {"kind": "sgd", "weight_decay": 0.1}
    name = key.split(".")[-1]
    wrong = {name: ["kernels", "densse/kernel"]}
    options |= {"cases": [{"kind": "adam", **wrong}]} if "cases" in key else wrong
    with pytest.raises(ConfigError) as caught:
        make(options)
    assert str(caught.value).startswith(f"optimizer.{key}: 'densse/kernel' matches no parameter")
    assert "dense/kernel" in str(caught.value).split("such as")[1]


def test_exceptions_do_not_decay():
    options = {"kind": "sgd", "momentum": 0.0, "weight_decay": 0.5, "clip": 0.0}
    found = steps_of({**options, "decay_except": "stem/*"}, 0.0)
    assert np.any(found["dense/kernel"]) and not np.any(found["stem/kernel"])


@pytest.mark.parametrize("others", [False, True])
def test_each_parameter_has_its_rule(others):
    """Latent weights are clipped under the rule of a case too."""
    plain = {"kind": "sgd", "momentum": 0.0}
    options = {
        **plain,
        "learning_rate": 1.0,
        "cases": [
            {**plain, "match": ["norm/*", "stem/kernel"], "learning_rate": 2.0},
            {**plain, "match": "binary", "learning_rate": 100.0},
        ],
    }
    if others:
        options["others"] = {**plain, "learning_rate": 3.0}
    found = steps_of(options, 0.5)
    for path, rate in (("norm/scale", 2), ("norm/bias", 2), ("stem/kernel", 2)):
        np.testing.assert_array_equal(found[path], -0.5 * rate)
    np.testing.assert_array_equal(found["dense/bias"], -1.5 if others else -0.5)
    start = np.asarray(split(network())[1]["dense"]["kernel"])
    np.testing.assert_allclose(start + found["dense/kernel"], -1, atol=1e-6)


def test_cases_beside_bop():
    rule = {"kind": "sgd", "momentum": 0.0}
    case = {**rule, "match": "norm/*", "learning_rate": 2.0}
    options = {"kind": "bop", "others": {**rule, "learning_rate": 1.0}, "cases": [case]}
    found = steps_of({**options, "threshold": 0.0, "gamma": 1.0}, 0.5)
    np.testing.assert_array_equal(found["norm/scale"], -1)
    np.testing.assert_array_equal(found["stem/kernel"], -0.5)
    start = np.asarray(split(network())[1]["dense"]["kernel"])
    np.testing.assert_allclose(start + found["dense/kernel"], -1, atol=1e-6)


@pytest.mark.parametrize(
    ("main", "matches", "message"),
    [
        ("sgd", ["dense/*", "kernels"], "dense/kernel is claimed by case0 and case1"),
        ("sgd", ["norm/*", "norm/*"], "norm/bias is claimed by case0 and case1"),
        ("bop", ["kernels"], r"cases.0.match: claims dense/kernel, whose weights Bop flips"),
    ],
)
def test_cases_that_make_no_sense(main, matches, message):
    cases = [{"kind": "adam", "match": match} for match in matches]
    with pytest.raises(ConfigError, match=message):
        make({"kind": main, "cases": cases})


def test_a_case_that_claims_nothing():
    real = Sequential({"norm": BatchNorm(3)})
    options = config.validate(
        {"optimizer": {"kind": "sgd", "cases": [{"kind": "adam", "match": "binary"}]}}, "it"
    ).optimizer
    with pytest.raises(ConfigError, match=r"optimizer.cases: case0 claims no parameter"):
        make_optimizer(options, real, 1, 1)


RECIPE = """
clip_norm = 1.0
decay_except = ["norm*"]
decay_on = "all"
[optimizer.schedule]
kind = "piecewise"
epochs = [0, 1]
rates = [0.01, 0.001]
weight_decays = [1e-3, 0.0]
[optimizer.others]
kind = "sgd"
learning_rate = 0.1
[[optimizer.cases]]
kind = "adam"
match = ["norm*"]
decay = "decoupled"
weight_decay = 1e-4
"""


def test_the_state_of_all_of_it_is_saved(tmp_path):
    """Steps, save, load, steps: what the steps give in one go."""
    table = tomllib.loads("[optimizer]\nkind = 'adam'\n" + RECIPE)
    tx, model = make(table["optimizer"])
    _, params, _ = split(model)
    start = params, tx.init(params)
    rng = np.random.default_rng(0)
    draws = [
        jax.tree.map(lambda p: rng.normal(size=p.shape).astype(p.dtype), params) for _ in range(6)
    ]
    update = jax.jit(tx.update)

    def train(state, gradients):
        params, opt_state = state
        for g in gradients:
            updates, opt_state = update(g, opt_state, params)
            params = optax.apply_updates(params, updates)
        return params, opt_state

    straight = train(start, draws)
    checkpoint.save(tmp_path, 2, train(start, draws[:2]), {})
    restored = checkpoint.restore(tmp_path, 2, jax.eval_shape(lambda: start))
    jax.tree.map(np.testing.assert_array_equal, train(restored.tree, draws[2:]), straight)


@pytest.mark.slow
def test_a_run_with_all_of_it_resumes(tmp_path):
    path = write_config(tmp_path, TINY + RECIPE)
    straight, twice = tmp_path / "straight", tmp_path / "twice"
    fit(path, straight)
    fit(path, twice, "--epochs", "1")
    fit(path, twice)
    loaded = config.load(path)
    assert config.load(straight / "config.toml") == loaded
    assert_same_run(twice, straight, loaded)


def test_mistakes_are_one_line(tmp_path, capsys):
    path = write_config(tmp_path, TINY + '[[optimizer.cases]]\nkind = "sgd"\nmatch = "dens1/*"\n')
    assert cli("train", path, "--out", tmp_path / "run") == 2
    error = capsys.readouterr().err.strip()
    assert "\n" not in error and "optimizer.cases.0.match: 'dens1/*' matches no" in error
    path = write_config(tmp_path, TINY + '[[optimizer.cases]]\nkind = "sgd"\nmomentun = 0.1\n')
    assert cli("train", path, "--out", tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert "optimizer.cases.0.momentun: unknown key; did you mean momentum?" in error
    assert "optimizer.cases.0.match: is missing" in error
