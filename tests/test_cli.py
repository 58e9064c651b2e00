"""The command line: one line and status 2 for every mistake, and the good paths."""

import gzip
import json
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from runs import (
    CIFAR_FILES,
    IDX_FILES,
    STEPS_PER_EPOCH,
    TINY,
    cli,
    compile_cache,
    files_below,
    flip,
    idx,
    metrics_lines,
    refused,
    write_cifar10,
    write_config,
    write_mnist,
)

import binjax
from binjax import checkpoint, data
from binjax.train import RunFolder

SUMMARY_KEYS = {
    "params",
    "params_1bit",
    "params_32bit",
    "trainable",
    "keras_params",
    "memory_bytes",
    "macs",
}
MNIST = ("--data.name", "mnist", "--data.validation", "5", "--batch-size", "8")
CIFAR = ("--data.name", "cifar10", "--data.validation", "5", "--batch-size", "8")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with compile_cache(tmp_path_factory) as folder:
        yield folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The config file of a small run."""
    return write_config(tmp_path_factory.mktemp("configs"))


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory):
    """A finished run, made by the command; not to be changed."""
    root = tmp_path_factory.mktemp("finished") / "run"
    assert cli("train", tiny, "--out", root, "--quiet") == 0
    return root


@pytest.fixture
def run(finished, tmp_path):
    """A copy of the finished run."""
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture
def mistake(tiny, tmp_path, capsys):
    """A `train` that is refused, and leaves nothing behind."""

    def mistake(*words, config=tiny, names=()):
        out = tmp_path / "out"
        line = refused(capsys, "train", config, "--out", out, *words, names=names)
        assert files_below(out) == []
        return line

    return mistake


# Mistakes in the config


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["--epohcs", "3"], ["--epohcs", "epochs"]),
        (["--optimizer.learning-rate", "fast"], ["--optimizer.learning_rate", "'fast'"]),
        (["--optimizer.learning-rate", "-0.1"], ["--optimizer.learning_rate", "-0.1"]),
        (["--batch-size", "161"], ["batch_size", "161", "160"]),
        (["--data.name", "minst"], ["'minst'", "mnist"]),
        (["--data.validation", "10000"], ["--data.validation", "10000"]),
        (["--data.train-files", "a", "b"], ["train_files"]),
        (["--data.scaling.kind", "standard", "--data.scaling.mean", "[1, 2]"], ["std"]),
        (
            [
                *("--data.scaling.kind", "standard"),
                *("--data.scaling.mean", "[1, 2]", "--data.scaling.std", "[1]"),
            ],
            ["data.scaling.mean", "got 2"],
        ),
        (["extra"], ["extra"]),
        (["--seed", str(2**64)], ["seed"]),
    ],
)
def test_overrides(mistake, words, names):
    mistake(*words, names=names)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("epoch = 3\n" + TINY, ["tiny.toml", "epoch", "epochs"]),
        (TINY + "lerning_rate = 3", ["tiny.toml", "optimizer.lerning_rate", "learning_rate"]),
        ("batch_sise = 'x'\n" + TINY, ["batch_sise", "batch_size"]),
        ("epochs = [", ["tiny.toml", "TOML"]),
        (TINY + "\nepochs == 3", ["tiny.toml", "TOML", "line"]),
    ],
)
def test_files(mistake, tmp_path, text, names):
    mistake(config=write_config(tmp_path, text), names=names)


def test_no_config(mistake, tmp_path):
    mistake(config=tmp_path / "nowhere.toml", names=["nowhere.toml", "no such file"])
    mistake(config=tmp_path, names=[tmp_path])


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (
            ["--model.kind", "cifar10_convnet", "--model.channels", "2", "2", "2", "2", "2"],
            ["cifar10_convnet", "28x28", "5 max-pools", "32x32"],
        ),
        (
            ["--model.kind", "svhn_convnet", "--model.channels", "[2, 2, 2, 2, 2]"],
            ["svhn_convnet", "28x28"],
        ),
    ],
)
def test_images_too_small_for_the_model(mistake, words, names):
    mistake(*words, names=names)


# Mistakes in the data


@pytest.fixture
def mnist(tmp_path):
    return write_mnist(tmp_path / "images")


@pytest.fixture
def cifar10(tmp_path):
    return write_cifar10(tmp_path / "images")


def test_the_made_up_sets_are_good(mnist, tmp_path):
    assert len(data.load("mnist", directory=mnist, validation=5).train) == 35
    write_cifar10(tmp_path / "c")
    assert len(data.load("cifar10", directory=tmp_path / "c", validation=5).train) == 45


def test_no_data(mistake, tmp_path, mnist):
    mistake(*MNIST, "--data.dir", tmp_path / "no", names=["no", "--data.dir"])
    (mnist / IDX_FILES[3]).unlink()
    mistake(*MNIST, "--data.dir", mnist, names=[IDX_FILES[3], mnist, "binjax data fetch mnist"])
    mistake("--data.name", "svhn", "--data.dir", mnist, names=["svhn", "train_32x32.mat"])


@pytest.mark.parametrize("name", IDX_FILES)
def test_truncated_idx(mistake, mnist, name):
    path = mnist / name
    whole = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(whole[:-3]))
    mistake(*MNIST, "--data.dir", mnist, names=[path, len(whole), len(whole) - 3])


def test_truncated_gzip(mistake, mnist):
    path = mnist / IDX_FILES[0]
    path.write_bytes(path.read_bytes()[:-100])
    mistake(*MNIST, "--data.dir", mnist, names=[path])


def test_corrupted_gzip(mistake, mnist):
    path = mnist / IDX_FILES[0]
    flip(path, 0.5)
    mistake(*MNIST, "--data.dir", mnist, names=[path, "corrupted"])


@pytest.mark.parametrize("content", [b"", b"\0\0\x08", b"MNIST" * 9, b"\0\0\xff\x03" + b"\0" * 40])
def test_wrong_magic(mistake, mnist, content):
    path = mnist / IDX_FILES[0]
    path.write_bytes(gzip.compress(content))
    mistake(*MNIST, "--data.dir", mnist, names=[path])


def test_a_header_that_promises_too_much(mistake, mnist):
    path = mnist / IDX_FILES[0]
    path.write_bytes(struct.pack(">HBB3I", 0, 8, 3, 2**31, 2**31, 2**31) + bytes(100))
    mistake(*MNIST, "--data.dir", mnist, names=[path])


@pytest.mark.parametrize("name", IDX_FILES[1::2])
def test_labels_out_of_range(mistake, mnist, name):
    n = len(gzip.decompress((mnist / name).read_bytes())) - 8
    labels = np.zeros(n, np.uint8)
    labels[4] = 10
    (mnist / name).write_bytes(gzip.compress(idx(labels)))
    mistake(*MNIST, "--data.dir", mnist, names=[name, "label 10", "0..9"])


def test_more_images_than_labels(mistake, mnist):
    (mnist / IDX_FILES[1]).write_bytes(gzip.compress(idx(np.zeros(39))))
    mistake(*MNIST, "--data.dir", mnist, names=["40 images", "39 labels"])


def test_truncated_cifar(mistake, cifar10):
    path = cifar10 / CIFAR_FILES[2]
    path.write_bytes(path.read_bytes()[:-1])
    mistake(*CIFAR, "--data.dir", cifar10, names=[path, 30730 - 1])


def test_pickled_cifar(mistake, cifar10):
    """Refused unopened: this one would create a file when unpickled."""
    victim = cifar10 / "victim"
    pickled = b"\x80\x02cbuiltins\nopen\n(V%s\nVw\ntR." % str(victim).encode()
    for name in CIFAR_FILES:
        (cifar10 / name).write_bytes(pickled)
    mistake(*CIFAR, "--data.dir", cifar10, names=["pickle", "binary version"])
    for name in CIFAR_FILES:
        (cifar10 / name).rename(cifar10 / name.removesuffix(".bin"))
    mistake(*CIFAR, "--data.dir", cifar10, names=["pickle", "binary version"])
    assert not victim.exists()


# Mistakes with folders


def test_unwritable_output(tiny, tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("mine")
    for out in (file, file / "below", file / "deep" / "er"):
        refused(capsys, "train", tiny, "--out", out, names=[out])
    assert file.read_text() == "mine"


@pytest.mark.parametrize("left", ["metrics.jsonl", "checkpoints"])
def test_a_folder_with_files_of_another_run(tiny, run, capsys, left):
    """Without its config.toml it is no run, but its files would mix with the new one's."""
    for path in run.iterdir():
        if path.name != left:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    before = {path: path.read_bytes() for path in files_below(run)}
    refused(capsys, "train", tiny, "--out", run, names=[run, left])
    assert before == {path: path.read_bytes() for path in files_below(run)}


