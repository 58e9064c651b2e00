"""The papers' configs and the compared methods: they build, and some of them train."""

import shlex
import tomllib
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from binjax import config
from binjax.layers.base import BinaryLayer
from binjax.train.optimizer import make_optimizer
from binjax.train.selection import select
from binjax.train.task import make_model, make_task

ROOT = Path(__file__).parents[1] / "configs"
PAPERS = sorted((ROOT / "papers").glob("*.toml"))
ZOO = sorted((ROOT / "zoo").glob("*.toml"))
PLAN = tomllib.loads((ROOT / "methods" / "cifar10.toml").read_text(encoding="utf-8"))


def test_there_are_papers():
    names = {path.stem for path in PAPERS}
    assert {"bnn", "xnor_net", "xnor_net_plus_plus", "dorefa", "bi_real", "ir_net", "recu"} <= names
    assert {"reactnet", "adabin", "bop", "fda_bnn", "rbnn", "bitnet_b158"} <= names
    assert {"pokebnn", "bnext"} <= names


@pytest.mark.parametrize("path", [*PAPERS, *ZOO], ids=lambda path: path.stem)
def test_configs_build(path):
    loaded = config.load(path)
    assert config.validate(tomllib.loads(config.dump(loaded)), "dumped") == loaded
    shape = (28, 28, 1) if loaded.model.kind == "mlp" else (32, 32, 3)
    shape = (224, 224, 3) if path in ZOO else shape
    model = nnx.eval_shape(lambda: make_model(loaded, shape, 10, nnx.Rngs(0)))
    assert any(isinstance(module, BinaryLayer) for _, module in nnx.iter_modules(model))
    make_optimizer(loaded.optimizer, model, loaded.epochs, 10)  # patterns that match, one owner


SHIFTS = {"conv/kernel", "input_quantizer/bias", "before/bias", "behind/bias"}
GATED = {"body/kernel", "reduce/kernel", "expand/kernel", "conv/kernel"}
GROUPS = {
    "bnext_t": {"conv/kernel", "reduce/kernel", "expand/kernel", "move/bias", "spatial/share"}
    | {"left/share", "right/share", "pointwise/share"},
    "reactnet_a_1_activations": SHIFTS,
    "reactnet18_1_activations": SHIFTS,
    "real_to_binary_3_activations": GATED,
    "real_to_binary_baseline_1_activations": {"conv/kernel", *(f"factors/{i}" for i in range(3))},
}


@pytest.mark.parametrize("stem", GROUPS)
def test_groups_that_decay(stem):
    """Last two parts of the paths; in BNext's they are the group of the small decay."""
    loaded = config.load(ROOT / "zoo" / f"{stem}.toml")
    model = nnx.eval_shape(lambda: make_model(loaded, (32, 32, 3), 10, nnx.Rngs(0)))
    rule = loaded.optimizer
    words = rule.cases[0].match if rule.cases else rule.decay_on
    flags = select("it", words, model, rule.decay_except or ())
    leaves = jax.tree_util.tree_leaves_with_path(flags)
    paths = {jax.tree_util.keystr(p, simple=True, separator="/") for p, flag in leaves if flag}
    assert {"/".join(path.split("/")[-2:]) for path in paths} == GROUPS[stem]


def train(loaded, steps=3):
    shape = (28, 28, 1) if loaded.model.kind == "mlp" else (16, 16, 3)
    task = make_task(loaded, shape, 10, 64)
    state, losses = task.init(), []
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (loaded.batch_size, *shape), np.uint8)
    labels = rng.integers(0, 10, loaded.batch_size).astype(np.int32)
    for _ in range(steps):
        state, metrics = task.step(state, images, labels)
        losses.append(float(metrics["loss"]))
    assert np.all(np.isfinite(losses)) and int(state.failed_step) < 0
    assert task.step._cache_size() == 1


def small(path, *words):
    tiny = ["--batch_size", "8", "--data.random_crop", "0"]
    if 'kind = "cifar_resnet"' in path.read_text(encoding="utf-8"):
        tiny += ["--model.depth", "8", "--model.width", "4"]
    return config.load(path, [*words, *tiny])


@pytest.mark.slow
@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.stem)
def test_papers_train(path):
    train(small(path))


@pytest.mark.slow
@pytest.mark.parametrize("method", PLAN["methods"], ids=lambda method: method["name"])
def test_methods_train(method):
    train(small(ROOT / "methods" / PLAN["config"], *method.get("overrides", "").split()))


def test_methods_stand_against_earlier_ones():
    names = [method["name"] for method in PLAN["methods"]]
    assert len(set(names)) == len(names) >= 8 and len(PLAN["seeds"]) >= 3
    for i, method in enumerate(PLAN["methods"]):
        assert method.get("against", names[0]) in names[: i + 1]
        words = shlex.split(method.get("overrides", ""))
        config.load(ROOT / "methods" / PLAN["config"], words)
