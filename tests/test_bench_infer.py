"""The inference benchmark: that it compares like with like. Times are not asserted."""

import contextlib
import csv
import dataclasses
import functools
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from binjax import deploy, layers
from binjax.bench import deployed, inference, peers, problems, usable_threads
from binjax.bench.timing import WrongResult

ROOT = Path(__file__).parent.parent
SCRIPT = str(ROOT / "scripts" / "bench_infer.py")
SERVER = """
import json, sys
print(json.dumps({"version": "larq 0", "notes": ["slowly"]}), flush=True)
print(*sys.argv[1:], file=sys.stderr)
for line in sys.stdin:
    if int(line) == 3:
        break
    print("too many images" if int(line) == 9 else int(line), flush=True)
"""


def conv(compute, pixels, rngs):
    options = {"backend": compute.backend, "rngs": rngs}
    chain = {
        "conv1": layers.BinaryConv(
            3, 40, padding="VALID", input_quantizer=None, pixels=pixels, **options
        ),
        "norm1": layers.BatchNorm(40),
        "conv2": layers.BinaryConv(40, 24, **options),
        "pool2": layers.MaxPool(),
        "norm2": layers.BatchNorm(24),
        "flatten": layers.Flatten(),
        "dense3": layers.BinaryDense(3 * 3 * 24, 10, **options),
        "norm3": layers.BatchNorm(10),
    }
    return layers.Sequential(chain)


PROBLEMS = {
    "mlp": problems.Problem(functools.partial(problems.mlp, widths=(48, 32)), (28, 28, 1), 1),
    "conv": problems.Problem(conv, (8, 8, 3), 1),
}


@functools.cache
def network(name):
    return deployed.prepare(PROBLEMS[name], 120, seed=3)


@pytest.fixture(autouse=True)
def prepared_once(monkeypatch):
    def cut(problem, n_images):
        net = network(next(name for name in PROBLEMS if PROBLEMS[name] is problem))
        return dataclasses.replace(net, images=net.images[:n_images], scores=net.scores[:n_images])

    monkeypatch.setattr(inference, "prepare", cut)


def bits(scores):
    return np.asarray(scores, np.float32).view(np.uint32)


def measure(*contestants, net="mlp", batches=(2,), **options):
    found = inference.measure(
        net, PROBLEMS[net], batches, contestants, seconds=0, most_rounds=3, **options
    )
    return list(found)


@pytest.mark.parametrize("name", PROBLEMS)
def test_references_are_those_of_the_packed_network(name):
    net = network(name)
    np.testing.assert_array_equal(bits(net.packed(net.images)), bits(net.scores))
    assert len(np.unique(np.argmax(net.scores, axis=1))) > 2  # images do make a difference
    placed = {key: jnp.asarray(array) for key, array in net.floats.items()}
    found = deployed.xla_scores(net.packed.graph, placed, jnp.asarray(net.images))
    np.testing.assert_allclose(found, net.scores, rtol=1e-5, atol=1e-5)
    signs = [array for key, array in net.floats.items() if key.endswith(".sign")]
    assert set(np.concatenate(signs)) == {-1, 1}


@pytest.mark.parametrize("name", PROBLEMS)
def test_torch_has_the_same_scores(name):
    pytest.importorskip("torch")
    net = network(name)
    predict = peers.torch_predict(net.packed.graph, net.floats, 1)
    np.testing.assert_allclose(predict(net.images), net.scores, rtol=1e-5, atol=1e-5)


def test_bnn_lab_has_the_same_scores():
    pytest.importorskip("torch")
    pytest.importorskip("bnn")
    net = network("mlp")
    predict = peers.bnn_lab_predict(net.packed.graph, net.floats, 1)
    np.testing.assert_allclose(predict(net.images), net.scores, rtol=1e-5, atol=1e-5)


def test_bnn_lab_has_no_convolutions():
    net = network("conv")
    with pytest.raises(peers.LeftOut, match="its kernels were tried on dense layers only"):
        peers.bnn_lab_predict(net.packed.graph, net.floats, 1)


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.skipif(os.name != "posix", reason="options of a Unix compiler")
def test_c_has_the_same_bits(name, monkeypatch):
    if importlib.util.find_spec("binjax.deploy.c") is None or shutil.which("cc") is None:
        pytest.skip("no C")
    monkeypatch.setattr(inference, "usable_threads", lambda: 1)
    monkeypatch.setenv("CC", "cc")
    (measured,) = measure("c", net=name, batches=(7,))
    assert [row["contestant"] for row in measured.rows] == ["c"]
    assert measured.notes == []


def test_c_without_a_compiler_is_left_out(monkeypatch):
    monkeypatch.setattr(inference, "usable_threads", lambda: 1)
    monkeypatch.setenv("CC", "no-such-compiler")
    (measured,) = measure("c")
    assert measured.rows == []
    assert measured.notes == ["c: left out, there is no C compiler no-such-compiler"]


