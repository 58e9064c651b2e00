"""The training step and loop: it learns, compiles once, counts right, and stops on a NaN."""

import dataclasses
import json
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from runs import STEPS_PER_EPOCH, TINY, Recorder, compile_cache, fit, metrics_lines, write_config

from binjax import checkpoint, config, data, train
from binjax.models import MODELS
from binjax.train import loop
from binjax.train import task as tasks

# Options that make a model small, and the image it then takes.
SMALL = {
    "mlp": ({"widths": (8, 8)}, (6, 6, 1)),
    "cifar10_convnet": ({"channels": (4, 4), "widths": (8,)}, (8, 8, 3)),
    "svhn_convnet": ({"channels": (4, 4), "widths": (8,)}, (8, 8, 3)),
    "larq_cifar10": ({}, (10, 10, 3)),
}
# Networks of the zoo take ten seconds and more to compile.
QUICK = (*SMALL, "cifar_resnet")
PLAIN = """
epochs = 3
batch_size = 32
[data]
limit_train = 160
limit_test = 70
[model]
kind = "mlp"
widths = [24, 16]
input_dropout = 0.0
hidden_dropout = 0.0
[optimizer]
kind = "adam"
learning_rate = 0.01
[checkpoint]
keep = 9
"""


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with compile_cache(tmp_path_factory) as folder:
        yield folder