def test_resume_what_is_no_run(tiny, tmp_path, capsys):
    for path in (tmp_path / "nowhere", tmp_path, tiny):
        refused(capsys, "train", tiny, "--resume", path, names=[path, "is not a run folder"])
    assert sorted(tmp_path.iterdir()) == []


def test_resume_of_one_run_into_another_folder(tiny, run, tmp_path, capsys):
    """Either go on from that run or refuse; not a new run that ignores --resume."""
    words = ("--resume", run, "--out", tmp_path / "other")
    refused(capsys, "train", tiny, *words, names=["--resume", "--out"])
    assert files_below(tmp_path / "other") == []


def test_never_resume_an_existing_run(tiny, run, capsys):
    before = {path: path.read_bytes() for path in files_below(run)}
    refused(capsys, "train", tiny, "--out", run, "--resume", "never", names=[run, "--out"])
    assert before == {path: path.read_bytes() for path in files_below(run)}


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["--model.widths", "8", "8"], "model.widths"),
        (["--model.kind", "cifar10_convnet", "--model.channels", "[2]"], "model.kind"),
        (["--seed", "4"], "seed"),
        (["--optimizer.kind", "sgd"], "optimizer.kind"),
    ],
)
def test_resume_with_other_settings(tiny, run, capsys, words, name):
    before = {path: path.read_bytes() for path in files_below(run)}
    for where in ("--out", "--resume"):
        refused(capsys, "train", tiny, where, run, *words, names=[run, name, "--out"])
    assert before == {path: path.read_bytes() for path in files_below(run)}


