"""Training in two processes over gloo, as `binjax launch` starts them."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from runs import (
    CACHE_OPTIONS,
    STEPS_PER_EPOCH,
    TINY,
    cli,
    fit,
    last_state,
    metrics_lines,
    write_config,
)

from binjax import checkpoint, config, train

SECONDS = 120  # for anything
STEADY = ("--model.use-bias", "false", "--optimizer.kind", "sgd")  # Adam amplifies rounding
LONG = (*STEADY, "--epochs", "400", "--checkpoint.every-steps", "2", "--checkpoint.keep", "3")
ONE_STEP = """
import sys
import jax
import numpy as np
from binjax import config, train
from binjax.cli import launch

launch.join(60)
for path in sys.argv[1:]:
    state, step = train.setup(config.load(path))
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (32, 28, 28, 1), np.uint8), rng.integers(0, 10, 32)
    after = jax.block_until_ready(step(state, images, labels.astype(np.int32)))
    leaves = jax.tree_util.tree_flatten_with_path(after)[0]
    arrays = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
    np.savez(f"{path}.{jax.process_index()}.of{jax.process_count()}.npz", **arrays)
"""
CONVNET = """
seed = 3
batch_size = 32
[data]
random_crop = 2
random_flip = true
[model]
kind = "cifar10_convnet"
channels = [8]
widths = []
use_bias = false
[optimizer]
kind = "sgd"
"""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_config(tmp_path_factory.mktemp("configs"))


@pytest.fixture
def start(compiled, tmp_path):
    """Start the command (or a script) with one device a process; ended with the test."""
    started = []

    def start(*words, script=None, **variables):
        command = ["-c", script] if script else ["-m", "binjax"]
        options = {"jax_compilation_cache_dir": compiled, **CACHE_OPTIONS}
        environment = os.environ | {name.upper(): str(value) for name, value in options.items()}
        environment |= {"XLA_FLAGS": "", **variables}
        process = subprocess.Popen(
            [sys.executable, "-P", *command, *map(str, words)],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


@pytest.fixture
def launch(start):
    return lambda *words: start("launch", "-n", "2", "--", "train", *words)


@pytest.fixture
def pair(start):
    """The same command twice, as processes 0 and 1, without the launcher."""

    def pair(*words, each=((), ()), script=None):
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{listener.getsockname()[1]}"
        names = {"BINJAX_COORDINATOR": address, "BINJAX_PROCESSES": "2"}
        return [
            start(*words, *each[i], script=script, BINJAX_PROCESS_ID=str(i), **names)
            for i in range(2)
        ]

    return pair


def done(process):
    out, err = process.communicate(timeout=SECONDS)
    return process.returncode, out, err


def children_of(process):
    """Its child processes, by the number that binjax gave them."""
    found = {}
    task = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    for pid in map(int, task.read_text().split()):
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        number = next(v for v in variables if v.startswith(b"BINJAX_PROCESS_ID="))
        found[int(number.split(b"=")[1])] = pid
    return found


def wait_for(condition, process=None):
    until = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < until
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.05)


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")")[-1].split()[0] != "Z"
    except OSError:
        return False


def lines_of(root):
    path = root / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def test_one_step_equals_that_of_a_single_device(pair, tmp_path):
    paths = [
        write_config(tmp_path, TINY.replace('kind = "adam"', 'kind = "sgd"'), "mlp.toml"),
        write_config(tmp_path, CONVNET, "convnet.toml"),
    ]
    for process in pair(*paths, script=ONE_STEP):
        status, out, err = done(process)
        assert status == 0, err
        assert out == ""  # nor what gloo says there
    for path in paths:
        state, step = train.setup(config.load(path))
        rng = np.random.default_rng(0)
        images, labels = rng.integers(0, 256, (32, 28, 28, 1), np.uint8), rng.integers(0, 10, 32)
        after = jax.block_until_ready(step(state, images, labels.astype(np.int32)))
        leaves = jax.tree_util.tree_flatten_with_path(after)[0]
        first, second = (np.load(f"{path}.{i}.of2.npz") for i in range(2))
        assert len(first) == len(leaves)
        for name, leaf in ((jax.tree_util.keystr(key), leaf) for key, leaf in leaves):
            assert first[name].tobytes() == second[name].tobytes(), name
            np.testing.assert_allclose(first[name], leaf, rtol=1e-6, atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_an_epoch_and_going_on(launch, tiny, tmp_path, capsys):
    """With two processes, again with two, then with one; the run is that of a single device."""
    root = tmp_path / "run"
    status, out, err = done(launch(tiny, *STEADY, "--epochs", "1", "--out", root))
    assert (status, err) == (0, "")
    first_words = [line.split()[0] for line in out.splitlines()]
    assert first_words == ["products:", "epoch", "test", "run"]
    status, out, err = done(launch(tiny, *STEADY, "--epochs", "2", "--out", root))
    assert (status, err) == (0, "")
    assert f"going on after step {STEPS_PER_EPOCH}" in out
    assert not list(root.rglob("*.tmp"))
    fit(tiny, root, *STEADY, "--epochs", "3")

    fit(tiny, tmp_path / "single", *STEADY, "--epochs", "3")
    found, expected = metrics_lines(root), metrics_lines(tmp_path / "single")
    assert [line["epoch"] for line in found] == [1, 2, 3, 3]
    for line, other in zip(found, expected, strict=True):
        for name in {"train_loss", "validation_loss", "test_loss"} & other.keys():
            assert line[name] == pytest.approx(other[name], rel=0.02), name
    assert cli("eval", root) == 0
    assert f"{found[-1]['test_accuracy']:.4f}" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopping_together_and_going_on(launch, tiny, tmp_path, number):
    """Both stop after the same step, the state is saved, and nothing of the run is lost."""
    root = tmp_path / "run"
    process = launch(tiny, *LONG, "--out", root)
    wait_for(lambda: lines_of(root) >= 2, process)
    process.send_signal(number)
    status, _, err = done(process)
    assert status == 130, err
    assert err.count("\n") == 1 and "go on with: binjax launch -n 2 -- train" in err
    stopped = checkpoint.steps(root / "checkpoints")[-1]
    epochs = str(stopped // STEPS_PER_EPOCH + 2)
    words = (tiny, *LONG, "--epochs", epochs, "--out")
    assert done(launch(*words, root))[0] == 0
    assert done(launch(*words, tmp_path / "straight"))[0] == 0
    assert metrics_lines(root) == metrics_lines(tmp_path / "straight")
    loaded = config.load(tiny, [*LONG, "--epochs", epochs])
    arrays, _ = last_state(root, loaded)
    others, _ = last_state(tmp_path / "straight", loaded)
    assert all(array.tobytes() == others[name].tobytes() for name, array in arrays.items())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("victim", [0, 1])
def test_the_end_of_one_is_that_of_all(launch, tiny, tmp_path, victim):
    root = tmp_path / "run"
    process = launch(tiny, *LONG, "--out", root)
    wait_for(lambda: lines_of(root) >= 1, process)
    pids = children_of(process)
    assert sorted(pids) == [0, 1]
    os.kill(pids[victim], signal.SIGKILL)
    before = time.monotonic()
    status, _, err = done(process)
    assert time.monotonic() - before < 30
    assert status == 128 + signal.SIGKILL
    assert f"process {victim} was ended by SIGKILL" in err and "Traceback" not in err
    assert not any(map(is_alive, pids.values()))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_none_outlives_the_launcher(launch, tiny, tmp_path):
    root = tmp_path / "run"
    process = launch(tiny, *LONG, "--out", root)
    wait_for(lambda: lines_of(root) >= 1, process)
    pids = children_of(process).values()
    process.kill()
    process.wait()
    wait_for(lambda: not any(map(is_alive, pids)))
    assert checkpoint.steps(root / "checkpoints")


def test_a_mistake_is_told_once(launch, tiny, tmp_path):
    for words, names in (
        (["--batch-size", "33"], ["batch_size", "33", "32 or 34"]),
        (["--parallel.devices", "3"], ["parallel.devices", "2 processes"]),
        (["--epohcs", "3"], ["--epohcs", "epochs"]),
    ):
        status, out, err = done(launch(tiny, *words, "--out", tmp_path / "run"))
        assert (status, out) == (2, "")
        assert err.startswith("binjax: ") and err.count("\n") == 1
        assert all(name in err for name in names), err
    assert not (tmp_path / "run").exists()


def test_a_folder_that_process_0_refuses(launch, tiny, tmp_path):
    (tmp_path / "run").write_text("mine")
    status, _, err = done(launch(tiny, "--out", tmp_path / "run"))
    assert status == 2
    assert err.startswith(f"binjax: {tmp_path / 'run'}") and err.count("\n") == 1


def test_processes_of_different_runs(pair, tiny, tmp_path):
    """As when someone starts them by hand."""
    each = (("--seed", "1"), ("--seed", "2"))
    words = ("train", tiny, "--distributed", "--out", tmp_path / "run")
    for process in pair(*words, each=each):
        status, _, err = done(process)
        assert status == 2
        assert "process 1 has other settings than process 0" in err and err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_nobody_there(start, tiny, tmp_path):
    words = ("train", tiny, "--distributed", "--out", tmp_path / "run")
    status, _, err = done(start(*words))
    assert status == 2
    assert "SLURM, MPI or Kubernetes" in err and "binjax launch -n" in err
    assert err.count("\n") == 1
    with socket.create_server(("127.0.0.1", 0)) as listener:  # takes calls and never answers
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        names = {"BINJAX_COORDINATOR": address, "BINJAX_PROCESSES": "2", "BINJAX_PROCESS_ID": "1"}
        status, _, err = done(start(*words, "--parallel.timeout", "2", **names))
    assert status == 2
    assert address in err and "within 2 s" in err and err.count("\n") == 1