@pytest.fixture
def quick_compile():
    """Half the compile time, for tests that compile much and compare no bits."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def load(tmp_path, *overrides, text=TINY):
    return config.load(write_config(tmp_path, text), overrides)


@pytest.fixture(scope="module")
def images():
    return data.load("fashion-mnist-12k", limit_train=160, limit_test=70)


def make(loaded, images):
    return train.make_task(loaded, images.image_shape, images.n_classes, len(images.train))


def host(tree):
    """Copies that a donation does not delete."""
    return jax.tree.map(lambda leaf: np.array(leaf, copy=True), tree)


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        assert x.tobytes() == y.tobytes()


@pytest.fixture
def count_traces(monkeypatch):
    """How often a loss function is called by Python, that is, traced."""
    calls = []

    def counted(name, loss):
        def wrapped(scores, labels):
            calls.append(name)
            return loss(scores, labels)

        return wrapped

    losses = {name: counted(name, loss) for name, loss in tasks.LABEL_LOSSES.items()}
    monkeypatch.setattr(tasks, "LABEL_LOSSES", losses)
    return calls


@pytest.fixture
def tasks_made(monkeypatch):
    """The tasks that `fit` makes."""
    made = []

    def make_task(*arguments):
        made.append(tasks.make_task(*arguments))
        return made[-1]

    monkeypatch.setattr(loop, "make_task", make_task)
    return made


# The step


@pytest.mark.usefixtures("quick_compile")
@pytest.mark.parametrize(
    "kind",
    [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in MODELS],
)
def test_every_model_steps_twice_and_traces_once(kind, tmp_path, count_traces):
    options, shape = SMALL.get(kind, ({}, (32, 32, 3)))
    words = [f"--model.{name}={list(value)}" for name, value in options.items()]
    loaded = config.load(write_config(tmp_path, "batch_size = 2"), ["--model.kind", kind, *words])
    task = train.make_task(loaded, shape, 5, 4)
    state = task.init()
    rng = np.random.default_rng(0)
    for step in range(2):
        pixels = rng.integers(0, 256, (2, *shape), dtype=np.uint8)
        before = host(state.params)
        state, metrics = task.step(state, pixels, np.asarray([0, 4], np.int32))
        assert np.isfinite(metrics["loss"])
        assert metrics["accuracy"] in (0, 0.5, 1)
        assert (int(state.step), int(state.failed_step)) == (step + 1, -1)
        moved = [
            not np.array_equal(a, b)
            for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(state.params), strict=True)
        ]
        assert any(moved)
    assert len(count_traces) == 1
    assert task.step._cache_size() == 1


def test_the_state_is_donated(tmp_path, images):
    task = make(load(tmp_path), images)
    state = task.begin_epoch(task.init())
    new, _ = task.step(state, images.train.images[:32], images.train.labels[:32])
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((state.params, state.opt_state)))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(new))


def test_a_step_depends_on_its_arguments_only(tmp_path, images):
    """Two tasks of one config, with dropout and stochastic signs: the same bits."""
    batches = list(data.train_batches(images.train, 32, 3, 0))[:3]
    found = []
    for _ in range(2):
        task = make(load(tmp_path), images)
        state = task.init()
        for pixels, labels in batches:
            state, _ = task.step(state, pixels, labels)
        found.append(host(state))
    assert_same(*found)
    other = make(load(tmp_path, "--seed", "4"), images).init()
    assert not np.array_equal(other.key, found[0].key)
    kernel = other.params["dense1"]["kernel"]
    assert not np.array_equal(
        kernel, make(load(tmp_path), images).init().params["dense1"]["kernel"]
    )


LEARNERS = {
    "adam": [],
    "sgd": ["--optimizer.kind", "sgd", "--optimizer.learning-rate", "1.0"],
    "shift-adamax": ["--optimizer.kind", "shift_adamax", "--optimizer.learning-rate", "0.015625"],
    "torch": [
        *("--optimizer.kind", "shift_adamax", "--optimizer.variant", "torch"),
        *("--optimizer.learning-rate", "0.015625", "--model.norm.kind", "shift"),
        *("--optimizer.glorot-scale", "power_of_two"),
    ],
    "stochastic": ["--model.input-quantizer", "stochastic_sign", "--loss", "cross_entropy"],
    "dropout": ["--model.input-dropout", "0.2", "--model.hidden-dropout", "0.3"],
    "theano": [
        *("--model.norm.kind", "batch", "--model.norm.running", "inverse_std"),
        *("--model.kernel-init", "uniform", "--optimizer.glorot-scale", "exact"),
        *("--loss", "hinge", "--data.random-crop", "1"),
    ],
}


@pytest.mark.usefixtures("quick_compile")
@pytest.mark.parametrize("learner", LEARNERS)
def test_the_loss_of_one_batch_falls(learner, tmp_path, images):
    text = 'batch_size = 64\n[model]\nkind = "mlp"\nwidths = [64]\n'
    text += "input_dropout = 0.0\nhidden_dropout = 0.0\n"
    text += '[optimizer]\nkind = "adam"\nlearning_rate = 0.01'
    loaded = load(tmp_path, *LEARNERS[learner], text=text)
    task = make(loaded, images)
    state = task.init()
    losses = []
    for _ in range(30):
        state, metrics = task.step(state, images.train.images[:64], images.train.labels[:64])
        losses.append(float(metrics["loss"]))
    assert np.mean(losses[-5:]) < 0.75 * losses[0], losses
    assert task.step._cache_size() == 1
    for layer in ("dense1", "dense2"):
        kernel = np.asarray(state.params[layer]["kernel"])
        assert np.abs(kernel).max() <= 1
        assert len(np.unique(kernel)) > 100  # latent weights are real numbers


@pytest.mark.parametrize("clip", [1.0, 0.25])
def test_latent_weights_stay_inside(tmp_path, images, clip):
    words = ("--optimizer.learning-rate", "3.0", "--optimizer.clip", str(clip))
    task = make(load(tmp_path, *words), images)
    state = task.init()
    for pixels, labels in data.train_batches(images.train, 32, 0, 0):
        state, _ = task.step(state, pixels, labels)
    kernel = np.asarray(state.params["dense2"]["kernel"])
    assert np.abs(kernel).max() == clip
    # Scales and biases are no latent weights.
    assert max(np.abs(state.params[f"norm{i}"]["bias"]).max() for i in (1, 2, 3)) > 1


def test_totals_are_sums_over_the_epoch(tmp_path, images):
    task = make(load(tmp_path, text=PLAIN), images)
    state, losses, right = task.begin_epoch(task.init()), [], []
    for pixels, labels in data.train_batches(images.train, 32, 0, 0):
        state, metrics = task.step(state, pixels, labels)
        losses.append(float(metrics["loss"]))
        right.append(float(metrics["accuracy"]) * 32)
    assert float(state.totals.loss) == pytest.approx(32 * sum(losses), rel=1e-6)
    assert int(state.totals.correct) == sum(right)
    assert int(state.totals.images) == 160
    assert int(task.begin_epoch(state).totals.images) == 0


# Compiling


def test_a_run_compiles_each_function_once(tmp_path, count_traces, tasks_made):
    path = write_config(tmp_path)
    fit(path, tmp_path / "run", "--checkpoint.every-steps", "2")
    (task,) = tasks_made
    for name in ("step", "evaluate", "begin_epoch", "telemetry", "init"):
        assert getattr(task, name)._cache_size() == 1, name
    assert len(count_traces) == 2  # in the step and in the evaluation


def test_a_resumed_run_compiles_each_function_once(tmp_path, count_traces, tasks_made):
    path = write_config(tmp_path)
    fit(path, tmp_path / "run", "--epochs", "1")
    count_traces.clear()
    fit(path, tmp_path / "run", "--epochs", "3")
    # The best epoch's arrays are numpy's: another entry for `evaluate`, but not another trace.
    for name in ("step", "begin_epoch", "telemetry"):
        assert getattr(tasks_made[-1], name)._cache_size() == 1, name
    assert tasks_made[-1].init._cache_size() == 0
    assert len(count_traces) == 2


# What a run writes, against numpy


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A run without anything random in the network, all checkpoints kept."""
    folder = tmp_path_factory.mktemp("plain")
    path = write_config(folder, PLAIN)
    reporter = Recorder()
    last = fit(path, folder / "run", reporter=reporter)
    return config.load(path), folder / "run", reporter, last


