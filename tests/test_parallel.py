"""Training over two devices of one process: the single-device step, and nothing gathered."""

import math
import re
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from runs import (
    STEPS_PER_EPOCH,
    Recorder,
    compile_cache,
    files_below,
    fit,
    metrics_lines,
    refused,
    write_config,
)

import binjax
from binjax import config, train
from binjax.cli import launch
from binjax.train.parallel import ALONE, Agreement, make_placement

pytestmark = pytest.mark.filterwarnings("ignore::binjax.xnor.SlowerBackendWarning")

BATCH = 34  # 17 a device: neither is a size of anything else in these networks
MLP = {
    "kind": "mlp",
    "widths": [40, 24],
    "input_dropout": 0.1,
    "hidden_dropout": 0.2,
    "input_quantizer": "stochastic_sign",
    "use_bias": False,
}
CONVNET = {"kind": "cifar10_convnet", "channels": [8], "widths": [], "use_bias": False}
SETTINGS = {
    "mlp": {"model": MLP},
    "mlp, deterministic, adam": {
        "model": MLP | {"input_quantizer": "ste_sign", "hidden_dropout": 0.0},
        # A gradient of a few 1e-8 is noise, which the usual eps would make a whole step of
        "optimizer": {"kind": "adam", "learning_rate": 0.01, "eps": 1e-4},
    },
    "convnet": {"model": CONVNET},
    "convnet, shift": {"model": CONVNET | {"norm": {"kind": "shift"}}},
}
COLLECTIVE = re.compile(
    r"= (.*?) (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?\("
)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with compile_cache(tmp_path_factory) as folder:
        yield folder


@pytest.fixture(scope="module", autouse=True)
def _two_devices():
    if len(jax.devices()) < 2:
        pytest.skip(f"needs two devices, found {jax.devices()}")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_config(tmp_path_factory.mktemp("configs"))


def make_config(name, devices=None):
    table = {
        "seed": 3,
        "batch_size": BATCH,
        "data": {"random_crop": 2, "random_flip": True},
        "optimizer": {"kind": "sgd", "learning_rate": 0.1},
        "parallel": {} if devices is None else {"devices": devices},
    }
    return config.validate(table | SETTINGS[name], "test")


def make_batch():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (BATCH, 28, 28, 1), np.uint8), rng.integers(0, 10, BATCH, np.int32)


def stepped(loaded):
    """State and metrics after one step, as numpy arrays by path."""
    state, step = train.setup(loaded)
    after = jax.block_until_ready(step(state, *make_batch()))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))
    leaves = jax.tree_util.tree_flatten_with_path(after)[0]
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def assert_same_step(found, expected):
    assert found.keys() == expected.keys()
    assert any("params" in name for name in found) and any("stats" in name for name in found)
    for name, array in found.items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-6, atol=1e-6, err_msg=name)


def collectives(compiled):
    """``[(kind, shapes)]`` of a compiled program; a shape is a tuple."""
    found = []
    for shapes, kind in COLLECTIVE.findall(compiled.as_text()):
        dims = re.findall(r"\w+\[([\d,]*)\]", shapes)
        found.append((kind, [tuple(int(d) for d in text.split(",") if d) for text in dims]))
    return found


def sizes(found):
    return {math.prod(shape) for _, shapes in found for shape in shapes}


