"""The training benchmark: that it compares like with like. Times are not asserted."""

import csv
import functools
import itertools
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from binjax.bench import problems, training
from binjax.models.options import Compute

ROOT = Path(__file__).parent.parent
TINY = problems.Problem(functools.partial(problems.mlp, widths=(32, 48)), (28, 28, 1), 20)


def clock():
    return functools.partial(next, itertools.count(step=0.5))


@pytest.mark.slow
def test_variants_start_with_equal_losses():
    variants = [v for v in training.VARIANTS if v not in ("torch", "bnn-lab", "larq")]
    with jax.numpy_rank_promotion("allow"):  # plain JAX is written as others write it
        found = list(training.race(TINY, variants, seconds=0, most_rounds=3, clock=clock()))
    assert [m.variant for m in found] == variants
    losses = {m.variant: m.first_loss for m in found}
    assert losses["float"] == losses["packed"] == losses["int16"] == losses["lean"]
    np.testing.assert_allclose(losses["plain"], losses["float"], rtol=1e-4)
    assert losses["plain-real"] != losses["plain"]
    assert all(m.rounds == 3 and m.median_ms == 500 and m.temp_mib > 0 for m in found)


def test_missing_peers_are_named():
    (line,) = training.race(TINY, ["larq"], seconds=0, most_rounds=3)
    assert line == "larq: left out, no Python with Larq was given"


@pytest.mark.parametrize("name", problems.PROBLEMS)
def test_plain_networks_have_binjax_layers(name):
    problem = problems.PROBLEMS[name]
    model = nnx.eval_shape(lambda: problem.build(compute=Compute(), pixels=True, rngs=nnx.Rngs(0)))
    net = problems.describe_net(model, problem.eps, problem.momentum)
    assert [layer.number for layer in net.layers] == list(range(1, len(net.layers) + 1))
    for layer in net.layers:
        assert hasattr(model, f"{layer.kind}{layer.number}")
        norm = getattr(model, f"norm{layer.number}")
        assert (norm.eps, norm.momentum) == (problem.eps, problem.momentum)
        assert layer.pool == (f"pool{layer.number}" in model.names)
    flattened = [layer.number for layer in net.layers if layer.flatten]
    assert len(flattened) == model.names.count("flatten") == 1


def test_script_writes_rows(tmp_path):
    path = tmp_path / "rows.csv"
    command = [sys.executable, "-P", str(ROOT / "scripts" / "bench_train.py"), "--csv", str(path)]
    words = ["--nets", "mlp-1024-b100", "--variants", "plain", "packed", "--seconds", "0"]
    done = subprocess.run([*command, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    assert [row["variant"] for row in rows] == ["plain", "packed"]
    assert rows[0]["ratio"] == "1"
    assert float(rows[1]["ratio"]) == pytest.approx(
        float(rows[0]["step_ms"]) / float(rows[1]["step_ms"]), rel=1e-3
    )
