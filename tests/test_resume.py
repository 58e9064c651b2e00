"""Stopping and going on, by every way to stop: the same bits as a run that was left alone."""

import random
import shlex
import shutil
import signal
import time

import pytest
from runs import (
    STEPS_PER_EPOCH,
    TINY,
    Recorder,
    assert_same_run,
    cli,
    compile_cache,
    files_below,
    fit,
    metrics_lines,
    spawn,
    write_config,
)

from binjax import checkpoint, config, train
from binjax.train import loop

EPOCHS = 4
LONG = ("--epochs", "30", "--checkpoint.every-steps", "2", "--checkpoint.keep", "3")
KILLS = 20


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with compile_cache(tmp_path_factory) as folder:
        yield folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_config(tmp_path_factory.mktemp("configs"), TINY)


@pytest.fixture(scope="module")
def straight(tiny, tmp_path_factory):
    """Four epochs without a stop."""
    root = tmp_path_factory.mktemp("straight") / "run"
    fit(tiny, root, "--epochs", str(EPOCHS))
    return root


@pytest.fixture(scope="module")
def long_straight(tiny, tmp_path_factory):
    """The long run without a stop."""
    root = tmp_path_factory.mktemp("long") / "run"
    fit(tiny, root, *LONG)
    return root


@pytest.fixture
def every_step(monkeypatch):
    """Report progress at every step but an epoch's first."""
    monkeypatch.setattr(loop, "_POLL_SECONDS", 0)


class Stopper(Recorder):
    """Acts once, when training has reached a step of an epoch, or its end."""

    def __init__(self, epoch, step, act):
        super().__init__()
        self._when, self._act = (epoch, step), act

    def progress(self, epoch, step, metrics):
        if (epoch, step) == self._when:
            self._act()

    def evaluated(self, line):
        super().evaluated(line)
        self.progress(line["epoch"], "end", {})


class Crash(Exception):
    pass


def crash():
    raise Crash


def loaded(tiny, *words):
    return config.load(tiny, ["--epochs", str(EPOCHS), *words])


def test_the_run_is_not_trivial(straight):
    """Weights flip, and training is random: else equal bits would say little."""
    lines = metrics_lines(straight)
    assert all(line["layers"]["dense1"]["flip_ratio"] > 0 for line in lines[:-1])
    assert len({line["train_loss"] for line in lines[:-1]}) == EPOCHS


def test_two_epochs_then_four(tiny, straight, tmp_path):
    root = tmp_path / "run"
    fit(tiny, root, "--epochs", "2")
    assert metrics_lines(root)[:2] == metrics_lines(straight)[:2]
    reporter = Recorder()
    fit(tiny, root, "--epochs", str(EPOCHS), reporter=reporter)
    assert reporter.started == [(2 * STEPS_PER_EPOCH, STEPS_PER_EPOCH)]
    assert [line["epoch"] for line in reporter.lines] == [3, 4]
    assert_same_run(root, straight, loaded(tiny))
    assert config.load(root / "config.toml").epochs == EPOCHS


@pytest.mark.parametrize(("epoch", "step"), [(1, 2), (2, 4), (2, 5), (3, "end")])
@pytest.mark.usefixtures("every_step")
def test_a_crash(tiny, straight, tmp_path, epoch, step):
    """Before the first checkpoint, in mid-epoch, behind an epoch's last step, after its line."""
    root, words = tmp_path / "run", ("--epochs", str(EPOCHS), "--checkpoint.every-steps", "3")
    with pytest.raises(Crash):
        fit(tiny, root, *words, reporter=Stopper(epoch, step, crash))
    reached = checkpoint.steps(root / "checkpoints")
    assert reached[-1:] == {(1, 2): [], (2, 4): [8], (2, 5): [8], (3, "end"): [13]}[epoch, step]
    fit(tiny, root, *words)
    assert_same_run(root, straight, loaded(tiny))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.usefixtures("every_step")
def test_a_signal_in_mid_epoch(tiny, straight, tmp_path, number):
    root = tmp_path / "run"
    stopper = Stopper(2, 3, lambda: signal.raise_signal(number))
    before = signal.getsignal(number)
    with pytest.raises(train.Interrupted, match="go on with: binjax train "):
        fit(tiny, root, "--epochs", str(EPOCHS), reporter=stopper)
    assert signal.getsignal(number) is before
    assert checkpoint.steps(root / "checkpoints")[-1] == STEPS_PER_EPOCH + 3
    fit(tiny, root, "--epochs", str(EPOCHS))
    assert_same_run(root, straight, loaded(tiny))


@pytest.mark.usefixtures("every_step")
def test_two_signals_stop_at_once(tiny, straight, tmp_path):
    root = tmp_path / "run"

    def twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit(tiny, root, "--epochs", str(EPOCHS), reporter=Stopper(2, 3, twice))
    fit(tiny, root, "--epochs", str(EPOCHS))
    assert_same_run(root, straight, loaded(tiny))