def test_checkpoints_of_another_model(tiny, run, capsys):
    """As when someone edits the run's config.toml."""
    config = run / "config.toml"
    config.write_text(config.read_text().replace("[24, 16]", "[25, 16]"))
    words = ("--model.widths", "25", "16")
    refused(capsys, "train", tiny, "--out", run, *words, names=["dense1", "another model"])
    refused(capsys, "eval", run, names=["dense1", "another model"])


def test_eval_needs_a_run(tiny, tmp_path, capsys):
    for path in (tmp_path, tmp_path / "nowhere", tiny):
        refused(capsys, "eval", path, names=[path, "is not a run folder"])
    shutil.copy(tiny, tmp_path / "config.toml")
    refused(capsys, "eval", tmp_path, names=["has no checkpoint"])


def test_summary_of_what_is_not_there(tmp_path, capsys):
    refused(capsys, "summary", "mlpp", names=["mlpp", "did you mean mlp"])
    refused(capsys, "summary", tmp_path, names=[tmp_path])
    refused(capsys, "summary", tmp_path / "no.toml", names=["no.toml"])
    refused(capsys, "summary", "larq_cifar10", "--input-shape", 8, 8, 3, names=["8x8", "10x10"])
    refused(capsys, "summary", "mlp", "--input-shape", 0, 28, 1, names=["mlp"])