def test_multiply_accumulates():
    assert deployed.macs(network("mlp").packed.graph) == 784 * 48 + 48 * 32 + 32 * 10
    taps = 6 * 6 * 27 * 40 + 6 * 6 * 9 * 40 * 24
    assert deployed.macs(network("conv").packed.graph) == taps + 216 * 10


def test_rows():
    one, two = measure("packed", "float-xla", batches=(1, 5))
    assert (one.batch, two.batch) == (1, 5)
    assert one.notes == two.notes == []
    for measured in (one, two):
        packed, floats = measured.rows
        assert tuple(packed) == inference.COLUMNS
        assert (packed["contestant"], floats["contestant"]) == ("packed", "float-xla")
        assert floats["ratio"] == "1"
        expected = float(floats["median_ms"]) / float(packed["median_ms"])
        assert float(packed["ratio"]) == pytest.approx(expected, rel=1e-3)
        rate = 1e3 * measured.batch / float(packed["median_ms"])
        assert float(packed["images_per_second"]) == pytest.approx(rate, rel=1e-3)
        assert packed["rounds"] == "3"
        assert packed["threads"] == str(usable_threads())


def test_ratios_need_their_baseline():
    (measured,) = measure("packed")
    assert [row["ratio"] for row in measured.rows] == [""]


def test_wrong_scores_of_ours_are_an_error(monkeypatch):
    right = deploy.PackedModel.__call__

    def wrong(self, images):
        scores = right(self, images)
        return scores.at[-1, 3].set(jnp.nextafter(scores[-1, 3], jnp.inf))  # one bit of one score

    monkeypatch.setattr(deploy.PackedModel, "__call__", wrong)
    with pytest.raises(WrongResult, match="packed scores: 1 of 20 elements differ"):
        measure("packed", "float-xla")


def test_wrong_classes_of_others_are_noted(monkeypatch):
    def swapped(graph, arrays, images):
        return deployed.xla_scores(graph, arrays, images)[:, ::-1]

    monkeypatch.setattr(inference, "xla_scores", swapped)
    (measured,) = measure("packed", "float-xla", batches=(40,))
    assert [row["contestant"] for row in measured.rows] == ["packed"]
    (note,) = measured.notes
    assert note.startswith("float-xla classes: not exact: ")


def test_operations_without_a_form_in_floats():
    net = network("conv")
    ops = list(net.packed.graph.ops)
    at = next(i for i, op in enumerate(ops) if op.name == "conv2")
    ops[at] = dataclasses.replace(ops[at], geometry=ops[at].geometry._replace(pad_value=1))
    model = deploy.PackedModel(
        dataclasses.replace(net.packed.graph, ops=tuple(ops)), net.packed.tensors
    )
    with pytest.raises(ValueError, match="conv2 is not a layer that is compared in floats"):
        deployed.float_arrays(model)


# Processes of other Pythons


def test_missing_pythons_are_named():
    (measured,) = measure("larq", "lce")
    assert measured.notes == [
        f"{name}: left out, no Python that has it was given" for name in ("larq", "lce")
    ]


def test_a_server_is_timed_and_not_compared():
    command = {"larq": [sys.executable, "-c", SERVER]}
    one, two = measure("larq", batches=(2, 9), commands=command)
    assert [row["version"] for row in one.rows] == ["larq 0"]
    assert "are the exchange with its process" in one.notes[0]
    assert one.notes[1:] == ["larq: slowly"]
    assert two.rows == []
    assert two.notes == ["larq: left out, too many images"]


def test_servers_that_end():
    with pytest.raises(peers.LeftOut, match="its process ended"):
        peers.Server([sys.executable, "-c", "pass"], {})
    server = peers.Server([sys.executable, "-c", SERVER], {})
    with pytest.raises(peers.LeftOut, match="its process ended"):
        server.predict(3)
    server.close()


@pytest.mark.parametrize("engine", ["larq", "lce"])
def test_larq_script_says_what_is_missing(engine):
    absent = "larq_compute_engine" if engine == "lce" else "larq"
    if importlib.util.find_spec(absent):
        pytest.skip("it is there")
    command = [sys.executable, "-P", str(ROOT / "scripts" / "bench_infer_larq.py")]
    with pytest.raises(peers.LeftOut, match=f"No module named '{absent}'"):
        peers.Server(command, {**network("mlp").described, "engine": engine, "threads": 1})


# The script