def sign(x):
    return np.where(x >= 0, np.float32(1), np.float32(-1))


def forward(params, stats, pixels):
    """The MLP in numpy: scores, and what each layer after the first binarizes."""
    x = (2 * pixels.astype(np.float64) / 255 - 1).reshape(len(pixels), -1)
    inputs = {}
    for i in (1, 2, 3):
        layer, norm, moments = params[f"dense{i}"], params[f"norm{i}"], stats[f"norm{i}"]
        if i > 1:
            inputs[f"dense{i}"] = x
            x = sign(x)
        x = x @ sign(layer["kernel"]) + layer["bias"]
        x = (x - moments["mean"]) / np.sqrt(moments["spread"] + 1e-4)
        x = x * norm["scale"] + norm["bias"]
    return x, inputs


def entropy(x):
    p = np.mean(x >= 0, axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        bits = -np.nan_to_num(p * np.log2(p)) - np.nan_to_num((1 - p) * np.log2(1 - p))
    return bits.mean()


def squared_hinge(scores, labels):
    targets = 2 * np.eye(10)[labels] - 1
    return np.mean(np.maximum(0, 1 - targets * scores) ** 2)


def states_of(loaded, root, images):
    """The state before training and after each epoch."""
    task = make(loaded, images)
    like = jax.eval_shape(task.init)
    steps = checkpoint.steps(root / "checkpoints")
    return [task.init(), *(checkpoint.restore(root / "checkpoints", s, like).tree for s in steps)]


def test_metrics_are_what_numpy_computes(plain, images):
    loaded, root, _, last = plain
    states = states_of(loaded, root, images)
    lines = metrics_lines(root)
    assert [line["epoch"] for line in lines] == [1, 2, 3, 3]
    some = images.validation.images[:32]
    for before, after, line in zip(states[:-1], states[1:], lines[:-1], strict=True):
        scores, _ = forward(after.params, after.stats, images.validation.images)
        labels = images.validation.labels
        assert line["validation_accuracy"] == np.mean(np.argmax(scores, -1) == labels)
        assert line["validation_loss"] == pytest.approx(squared_hinge(scores, labels), rel=1e-4)
        _, inputs = forward(after.params, after.stats, some)
        assert set(line["layers"]) == {"dense1", "dense2", "dense3"}
        for layer, found in line["layers"].items():
            old, new = (np.asarray(s.params[layer]["kernel"]) for s in (before, after))
            assert found["flip_ratio"] == pytest.approx(np.mean((old >= 0) != (new >= 0)), abs=1e-6)
            first = np.asarray(states[0].params[layer]["kernel"])
            ever = np.mean((first >= 0) != (new >= 0))
            assert found["c2i"] == pytest.approx(1 - 2 * ever, abs=2e-6)
            assert ("saturated" in found) == ("sign_entropy" in found) == (layer in inputs)
            if layer in inputs:
                x = inputs[layer]
                few = 2 / x.size  # an element may lie on the other side of a threshold
                assert found["saturated"] == pytest.approx(np.mean(np.abs(x) > 1), abs=few)
                assert found["sign_entropy"] == pytest.approx(entropy(x), abs=0.01)
        assert line["step"] == line["epoch"] * STEPS_PER_EPOCH
        assert line["learning_rate"] == pytest.approx(0.01)
        assert int(after.totals.images) == 160
        assert line["train_loss"] == pytest.approx(float(after.totals.loss) / 160)
        assert line["train_accuracy"] == int(after.totals.correct) / 160
    assert any(line["layers"]["dense1"]["flip_ratio"] > 0 for line in lines[:-1])

    best = max(lines[:-1], key=lambda line: line["validation_accuracy"])
    assert last["best_epoch"] == best["epoch"]
    assert last["validation_accuracy"] == best["validation_accuracy"]
    state = states[best["epoch"]]
    scores, _ = forward(state.params, state.stats, images.test.images)
    assert last["test_accuracy"] == np.mean(np.argmax(scores, -1) == images.test.labels)
    assert last["test_loss"] == pytest.approx(squared_hinge(scores, images.test.labels), rel=1e-4)


def test_the_reporter_is_told_what_is_written(plain):
    _, root, reporter, last = plain
    lines = [json.loads(line) for line in (root / "metrics.jsonl").read_text().splitlines()]
    assert reporter.started == [(0, STEPS_PER_EPOCH)]
    assert reporter.lines == lines[:-1]
    assert last == lines[-1] and last["test"] is True
    assert reporter.warnings == []
    assert all(line["images_per_second"] > 0 for line in lines[:-1])
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds)