@pytest.mark.parametrize("classes", [0, -1])
def test_summary_of_no_classes(capsys, classes):
    refused(capsys, "summary", "mlp", "--classes", classes, names=["classes"])


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ([], ["COMMAND"]),
        (["trian"], ["trian", "train"]),
        (["train"], ["CONFIG"]),
        (["eval", "run", "--jsno"], ["--jsno"]),
        (["data"], ["ACTION"]),
        (["summary", "mlp", "--input-shape", "28", "28"], ["--input-shape"]),
        (["data", "verify", "minst"], ["minst", "mnist"]),
    ],
)
def test_misspelt_commands(capsys, words, names):
    refused(capsys, *words, names=names)


# Damaged checkpoints


def checkpoints_of(run):
    return [run / "checkpoints" / f"{step:09d}" for step in checkpoint.steps(run / "checkpoints")]


def test_a_damaged_checkpoint_costs_an_epoch_only(tiny, finished, run, capsys):
    newest = checkpoints_of(run)[-1]
    flip(max(files_below(newest), key=lambda path: path.stat().st_size))
    assert cli("train", tiny, "--out", run) == 0
    out, err = capsys.readouterr()
    assert err.startswith("binjax: warning: ") and err.count("\n") == 1
    assert newest.name in err and "falling back" in err
    assert f"going on after step {STEPS_PER_EPOCH}, in epoch 2" in out
    assert metrics_lines(run) == metrics_lines(finished)


def test_no_good_checkpoint(tiny, run, capsys):
    for folder in checkpoints_of(run):
        flip(folder / "manifest.json")
    before = {path: path.read_bytes() for path in files_below(run)}
    refused(capsys, "train", tiny, "--out", run, names=["no checkpoint can be used", "another fol"])
    refused(capsys, "eval", run, names=["no checkpoint can be used"])
    assert before == {path: path.read_bytes() for path in files_below(run)}


def test_eval_warns_when_it_falls_back(run, capsys):
    first, newest = checkpoints_of(run)
    flip(newest / "manifest.json")
    assert cli("eval", run, "--last", "--json") == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["step"] == int(first.name)
    assert newest.name in err


def test_metrics_that_are_not_json(tiny, run, capsys):
    text = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text("nonsense\n" + text)
    refused(capsys, "train", tiny, "--out", run, names=["metrics.jsonl", "line 1"])


# Good paths


def test_train_tells_and_leaves_a_run(finished, tiny, capsys):
    names = {path.name for path in finished.iterdir()}
    assert {"config.toml", "environment.json", "metrics.jsonl", "checkpoints"} <= names
    assert not [path for path in finished.rglob("*") if path.name.endswith(".tmp")]
    lines = metrics_lines(finished)
    assert [line["epoch"] for line in lines] == [1, 2, 2]
    assert "test_accuracy" in lines[-1]


def test_optional_outputs(finished):
    pytest.importorskip("matplotlib")
    assert (finished / "curves.png").read_bytes().startswith(b"\x89PNG")
    pytest.importorskip("tensorboardX")
    events = list((finished / "events").iterdir())
    assert len(events) == 1 and events[0].name.startswith("events.out.tfevents")
    content = events[0].read_bytes()
    for name in (b"train_loss", b"validation_accuracy", b"flip_ratio/dense1", b"sign_entropy"):
        assert name in content