def assert_sums_of(found, shapes):
    """Only sums over the devices, each of as many numbers as one of the shapes has."""
    assert {kind for kind, _ in found} == {"all-reduce"}
    assert not {BATCH, BATCH // 2} & {n for _, some in found for shape in some for n in shape}
    assert sizes(found) <= {math.prod(shape) for shape in shapes}


@pytest.mark.parametrize("name", SETTINGS)
def test_one_step_equals_that_of_a_single_device(name):
    """Gradients, batch statistics over all rows, augmentation, dropout, stochastic signs."""
    single, double = stepped(make_config(name)), stepped(make_config(name, 2))
    assert_same_step(double, single)
    other = stepped(make_config(name).model_copy(update={"seed": 4}))
    assert any(abs(other[k] - single[k]).max() > 1e-3 for k in single if "params" in k)


@pytest.mark.parametrize("name", SETTINGS)
def test_no_activation_travels(name):
    loaded = make_config(name, 2)
    placement = make_placement(loaded)
    task = train.make_task(loaded, (28, 28, 1), 10, 10 * BATCH, placement)
    state = placement.replicate(task.init())
    compiled = task.step.lower(state, *placement.split(*make_batch())).compile()
    found = collectives(compiled)
    weights = [leaf.shape for leaf in jax.tree.leaves(state.params)]
    assert_sums_of(found, [(), *weights])
    assert {math.prod(shape) for shape in weights} <= sizes(found)
    compiled_state = compiled.output_shardings[0]
    assert all(s.is_fully_replicated for s in jax.tree.leaves(compiled_state))

    images, labels = placement.split(*make_batch())
    totals = placement.replicate(train.state.Totals.zero())
    lowered = task.evaluate.lower(state.params, state.stats, totals, images, labels, 5)
    assert all(shape == () for _, shapes in collectives(lowered.compile()) for shape in shapes)


@pytest.mark.parametrize("backend", [None, "xla"])
def test_products_stay_on_their_device(backend):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    rng = np.random.default_rng(0)

    def loss(product, x, w):
        return jnp.mean(product(x, w, backend=backend) ** 2)

    for product, x_shape, w_shape in (
        (binjax.xnor_matmul, (BATCH, 72), (72, 40)),
        (binjax.xnor_conv, (BATCH, 6, 5, 40), (3, 3, 40, 24)),
    ):
        x, w = (rng.uniform(-1.5, 1.5, s).astype(np.float32) for s in (x_shape, w_shape))
        gradient = jax.value_and_grad(lambda x, w, p=product: loss(p, x, w), (0, 1))
        placed = (
            jax.device_put(x, NamedSharding(mesh, P("data"))),
            jax.device_put(w, NamedSharding(mesh, P())),
        )
        compiled = jax.jit(gradient).lower(*placed).compile()
        found = collectives(compiled)
        assert_sums_of(found, [(), w_shape])
        value, (gx, gw) = jax.block_until_ready(compiled(*placed))
        expected, (ex, ew) = jax.jit(gradient)(x, w)
        assert gx.sharding.spec[0] == "data"
        np.testing.assert_allclose(value, expected, rtol=1e-6)
        np.testing.assert_allclose(gx, ex, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(gw, ew, rtol=1e-6, atol=1e-6)


def test_a_run_goes_on_with_another_number_of_devices(tiny, tmp_path):
    """And says so; its metrics are those of one device, as far as Adam lets them."""
    words = ("--model.use-bias", "false", "--optimizer.kind", "sgd")
    fit(tiny, tmp_path / "single", *words, "--epochs", "3")
    expected = metrics_lines(tmp_path / "single")
    root = tmp_path / "run"
    fit(tiny, root, *words, "--epochs", "1", "--parallel.devices", "2")
    for epochs, devices in ((2, 1), (3, 0)):
        reporter = Recorder()
        more = ("--epochs", str(epochs), "--parallel.devices", str(devices))
        fit(tiny, root, *words, *more, reporter=reporter)
        assert reporter.started == [((epochs - 1) * STEPS_PER_EPOCH, STEPS_PER_EPOCH)]
        changed = ["devices changed" in warning for warning in reporter.warnings]
        assert changed == [True] * (devices == 1)  # the others have the first start's two
    found = metrics_lines(root)
    assert [line["epoch"] for line in found] == [line["epoch"] for line in expected]
    for line, other in zip(found, expected, strict=True):
        for name in {"train_loss", "validation_loss", "test_loss"} & other.keys():
            assert line[name] == pytest.approx(other[name], rel=0.02), name


def test_divergence_is_found_on_several_devices(tiny, tmp_path):
    words = ("--optimizer.kind", "sgd", "--optimizer.learning-rate", "1e38")
    with pytest.raises(train.Diverged, match="is not finite"):
        fit(tiny, tmp_path / "run", *words, "--optimizer.clip", "1", "--parallel.devices", "2")


def test_rows_that_do_not_divide_are_whole_everywhere():
    placement = make_placement(make_config("mlp", 2))
    rows = np.arange(12).reshape(6, 2)
    (split,) = placement.split(rows)
    assert [shard.data.shape for shard in split.addressable_shards] == [(3, 2)] * 2
    (whole,) = placement.split(rows[:5])
    assert whole.is_fully_replicated
    np.testing.assert_array_equal(whole, rows[:5])
    tree = placement.replicate({"a": rows, "b": jnp.float32(-0.0)})
    assert len(tree["a"].devices()) == 2
    local = placement.local(tree)
    assert len(local["a"].devices()) == 1 and np.signbit(local["b"])
    np.testing.assert_array_equal(local["a"], rows)


def test_one_device_is_left_alone():
    assert make_placement(make_config("mlp")) is ALONE
    assert make_placement(make_config("mlp", 1)) is ALONE
    batch = make_batch()
    assert all(a is b for a, b in zip(ALONE.split(*batch), batch, strict=True))
    stop = threading.Event()
    agreement = Agreement(ALONE, stop)
    assert not agreement.reached()
    stop.set()
    assert agreement.reached()


# Mistakes


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["--parallel.devices", "3"], ["parallel.devices", "wants 3", "only 2"]),
        (["--parallel.devices", "-1"], ["--parallel.devices", "-1"]),
        (["--parallel.devices", "two"], ["--parallel.devices", "'two'"]),
        (["--parallel.device", "2"], ["--parallel.device", "devices"]),
        (["--parallel.devices", "2", "--batch-size", "33"], ["batch_size", "33", "32 or 34"]),
        (["--parallel.devices", "0", "--batch-size", "1"], ["batch_size", "1 images", "2 can"]),
    ],
)
def test_numbers_that_do_not_fit(tiny, tmp_path, capsys, words, names):
    refused(capsys, "train", tiny, *words, "--out", tmp_path / "run", names=names)
    assert files_below(tmp_path / "run") == []