def test_the_summary_is_in_the_folder(plain):
    text = (plain[1] / "summary.txt").read_text()
    assert "dense3" in text and "trainable" in text


def test_best_and_latest_checkpoints_are_kept(tmp_path):
    fit(write_config(tmp_path), tmp_path / "run", "--epochs", "5", "--checkpoint.keep", "1")
    last = metrics_lines(tmp_path / "run")[-1]
    expected = sorted({last["best_epoch"] * STEPS_PER_EPOCH, 5 * STEPS_PER_EPOCH})
    assert checkpoint.steps(tmp_path / "run" / "checkpoints") == expected


def test_checkpoints_every_few_epochs(tmp_path):
    words = ("--epochs", "5", "--checkpoint.every-epochs", "2", "--checkpoint.keep", "9")
    fit(write_config(tmp_path), tmp_path / "run", *words)
    lines = metrics_lines(tmp_path / "run")[:-1]
    best, due = -1.0, {2, 4, 5}
    for line in lines:
        if line["validation_accuracy"] > best:
            best = line["validation_accuracy"]
            due.add(line["epoch"])
    steps = checkpoint.steps(tmp_path / "run" / "checkpoints")
    assert steps == [epoch * STEPS_PER_EPOCH for epoch in sorted(due)]


def test_without_validation_the_last_epoch_is_best(tmp_path):
    last = fit(write_config(tmp_path), tmp_path / "run", "--data.validation", "0")
    assert last["best_epoch"] == 2
    lines = metrics_lines(tmp_path / "run")
    assert not any("validation_accuracy" in line for line in lines)
    assert all({"saturated", "sign_entropy"} <= lines[0]["layers"][x].keys() for x in ("dense2",))


def test_a_run_outside_the_main_thread(tmp_path):
    """Signal handlers can be set in the main thread only."""
    found = []
    path = write_config(tmp_path)
    thread = threading.Thread(target=lambda: found.append(fit(path, tmp_path / "run")))
    thread.start()
    thread.join()
    assert found and "test_accuracy" in found[0]


# One's own loop


def test_setup_gives_what_trains(tmp_path):
    loaded = load(tmp_path, "--data.limit-train", "64")
    state, step = train.setup(loaded)
    batch = data.load("fashion-mnist-12k", limit_train=64).train
    losses = []
    for _ in range(20):
        for pixels, labels in data.train_batches(batch, 32, 0, 0):
            state, metrics = step(state, pixels, labels)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < losses[0]
    assert int(state.step) == 40
    with pytest.raises(ValueError, match="'no-such-set' is not one of fashion-mnist-12k, mnist"):
        train.setup(load(tmp_path, "--data.name", "no-such-set"))


# Not a number