def test_eval_agrees_with_training(finished, capsys):
    last = metrics_lines(finished)[-1]
    assert cli("eval", finished, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["test_accuracy"] == last["test_accuracy"]
    assert found["test_loss"] == last["test_loss"]
    assert found["epoch"] == last["best_epoch"]
    assert (found["step"], found["images"]) == (STEPS_PER_EPOCH * last["best_epoch"], 70)
    assert cli("eval", finished) == 0
    assert f"test accuracy {last['test_accuracy']:.4f}" in capsys.readouterr().out
    assert cli("eval", finished, "--json", "--last") == 0
    assert json.loads(capsys.readouterr().out)["epoch"] == 2


def test_training_a_finished_run_again_changes_nothing(tiny, finished, run, capsys):
    assert cli("train", tiny, "--out", run, "--quiet") == 0
    assert metrics_lines(run) == metrics_lines(finished)
    assert "test accuracy" in capsys.readouterr().out


def test_a_run_is_repeated_from_its_own_config(finished, tmp_path):
    again = tmp_path / "again"
    assert cli("train", finished / "config.toml", "--out", again, "--quiet") == 0
    assert metrics_lines(again) == metrics_lines(finished)
    assert (again / "config.toml").read_text() == (finished / "config.toml").read_text()


def test_fast_and_the_default_folder(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ("--batch-size", "4", "--data.limit-train", "1000", "--data.validation", "0")
    assert cli("train", tiny, "--fast", *words) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert re.search(r"^epoch 1/1  train loss \d", out, re.M)
    assert re.search(r"^test accuracy \d\.\d{4} ", out, re.M)
    (folder,) = (tmp_path / "runs").iterdir()
    assert re.fullmatch(r"tiny-\d{8}-\d{6}", folder.name)
    assert f"run folder: runs/{folder.name}" in out
    lines = metrics_lines(folder)
    assert [line["step"] for line in lines] == [8, 8]
    assert "validation_accuracy" not in lines[0]


def test_environment(finished):
    found = json.loads((finished / "environment.json").read_text())
    assert found["argv"][:2] == ["binjax", "train"] and str(finished) in found["argv"]
    assert found["seed"] == 3
    assert found["versions"]["binjax"] == binjax.__version__
    assert all(found["versions"][name] for name in ("jax", "jaxlib", "flax", "optax", "numpy"))
    assert found["device"].startswith("cpu")
    assert found["python"] == sys.version.split()[0]
    assert {"git_commit", "platform", "processor", "cores"} <= found.keys()


def test_summaries(tiny, finished, capsys):
    found = {}
    for source in (tiny, finished, "mlp", "larq_cifar10"):
        assert cli("summary", source, "--json") == 0
        found[source] = json.loads(capsys.readouterr().out)
        assert found[source].keys() >= SUMMARY_KEYS
        assert set(found[source]["macs"]) == {"1", "2", "32"}
    assert found[tiny] == found[finished]
    assert found["mlp"]["trainable"] == 36_843_550
    assert found["larq_cifar10"]["keras_params"] == 10_363_550

    assert cli("summary", "mlp", "--input-shape", 8, 8, 1, "--classes", 3, "--json") == 0
    small = json.loads(capsys.readouterr().out)
    assert small["trainable"] == 36_843_550 - (784 - 64) * 4096 - 7 * 4096 - 3 * 7
    assert cli("summary", "larq_cifar10") == 0
    out = capsys.readouterr().out
    assert "10,355,850" in out and "conv6" in out


def test_data_commands(tmp_path, capsys):
    assert cli("data", "list") == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()] == [*data.DATASETS, *data.CUSTOM]
    assert "60,000 train 10,000 test  28x28x1" in out
    assert cli("data", "verify", "fashion-mnist-12k") == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["ok"] * 4
    assert cli("data", "verify", "mnist", "--dir", tmp_path) == 2
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["missing"] * 4


def test_help_names_the_commands(capsys):
    assert cli("--help") == 0
    out = capsys.readouterr().out
    assert all(command in out for command in ("train", "eval", "summary", "data"))
    assert cli("train", "--help") == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("CONFIG", "--out", "--resume", "--fast", "--model.widths"))
    assert cli("--version") == 0
    assert capsys.readouterr().out.strip() == f"binjax {binjax.__version__}"


def test_help_lists_the_keys(tiny, capsys):
    assert cli("train", tiny, "--help") == 0
    out = capsys.readouterr().out
    for key in ("--epochs", "--optimizer.learning-rate", "--data.limit-train", "--model.widths"):
        assert key in out
    assert "0.01" in out  # this config's value
    refused(capsys, "train", "nowhere.toml", "--help", names=["nowhere.toml"])