@pytest.mark.parametrize(
    ("environment", "names"),
    [
        ({"BINJAX_PROCESSES": "2"}, ["BINJAX_COORDINATOR, BINJAX_PROCESS_ID is not set"]),
        (
            {"BINJAX_COORDINATOR": "host", "BINJAX_PROCESSES": "2", "BINJAX_PROCESS_ID": "0"},
            ["HOST:PORT", "'host'"],
        ),
        (
            {"BINJAX_COORDINATOR": "host:1", "BINJAX_PROCESSES": "2", "BINJAX_PROCESS_ID": "2"},
            ["BINJAX_PROCESS_ID is 2"],
        ),
        (
            {"BINJAX_COORDINATOR": "host:1", "BINJAX_PROCESSES": "x", "BINJAX_PROCESS_ID": "2"},
            ["BINJAX_PROCESSES", "'x'"],
        ),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, ["mpi4py"]),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, ["kubernetes"]),
    ],
)
def test_environments_that_do_not_fit(tiny, tmp_path, capsys, monkeypatch, environment, names):
    monkeypatch.setattr(launch.importlib.util, "find_spec", lambda name: None)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    words = ("train", tiny, "--distributed", "--out", tmp_path / "run")
    refused(capsys, *words, names=["--distributed", *names])
    assert files_below(tmp_path / "run") == []


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ([], ["-n"]),
        (["-n", "2"], ["the command is missing"]),
        (["-n", "2", "--"], ["the command is missing"]),
        (["-n", "0", "--", "train", "x.toml"], ["-n", "at least 1"]),
        (["-n", "two", "--", "train", "x.toml"], ["-n", "'two'"]),
        (["-n", "2", "--", "eval", "run"], ["'eval'", "train only"]),
        (["-n", "2", "train", "x.toml"], ["'train'"]),
    ],
)
def test_launches_of_nothing(capsys, words, names):
    refused(capsys, "launch", *words, names=names)