def poison(task, at, where):
    """The task with a step that finds a NaN in the state at step `at`."""

    def step(state, *batch):
        if int(state.step) == at:
            part, layer, name = where
            tree = jax.tree.map(lambda leaf: leaf, getattr(state, part))
            tree[layer][name] = tree[layer][name].at[(0,) * tree[layer][name].ndim].set(np.nan)
            state = state._replace(**{part: tree})
        return task.step(state, *batch)

    return dataclasses.replace(task, step=step)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_failed_step_changes_no_weight(tmp_path, images, value):
    task = make(load(tmp_path, text=PLAIN), images)
    state = task.init()
    pixels, labels = images.train.images[:32], images.train.labels[:32]
    state, _ = task.step(state, pixels, labels)
    bias = state.params["norm3"]["bias"].at[2].set(value)
    state = state._replace(
        params={**state.params, "norm3": {**state.params["norm3"], "bias": bias}}
    )
    before = host((state.params, state.stats, state.opt_state))
    for step in (1, 2):
        state, metrics = task.step(state, pixels, labels)
        assert int(metrics["failed_step"]) == int(state.failed_step) == 1
        assert int(state.step) == step + 1
        assert not np.isfinite(metrics["loss"])
        assert_same(before, host((state.params, state.stats, state.opt_state)))
    # Healed weights do not restart training by themselves: the loop has to stop.
    healed = state.params["norm3"]["bias"].at[2].set(0.0)
    params = {**state.params, "norm3": {**state.params["norm3"], "bias": healed}}
    before = host(params)
    state, _ = task.step(state._replace(params=params), pixels, labels)
    assert int(state.failed_step) == 1
    assert_same(before, host(state.params))


def test_a_run_stops_and_goes_on(tmp_path, plain, monkeypatch):
    """It names step and layer, keeps the good checkpoint, and goes on from there."""
    path, root = write_config(tmp_path, PLAIN), tmp_path / "run"
    with monkeypatch.context() as patch:
        bad = (STEPS_PER_EPOCH + 2, ("params", "norm2", "scale"))
        patch.setattr(loop, "make_task", lambda *a: poison(tasks.make_task(*a), *bad))
        with pytest.raises(train.Diverged) as caught:
            fit(path, root)
    message = str(caught.value)
    assert "\n" not in message
    assert f"step {STEPS_PER_EPOCH + 2}: norm2/scale is not finite" in message
    assert f"the last good checkpoint is step {STEPS_PER_EPOCH}" in message
    assert checkpoint.steps(root / "checkpoints") == [STEPS_PER_EPOCH]
    assert metrics_lines(root) == metrics_lines(plain[1])[:1]
    fit(path, root)
    assert metrics_lines(root) == metrics_lines(plain[1])


def test_a_latent_weight_that_is_not_a_number_is_found_at_the_next_epoch(tmp_path, monkeypatch):
    """Its sign is what a step multiplies, so steps go on with it."""
    bad = (2, ("params", "dense2", "kernel"))
    monkeypatch.setattr(loop, "make_task", lambda *a: poison(tasks.make_task(*a), *bad))
    with pytest.raises(train.Diverged, match="dense2/kernel is not finite"):
        fit(write_config(tmp_path, PLAIN), tmp_path / "run")


def test_an_output_that_is_not_finite_is_named(tmp_path):
    """A standard deviation that is zero in float32: the first layer's input is infinite."""
    words = ("--data.scaling.kind", "standard", "--data.scaling.mean", "[0.0]")
    path = write_config(tmp_path, PLAIN)
    with pytest.raises(train.Diverged) as caught:
        fit(path, tmp_path / "run", *words, "--data.scaling.std", "[1e-300]")
    assert "step 0: the output of layer dense1 is not finite" in str(caught.value)
    assert "there is no checkpoint yet" in str(caught.value)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_loss_that_is_not_finite_is_named(tmp_path, monkeypatch):
    def bad(scores, labels):
        return jnp.sum(scores) * jnp.nan

    monkeypatch.setattr(tasks, "LABEL_LOSSES", {"squared_hinge": bad})
    with pytest.raises(train.Diverged, match="step 0: the loss itself is not finite"):
        fit(write_config(tmp_path, PLAIN), tmp_path / "run")


def test_a_gradient_that_is_not_finite_stops_the_run_too(tmp_path, monkeypatch):
    """The loss is finite, its gradient is not: sqrt at 0."""

    def bad(scores, labels):
        return jnp.sqrt(0 * jnp.sum(scores))

    monkeypatch.setattr(tasks, "LABEL_LOSSES", {"squared_hinge": bad})
    with pytest.raises(train.Diverged, match="step 0: "):
        fit(write_config(tmp_path, PLAIN), tmp_path / "run")
    assert checkpoint.steps(tmp_path / "run" / "checkpoints") == []