@pytest.fixture
def script(monkeypatch):
    spec = importlib.util.spec_from_file_location("bench_infer", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    monkeypatch.setattr(module.inference, "NETS", {"mlp-1024": PROBLEMS["mlp"]})
    return module


def test_script_measures_and_draws(script, tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    path, figure = tmp_path / "rows.csv", tmp_path / "figure.png"
    words = ["--batches", "2", "5", "--contestants", "packed", "float-xla", "lce"]
    words += ["--seconds", "0", "--rounds", "3", "--threads", str(usable_threads())]
    words += ["--csv", str(path), "--png", str(figure)]
    monkeypatch.setattr(sys, "argv", [SCRIPT, *words])
    assert script.main() == 0
    lines = path.read_text(encoding="utf-8").splitlines()
    assert tuple(lines[0].split(",")) == inference.COLUMNS
    rows = list(csv.DictReader(lines))
    assert [(row["net"], row["batch"], row["contestant"]) for row in rows] == [
        ("mlp-1024", batch, name) for batch in ("2", "5") for name in ("packed", "float-xla")
    ]
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["figure.png", "rows.csv"]
    said = capsys.readouterr().out
    assert said.count("lce: left out, no Python that has it was given") == 1
    assert f"mlp-1024, batch 5, threads: {usable_threads()}" in said
    assert "binjax, packed" in said


def test_script_merges_numbers_of_threads(script, tmp_path, monkeypatch):
    path, started = tmp_path / "rows.csv", []

    def run(command, *, check, env):
        started.append((command[2:-4], env["OMP_NUM_THREADS"]))
        row = dict.fromkeys(inference.COLUMNS, "1") | {"threads": command[-3]}
        script._write([row], Path(command[-1]))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(script.subprocess, "run", run)
    monkeypatch.setattr(script, "pinned", contextlib.nullcontext)
    monkeypatch.setattr(script, "usable_threads", lambda: 8)
    words = ["--nets", "mlp-1024", "--batches", "1", "7", "--seconds", "0.5"]
    words += ["--contestants", "packed", "c", "--lce-python", sys.executable]
    monkeypatch.setattr(sys, "argv", [SCRIPT, *words, "--threads", "1", "4", "--csv", str(path)])
    assert script.main() == 0
    expected = [*words[:5], *words[7:10], *words[5:7], "--rounds", "25", *words[10:]]
    assert started == [(expected, "1"), (expected, "4")]
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    assert [row["threads"] for row in rows] == ["1", "4"]


def test_script_ends_with_a_failure_of_a_part(script, monkeypatch):
    done = subprocess.CompletedProcess([], 1)
    monkeypatch.setattr(script.subprocess, "run", lambda *_, **__: done)
    monkeypatch.setattr(script, "pinned", contextlib.nullcontext)
    monkeypatch.setattr(script, "usable_threads", lambda: 8)
    monkeypatch.setattr(sys, "argv", [SCRIPT, "--threads", "1"])
    assert script.main() == 1


def test_script_says_what_is_wrong(script, monkeypatch, capsys):
    def wrong(*_, **__):
        raise WrongResult("packed scores: 1 of 20 elements differ from the reference")

    monkeypatch.setattr(script.inference, "measure", wrong)
    monkeypatch.setattr(sys, "argv", [SCRIPT, "--threads", str(usable_threads())])
    assert script.main() == 1
    said = capsys.readouterr().err
    assert said == "bench_infer: packed scores: 1 of 20 elements differ from the reference\n"


def test_script_leaves_the_longest_batches_out(script, capsys):
    console = script.Console(width=110)
    assert script._batches("larq-cifar10", None, console) == [1, 100, 1000]
    assert "batch 10000 left out" in capsys.readouterr().out
    assert script._batches("mlp-1024", None, console) == [1, 100, 1000, 10000]
    assert script._batches("larq-cifar10", [10000, 10000], console) == [10000]
    assert capsys.readouterr().out == ""


def test_script_starts():
    command = [sys.executable, "-P", SCRIPT, "--threads", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("bench_infer: --threads: is 0; ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rounds", "0"], "--rounds: at least 1; --seconds: at least 0"),
        (["--seconds", "nan"], "--rounds: at least 1; --seconds: at least 0"),
        (["--batches", "5", "0"], "--batches: is 0; at least 1"),
        (["--lce-python", "no-such-program"], "--lce-python: no-such-program is no program"),
        (["--csv", "."], "--csv: . is a folder, or in none"),
        (["--png", "a.png", "--contestants", "c"], "--png: speed-ups need float-xla among the"),
    ],
)
def test_option_mistakes(words, message, script, monkeypatch, capsys):
    monkeypatch.setattr(script, "can_draw", lambda: True)
    monkeypatch.setattr(sys, "argv", [SCRIPT, *words])
    assert script.main() == 2
    said = capsys.readouterr().err
    assert said.startswith(f"bench_infer: {message}")
    assert said.count("\n") == 1
