"""The table of methods: its list, its arithmetic, and a small one from training to file."""

import csv
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "scripts" / "compare_methods.py"

BASE = """
epochs = 1
batch_size = 600
loss = "cross_entropy"
data.name = "fashion-mnist-12k"
model = { kind = "mlp", widths = [32] }
"""
PLAN = """
config = "base.toml"
minutes = 1
seeds = [0, 1]
[[methods]]
name = "plain"
[[methods]]
name = "a/b"
against = "plain"
overrides = "--model.input_quantizer swish_sign"
"""


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import compare_methods

    return compare_methods


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds = [0, 1]", "", "'seeds' is missing"),
        ('name = "a/b"', 'name = "plain"', "the method 'plain' is there twice"),
        ('against = "plain"', 'against = "x"', "'a/b' stands against 'x', which is not above it"),
        ("minutes = 1", "minutes", "not valid TOML: .*"),
    ],
)
def test_mistakes_in_the_list_are_one_line(script, tmp_path, old, new, message):
    path = tmp_path / "plan.toml"
    path.write_text(PLAN.replace(old, new))
    with pytest.raises(SystemExit) as stop:
        script.read_plan(path)
    text = str(stop.value)
    assert "\n" not in text
    assert re.fullmatch(re.escape(f"{path}: ") + message, text), text


def test_gains_are_taken_seed_by_seed(script):
    assert script.gain([0.5, 0.7], [0.4, 0.5]) == ("+0.1500", "0.0707")
    assert script.gain([0.5], [0.7]) == ("-0.2000", "0.0000")
    assert script.gain([0.5], None) == ("", "")


def test_unknown_overrides_are_one_line(tmp_path):
    (tmp_path / "base.toml").write_text(BASE)
    path = tmp_path / "plan.toml"
    path.write_text(PLAN.replace("swish_sign", "swish_sing"))
    done = subprocess.run([sys.executable, SCRIPT, path], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith(f"{path}: ")
    assert "swish_sign" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    command = [sys.executable, SCRIPT, path, "--only", "plane"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stderr == f"{path}: has no method 'plane'; it has plain, a/b\n"


@pytest.mark.slow
def test_a_run_of_each_core_gives_what_one_after_the_other_gives(tmp_path):
    (tmp_path / "base.toml").write_text(BASE)
    (tmp_path / "plan.toml").write_text(PLAN)
    tables = []
    for jobs in (1, 2):
        out = tmp_path / f"{jobs}.csv"
        command = [sys.executable, SCRIPT, "plan.toml", "--jobs", str(jobs), "--csv", out]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
        rows = list(csv.DictReader(out.read_text(encoding="utf-8").splitlines()))
        assert [row["name"] for row in rows] == ["plain", "a/b"]
        assert [row["against"] for row in rows] == ["", "plain"]
        tables.append([row["test_accuracy"] for row in rows])
    # One thread or two: sums of batch norms may be rounded otherwise.
    for one, two in zip(*tables, strict=True):
        for a, b in zip(one.split(), two.split(), strict=True):
            assert abs(float(a) - float(b)) < 0.05