def test_mistakes_and_help_need_no_jax(tiny):
    """They are instant: jax is not even imported."""
    code = (
        "import sys\nfrom binjax.cli import main\n"
        "for words in (['train', sys.argv[1], '--help'], ['train', sys.argv[1], '--seed', 'x']):\n"
        "    try: main(words)\n"
        "    except SystemExit: pass\n"
        "assert 'jax' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tiny], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("binjax: --seed: ")


def test_a_closed_pipe_is_no_traceback(tiny):
    command = f"'{sys.executable}' -m binjax data list | true"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert "Traceback" not in done.stderr


# What a run is held to when it goes on


def test_other_images_are_not_gone_on_with(tmp_path, capsys):
    first = write_mnist(tmp_path / "first")
    other = write_mnist(tmp_path / "other", n_train=60)
    config = write_config(tmp_path)
    words = ("train", config, *MNIST, "--epochs", "1", "--out", tmp_path / "run")
    assert cli(*words, "--data.dir", first) == 0
    refused(capsys, *words, "--data.dir", other, names=["other images", other])
    assert cli(*words, "--data.dir", first) == 0


def test_a_folder_that_another_process_trains_in(tiny, run, capsys):
    with RunFolder(run).locked():
        refused(capsys, "train", tiny, "--out", run, names=[run, "another process"])
    assert cli("train", tiny, "--out", run) == 0


def test_environment_says_that_it_went_on(tiny, run, capsys):
    path = run / "environment.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"python": "3.0.0"}))
    assert cli("train", tiny, "--out", run) == 0
    assert "python changed since the start" in capsys.readouterr().err
    (resumed,) = json.loads(path.read_text())["resumed"]
    assert resumed["python"] == record["python"]


def test_a_damaged_best_checkpoint_is_passed_over(tiny, tmp_path, capsys):
    root = tmp_path / "run"
    assert cli("train", tiny, "--epochs", "6", "--out", root) == 0
    best = max(metrics_lines(root)[:-1], key=lambda line: line["validation_accuracy"])
    assert best["epoch"] < 6  # of this seed: the best is not the last
    flip(root / "checkpoints" / f"{best['step']:09d}" / "manifest.json")
    capsys.readouterr()
    assert cli("eval", root, "--json") == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["epoch"] == 6
    assert "is tested, not the best" in err
    assert cli("train", tiny, "--epochs", "6", "--out", root) == 0
    assert "the last epoch is tested, not the best" in capsys.readouterr().err


def test_later_damaged_checkpoints_are_set_aside(tiny, run, capsys):
    newest = checkpoints_of(run)[-1]
    flip(newest / "manifest.json")
    assert cli("train", tiny, "--out", run, "--checkpoint.keep", "1") == 0
    assert list((run / "checkpoints").glob(f"{newest.name}.*.damaged"))
    assert checkpoint.steps(run / "checkpoints")[-1] == int(newest.name)


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["--data.random-crop", "29"], ["data.random_crop", "28x28"]),
        (["--optimizer.clip=-1"], ["--optimizer.clip", "greater than or equal to 0"]),
        (["--model.widths", "20000000000"], ["--model.widths"]),
        (["--data.name", "mnist", "--data.dir", "~/no folder"], [Path.home() / "no folder"]),
    ],
)
def test_numbers_out_of_reach(tiny, tmp_path, capsys, words, names):
    refused(capsys, "train", tiny, *words, "--out", tmp_path / "run", names=names)
    assert files_below(tmp_path / "run") == []


def test_names_too_long_for_the_file_system(tiny, capsys):
    for command in (("train", tiny, "--out"), ("eval",), ("summary",)):
        refused(capsys, *command, "x" * 300, names=["x" * 300])


def test_where_the_config_stands(tmp_path, tiny, capsys):
    refused(capsys, "train", "--epochs", "3", tiny, names=["3: no such file", "CONFIG comes first"])
    deep = write_config(tmp_path, "a = " + "[" * 100_000, "deep.toml")
    refused(capsys, "train", deep, names=[deep])
