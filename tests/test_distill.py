"""Imitating a teacher, and quantizers annealed over a run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from runs import TINY, fit, metrics_lines, write_config

from binjax import config, losses, train
from binjax.config import ConfigError
from binjax.layers import apply, apply_watched, split
from binjax.models import MODELS
from binjax.train.distill import Distillation, Teacher, parse_pairs
from binjax.train.task import make_task, progress_flags

SHAPE = (8, 8, 3)
SMALL = {"channels": [4, 6], "widths": [8]}
CONFIG = {
    "epochs": 4,
    "data": {"scaling": {"kind": "standard", "mean": 128.0, "std": 64.0}},
    "batch_size": 6,
    "loss": "cross_entropy",
    "model": {"kind": "cifar10_convnet", **SMALL},
    "optimizer": {"kind": "sgd", "learning_rate": 0.0001},
}


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (6, *SHAPE), np.uint8), rng.integers(0, 10, 6).astype(np.int32)


def make(table=CONFIG, distill=None, n_train=24):
    return make_task(config.validate(table, "test"), SHAPE, 10, n_train, distill=distill)


def test_the_loss_of_a_student(images):
    student, other = make(), make(CONFIG | {"seed": 5})
    theirs = other.init()
    teacher = Teacher(other.graphdef, (theirs.params, theirs.stats), other.preprocess)
    pairs = parse_pairs(["pool2", "norm4=pool4"])
    assert pairs == (("pool2", "pool2"), ("norm4", "pool4"))
    distill = Distillation(teacher, 0.25, 3.0, pairs[:1], 0.5)
    task = make(distill=distill)

    # The same, put together by hand.
    state, key = student.init(), None
    x = student.preprocess(jnp.asarray(images[0]))
    scores, _ = apply(student.graphdef, state.params, state.stats, x, train=True, key=key)
    target, seen = distill.target(teacher.variables, jnp.asarray(images[0]))
    evaluated, _ = apply(other.graphdef, theirs.params, theirs.stats, x, train=False)
    np.testing.assert_allclose(target, evaluated, rtol=1e-5, atol=1e-6)
    expected = 0.75 * losses.cross_entropy(scores, images[1])
    expected += 0.25 * losses.distillation(scores, evaluated, 3.0)
    _, _, ours = apply_watched(
        student.graphdef, state.params, state.stats, x, ["pool2"], train=True
    )
    attention = losses.attention_transfer(ours["pool2"], seen["pool2"])
    _, metrics = task.step(task.init(), *images)
    np.testing.assert_allclose(metrics["loss"], expected + 0.5 * attention, rtol=1e-5)


def test_no_layer_of_that_name(images):
    other = make(CONFIG | {"seed": 5})
    state = other.init()
    teacher = Teacher(other.graphdef, (state.params, state.stats), other.preprocess)
    task = make(distill=Distillation(teacher, 1.0, 1.0, (("stage9", "stage9"),), 1.0))
    with pytest.raises(ValueError, match="no layer 'stage9'; nearest: "):
        task.step(task.init(), *images)


def test_progress_is_the_share_of_epochs_that_are_over(images):
    model = {"kind": "cifar10_convnet", **SMALL, "input_quantizer": "ede"}
    task = make(CONFIG | {"model": model}, n_train=12)  # two steps an epoch
    state = task.init()
    shares = []
    for _ in range(5):
        state, _ = task.step(state, *images)
        shares.append(float(state.stats["conv2"]["input_quantizer"]["progress"]))
    assert shares == [0, 0, 0.25, 0.25, 0.5]
    assert task.step._cache_size() == 1


def test_models_without_annealing_have_no_progress():
    model = MODELS["cifar10_convnet"](SHAPE, 10, **SMALL, rngs=nnx.Rngs(0))
    assert not any(jax.tree.leaves(progress_flags(model)))
    assert jax.tree.structure(progress_flags(model)) == jax.tree.structure(split(model)[2])


def test_a_run_with_a_teacher(tmp_path):
    text = TINY.replace("seed = 3", 'seed = 3\nloss = "cross_entropy"')
    path = write_config(tmp_path, text)
    fit(path, tmp_path / "teacher", "--model.widths", "32")
    overrides = ["--distill.teacher", str(tmp_path / "teacher"), "--distill.weight", "0.9"]
    fit(path, tmp_path / "student", *overrides)
    assert len(metrics_lines(tmp_path / "student")) == 3
    # The student stands on its own afterwards.
    (tmp_path / "teacher").rename(tmp_path / "gone")
    folder = train.RunFolder(tmp_path / "student")
    found = train.evaluate_run(config.load(folder.config), folder, print)
    assert found["test_accuracy"] == metrics_lines(tmp_path / "student")[-1]["test_accuracy"]


def test_refusals(tmp_path):
    path = write_config(tmp_path)
    with pytest.raises(ConfigError, match=r"distill.teacher: .*nowhere is not a run folder"):
        fit(path, tmp_path / "run", "--distill.teacher", str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="label_smoothing: wants loss"):
        fit(path, tmp_path / "run", "--label-smoothing", "0.1")
    assert not (tmp_path / "run").exists()


def test_a_student_that_diverges_is_told_the_layer(tmp_path):
    text = TINY.replace("seed = 3", 'seed = 3\nloss = "cross_entropy"')
    path = write_config(tmp_path, text)
    fit(path, tmp_path / "teacher", "--epochs", "1")
    words = ["--distill.teacher", str(tmp_path / "teacher"), "--optimizer.kind", "sgd"]
    words += ["--optimizer.learning_rate", "1e38"]
    with pytest.raises(train.Diverged, match="not finite"):
        fit(path, tmp_path / "student", *words)