@pytest.mark.parametrize("every_epochs", [1, 9])
def test_a_signal_at_an_epochs_end(tiny, straight, tmp_path, every_epochs):
    """What `stopped` promises: the state of this moment is saved, due or not."""
    lines = metrics_lines(straight)[:-1]
    accuracies = [line["validation_accuracy"] for line in lines]
    # An epoch that is not the best so far, which would be saved for that.
    epoch = next(i for i in range(2, EPOCHS) if accuracies[i - 1] <= max(accuracies[: i - 1]))
    root = tmp_path / "run"
    words = ("--epochs", str(EPOCHS), "--checkpoint.every-epochs", str(every_epochs))
    stopper = Stopper(epoch, "end", lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(train.Interrupted):
        fit(tiny, root, *words, reporter=stopper)
    assert checkpoint.steps(root / "checkpoints")[-1] == epoch * STEPS_PER_EPOCH
    reporter = Recorder()
    fit(tiny, root, *words, reporter=reporter)
    assert reporter.started == [(epoch * STEPS_PER_EPOCH, STEPS_PER_EPOCH)]
    assert_same_run(root, straight, loaded(tiny))


def test_a_line_cut_short(tiny, straight, tmp_path):
    """A kill while metrics.jsonl is written."""
    root = shutil.copytree(straight, tmp_path / "run")
    text = (root / "metrics.jsonl").read_text()
    (root / "metrics.jsonl").write_text(text[: text.index("\n") + 40])
    shutil.rmtree(root / "checkpoints" / f"{EPOCHS * STEPS_PER_EPOCH:09d}")
    reached = checkpoint.steps(root / "checkpoints")[-1]
    lines = metrics_lines(straight)
    kept = [line for line in lines if line["step"] <= reached]
    (root / "metrics.jsonl").write_text(
        "".join(f"{line}\n" for line in text.splitlines()[: len(kept)]) + text[:40]
    )
    fit(tiny, root, "--epochs", str(EPOCHS))
    assert_same_run(root, straight, loaded(tiny))


# Real processes


def new_checkpoints(root, before):
    return set(checkpoint.steps(root / "checkpoints")) - before


def being_written(root):
    return {path.name for path in (root / "checkpoints").glob(".*.tmp")}


def wait_until(process, happened, seconds=60):
    """Poll until something has happened, or the process has ended."""
    end = time.monotonic() + seconds
    while not happened():
        if process.poll() is not None:
            return False
        assert time.monotonic() < end, "nothing happens"
        time.sleep(0.001)
    return True


def kill_once(root, words, cache, moment, delay):
    """Start the command, kill it, and say in which phase that was; None if it had finished."""
    steps, writing = set(checkpoint.steps(root / "checkpoints")), being_written(root)
    process = spawn(*words, cache=cache)
    try:
        if moment == "write":
            wait_until(process, lambda: being_written(root) - writing)
        elif moment == "step":
            wait_until(process, lambda: new_checkpoints(root, steps))
        time.sleep(delay)
        ended = process.poll() is not None
    finally:
        process.kill()
        _, err = process.communicate()
    if ended:
        assert process.returncode == 0, err
        return None
    assert "Traceback" not in err
    if being_written(root) - writing:
        return "write"
    left = checkpoint.steps(root / "checkpoints")
    if not left:
        return "nothing saved"
    return "mid-epoch" if left[-1] % STEPS_PER_EPOCH else "epoch's end"


@pytest.mark.slow
def test_twenty_kills(tiny, long_straight, tmp_path, cache):
    """kill -9 at random moments; the same command again each time."""
    rng = random.Random(20)
    root = tmp_path / "run"
    words = ("train", tiny, "--out", root, "--quiet", *LONG)
    # Before anything is saved; then in a write, behind one, or while starting and restoring.
    plan = [("start", rng.uniform(0.2, 0.6))]
    for i in range(1, KILLS):
        moment = ("write", "step", "start")[i % 3]
        plan.append((moment, rng.uniform(0, {"write": 0.01, "step": 0.1, "start": 1.2}[moment])))
    phases = [kill_once(root, words, cache, *entry) for entry in plan]
    assert None not in phases, f"finished too early: {phases}"
    assert {"nothing saved", "write", "mid-epoch"} <= set(phases), phases

    process = spawn(*words, cache=cache)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "warning" not in err  # a kill never leaves a damaged checkpoint
    assert "test accuracy" in out
    assert_same_run(root, long_straight, config.load(tiny, LONG))
    assert not [path for path in files_below(root) if ".tmp" in str(path)]


@pytest.mark.slow
def test_ctrl_c(tiny, long_straight, tmp_path, cache):
    root = tmp_path / "run"
    process = spawn("train", tiny, "--out", root, *LONG, cache=cache)
    wait_until(process, lambda: checkpoint.steps(root / "checkpoints"))
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.count("\n") == 1 and err.startswith("binjax: stopped; go on with: "), err
    lines = metrics_lines(root) if (root / "metrics.jsonl").exists() else []
    assert len(lines) < 30
    command = shlex.split(err.split("go on with: ")[1])
    assert command[0] == "binjax"
    assert cli(*command[1:], "--quiet") == 0
    assert_same_run(root, long_straight, config.load(tiny, LONG))
