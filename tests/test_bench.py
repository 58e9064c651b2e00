"""`binjax bench`: that it checks before it times, and what it writes; never how fast it is."""

import itertools
import os
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from binary_reference import packed, random_signs, signs
from runs import cli, refused

from binjax import bench, xnor
from binjax.bench import ceiling, conv, figure2, gemm, mlp, plan, report, suite, timing
from binjax.bench.timing import Case, Contestant, Timing, WrongResult

ONE = np.ones((2, 3), np.int32)
MACHINE = ceiling.Machine("2026-01-02", "a CPU", "avx2", 2, "0.10", "0.1")
PEAK = ceiling.Ceiling(4e9, 1e9)


class Worker:
    """Advances a clock by the seconds its work takes; notes who ran when."""

    def __init__(self):
        self.now, self.log = 0.0, []

    def clock(self):
        return self.now

    def contestant(self, name, seconds, result=ONE, **options):
        def run():
            self.log.append(name)
            self.now += seconds
            return result

        return Contestant(name, "mode", run, ONE, **options)


def case(*contestants, macs=6_000_000):
    return Case("gemm", "2x1x3", macs, contestants)


# Timing


def test_medians_of_interleaved_rounds():
    worker = Worker()
    slow, fast = worker.contestant("slow", 0.5), worker.contestant("fast", 0.3)
    found = timing.race(case(slow, fast), seconds=4, most_rounds=10, clock=worker.clock)
    assert [r.contestant for r in found] == [slow, fast]
    assert [r.timing.rounds for r in found] == [5, 5]  # 4 s of rounds of 0.8 s
    assert found[0].timing == pytest.approx((0.5, 0.5, 0.5, 5))
    assert found[1].timing == pytest.approx((0.3, 0.3, 0.3, 5))
    assert worker.log[:4] == ["slow", "fast"] * 2  # the check, the estimate
    pairs = list(zip(worker.log[4::2], worker.log[5::2], strict=True))
    assert pairs == [("slow", "fast"), ("fast", "slow")] * 2 + [("slow", "fast")]


def test_short_runs_are_repeated_and_long_ones_are_few():
    worker = Worker()
    short, long = worker.contestant("short", 1e-4), worker.contestant("long", 60.0)
    found = timing.race(case(short, long), seconds=1, most_rounds=10, clock=worker.clock)
    assert [r.timing.rounds for r in found] == [3, 3]
    assert found[0].timing.median == pytest.approx(1e-4)
    assert worker.log.count("short") == 2 + 3 * (10 + 1)  # ten to a sample, one before it
    assert worker.log.count("long") == 2 + 3
    assert (
        timing.race(case(short), seconds=9e9, most_rounds=4, clock=worker.clock)[0][1].rounds == 4
    )


def test_quantiles():
    assert timing.summarize([5.0, 1.0, 2.0, 4.0, 3.0, 6.0]) == pytest.approx((3.5, 2.0, 5.0, 6))


def test_something_to_do_in_each_round():
    worker = Worker()
    options = {"seconds": 0, "most_rounds": 9, "clock": worker.clock}
    timing.race(
        case(worker.contestant("a", 1)), between=lambda: worker.log.append("between"), **options
    )
    assert worker.log == ["a", "a"] + ["between", "a"] * 3


def test_a_pause_between_libraries():
    worker, pauses = Worker(), []

    def sleep(seconds):
        pauses.append(seconds)
        worker.log.append("pause")

    both = worker.contestant("a", 1), worker.contestant("b", 1, pool="other")
    timing.race(case(*both), seconds=0, most_rounds=2, clock=worker.clock, sleep=sleep)
    assert worker.log[4:] == ["pause", "a", "pause", "b", "b", "pause", "a"]
    assert len(set(pauses)) == 1 and 0 < pauses[0] < 0.1


# Exactness


@pytest.mark.parametrize(
    "wrong", [ONE + np.eye(2, 3, dtype=int), ONE[:1], ONE.astype(float) + 1e-3]
)
def test_a_wrong_kernel_is_not_timed(wrong):
    worker = Worker()
    good, bad = worker.contestant("good", 1), worker.contestant("bad", 1, wrong, ours=True)
    with pytest.raises(WrongResult, match="bad mode: "):
        timing.race(case(good, bad), seconds=1, most_rounds=3, clock=worker.clock)
    assert worker.log == ["good", "bad"]


def test_a_wrong_result_of_others_is_noted():
    worker = Worker()
    good, bad = worker.contestant("good", 1.0), worker.contestant("bad", 1.0, ONE * 2)
    found = timing.race(case(good, bad), seconds=1, most_rounds=3, clock=worker.clock)
    assert found[1].timing is None
    assert suite.remarks(found) == [
        "bad mode: not exact: 6 of 6 elements differ from the reference"
    ]
    assert [row.provider for row in suite.rows_of(case(), found, MACHINE, PEAK)] == ["good"]


@pytest.mark.parametrize("broken", ["packed_matmul", "packed_matmul_threshold", "xnor_matmul"])
def test_the_gemm_cases_find_a_kernel_that_is_off_by_one(monkeypatch, broken):
    real = getattr(gemm, broken)
    monkeypatch.setattr(
        gemm, broken, lambda *a, **k: real(*a, **k) ^ 1 if "thr" in broken else real(*a, **k) + 1
    )
    with pytest.raises(WrongResult):
        timing.race(gemm.gemm_case("mlp", (3, 33, 35), 1), seconds=0, most_rounds=1)


def test_references_are_exact():
    rng = np.random.default_rng(0)
    x, w = random_signs(rng, (5, 77)), random_signs(rng, (77, 37))
    dot = signs(x) @ signs(w)
    assert np.array_equal(gemm.exact_product(rng, x, w), dot)
    threshold, flip = gemm.thresholds(rng, 37, 77)
    bits = gemm.threshold_bits(dot, threshold, flip)
    assert np.array_equal(bits, packed((dot >= threshold) ^ flip))
    images, kernels = random_signs(rng, (2, 4, 5, 3)), random_signs(rng, (3, 3, 3, 6))
    padded = np.pad(signs(images), ((0, 0), (1, 1), (1, 1), (0, 0)))
    for i in range(4):
        for j in range(5):
            window = padded[:, i : i + 3, j : j + 3].reshape(2, -1)
            expected = window @ signs(kernels).reshape(27, 6)
            assert np.array_equal(conv.exact_conv(rng, images, kernels)[:, i, j], expected)
    assert np.array_equal(figure2.unoptimised(jnp.asarray(x), jnp.asarray(w)), dot)


def test_an_inexact_reference_is_refused():
    x = np.full((1, 3), 2**24, np.float32)  # 3 * 2^24 + 3 is not a float32
    x[0, 0] += 2
    with pytest.raises(WrongResult, match="numpy"):
        gemm.exact_product(np.random.default_rng(0), x, np.ones((3, 1), np.float32) * 1.5)


# Rows


def test_rows_state_rates_shares_and_ratios():
    results = [
        timing.Result(
            Contestant("binjax-native", "bits", None, ONE, "popcount", True),
            Timing(0.001, 0.0009, 0.002, 7),
        ),
        timing.Result(Contestant("xla", "float32", None, ONE, "fma"), Timing(0.02, 0.02, 0.02, 7)),
        timing.Result(Contestant("numpy", "float32", None, ONE, "fma"), Timing(0.01, 1, 1, 7)),
        timing.Result(Contestant("xla", "int8", None, ONE), Timing(0.005, 1, 1, 7)),
    ]
    rows = suite.rows_of(case(), results, MACHINE, PEAK)
    first = rows[0]
    assert (first.case, first.shape, first.rounds, first.isa) == ("gemm", "2x1x3", 7, "avx2")
    assert (first.median_ms, first.q20_ms, first.q80_ms) == pytest.approx((1, 0.9, 2))
    assert (first.gmacs, first.tops) == pytest.approx((6.0, 0.012))
    assert first.percent_of_ceiling == pytest.approx(75)  # 6 of 2 x 4
    assert [row.ratio for row in rows] == pytest.approx([10, 0.5, 1, 2])
    assert {row.baseline for row in rows} == {"numpy float32"}
    assert rows[1].percent_of_ceiling == pytest.approx(15)
    assert rows[3].percent_of_ceiling is None
    unmeasured = suite.rows_of(case(), results, MACHINE, ceiling.Ceiling())
    assert unmeasured[0].percent_of_ceiling is None
    assert suite.rows_of(case(), results[:1], MACHINE, PEAK)[0].ratio is None
    to_xla = suite.rows_of(case(), results, MACHINE, PEAK, ("xla",))
    assert [row.ratio for row in to_xla] == pytest.approx([20, 1, 2, 4])


def test_rows_survive_the_file(tmp_path):
    row = report.Row(
        "2026-01-02", "a, b", "none", 2, "0.10", "0.1", "gemm", "1x2x3", "xla", "int8",
        1.25, 1.0, 2.0, 5, 0.5, 0.001, None, 1.5, "xla float32", None, "8 of 9 rows",
    )  # fmt: skip
    path = tmp_path / "rows.csv"
    report.write_csv([row, row], path)
    assert path.read_text().splitlines()[0] == ",".join(report.COLUMNS)
    assert report.read_csv(path) == [row, row]
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="columns"):
        report.read_csv(path)


def test_the_ceiling_is_the_highest_seen(monkeypatch):
    seen = iter([ceiling.Ceiling(3.0, 9.0), ceiling.Ceiling(5.0, 7.0)])
    monkeypatch.setattr(ceiling, "measure_ceiling", lambda: next(seen))
    gauge = ceiling.Gauge()
    assert gauge.best == ceiling.Ceiling(3.0, 9.0)
    gauge.sample()
    assert gauge.best == ceiling.Ceiling(5.0, 9.0)
    assert gauge.best.of("popcount") == 5 and gauge.best.of("") == 0


# Threads and shapes


def test_children_are_bound_to_fewer_cpus():
    every = plan.usable_threads()
    if every == 1 or not hasattr(os, "sched_setaffinity"):
        pytest.skip("needs two CPUs and a system that binds processes to them")
    code = "from binjax.bench import usable_threads; print(usable_threads())"
    with plan.pinned(1):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "1"
    assert plan.usable_threads() == every
    assert plan.default_threads() == (1, every)
    with pytest.raises(ValueError, match=f"1 to {every}"), plan.pinned(every + 1):
        pass


def test_plans():
    whole = bench.Plan.make()
    assert {group for group, _ in whole.shapes} == set(plan.GROUPS)
    assert ("gemm", (8192, 8192, 8192)) in whole.shapes
    quick = bench.Plan.make(("conv",), quick=True)
    assert {group for group, _ in quick.shapes} == {"conv"}
    assert quick.seconds < whole.seconds
    named = bench.Plan.make(shapes=((8, 8, 8), (1, 2, 3), (1, 2, 3, 4, 5)))
    assert [group for group, _ in named.shapes] == ["gemm", "mlp", "conv"]


# The command


def test_a_small_run(tmp_path, capsys):
    path, figure = tmp_path / "rows.csv", tmp_path / "rows.png"
    shapes = ("2x33x35", "1x5x4x40x33")
    everything = ("--threads", plan.usable_threads(), "--csv", path)
    drawn = ("--png", figure) if report.can_draw() else ()
    assert cli("bench", "--quick", "--shapes", *shapes, *everything, *drawn) == 0
    out = capsys.readouterr().out
    assert "ceiling of one core" in out and "packed to bits" in out
    rows = report.read_csv(path)
    assert {(row.case, row.shape) for row in rows} == {("mlp", shapes[0]), ("conv", shapes[1])}
    assert {row.threads for row in rows} == {plan.usable_threads()}
    expected = {f"binjax-{name}" for name in gemm.own_backends()}
    assert {row.provider for row in rows} >= expected | {"xla", "numpy"}
    for provider in expected:
        modes = {r.mode for r in rows if r.provider == provider and r.case == "mlp"}
        assert modes >= {"bits", "int32", "pack-x", "pack-both", "xnor_matmul"}
    assert not drawn or figure.read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.glob(".*")) == []


def test_a_wrong_kernel_stops_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gemm, "packed_matmul", lambda xp, wp, k, **_: jnp.zeros((2, 35), jnp.int32))
    path = tmp_path / "rows.csv"
    words = ("--shapes", "2x33x35", "--threads", plan.usable_threads(), "--csv", path)
    assert cli("bench", *words) == 1
    err = capsys.readouterr().err
    assert err.startswith("binjax: wrong result: binjax-") and err.count("\n") == 1
    assert not path.exists()


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["--threads", "0"], ["--threads", "0"]),
        (["--threads", "4097"], ["--threads", "4097"]),
        (["--threads", "two"], ["--threads", "two"]),
        (["--cases", "gem"], ["gem", "gemm"]),
        (["--shapes", "3x4"], ["--shapes", "'3x4'", "MxKxN"]),
        (["--shapes", "3x0x4"], ["--shapes", "3x0x4"]),
        (["--shapes", "1x2x3", "--cases", "gemm"], ["--cases", "--shapes"]),
        (["--csv", "no folder/rows.csv"], ["--csv", "no folder"]),
        (["--csv", "."], ["--csv", "folder"]),
        (["--data-dir", "x"], ["--data-dir", "--figure2"]),
        (["--figure2", "--cases", "gemm"], ["--figure2"]),
        (["--figure2", "--data-dir", "no folder"], ["--data-dir", "no folder"]),
        (["--quik"], ["--quik"]),
        (["--baseline", "torch"], ["torch", "numpy"]),
    ],
)
def test_mistakes(capsys, words, names):
    refused(capsys, "bench", *words, names=names)


def test_a_figure_without_matplotlib(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(report, "can_draw", lambda: False)
    refused(capsys, "bench", "--png", tmp_path / "x.png", names=["--png", "matplotlib"])


def test_help_and_mistakes_need_no_jax():
    code = (
        "import sys\nfrom binjax.cli import main\n"
        "for words in (['bench', '--help'], ['bench', '--shapes', '1']):\n"
        "    try: main(words)\n"
        "    except SystemExit: pass\n"
        "assert not {'jax', 'matplotlib', 'torch'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--figure2" in done.stdout and done.stderr.startswith("binjax: --shapes: ")


# Figure 2


@pytest.fixture(scope="module")
def figure():
    size = mlp.Size(
        matrix=64, widths=(40, 33), epochs=1, train_images=400, seconds=0, slow_seconds=1e-6
    )
    return figure2.measure(
        size, None, MACHINE, ceiling.Gauge(), ("numpy",), lambda rows, notes: None
    )


def test_figure2_rows(figure, tmp_path):
    product = {row.provider: row for row in figure if row.case == "figure2-gemm"}
    assert product["unoptimised"].note == "8 of 64 rows measured, scaled to all"
    network = [row for row in figure if row.case == "figure2-mlp"]
    best = f"binjax-{gemm.own_backends()[0]}"
    assert {row.baseline for row in figure} == {"numpy float32"}
    assert {row.provider for row in network} == {"unoptimised", "xla", "numpy", best}
    assert len({row.accuracy for row in network}) == 1
    assert 0.2 < network[0].accuracy < 1
    assert network[0].shape == "784-40-33-10, 2000 images"
    if report.can_draw():
        report.draw_figure2(figure, tmp_path / "x.png")
        assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_folded_networks_are_the_trained_one():
    """Every branch of the folding: scales of both signs and zero; then all forms agree."""
    rng = np.random.default_rng(0)
    widths, params, stats = (49, 40, 33, 10), {}, {}
    for i, (n_in, n_out) in enumerate(itertools.pairwise(widths), start=1):
        scale = rng.normal(size=n_out).astype(np.float32)
        scale[::7] = 0
        params[f"dense{i}"] = {"kernel": rng.normal(size=(n_in, n_out)).astype(np.float32)}
        params[f"norm{i}"] = {"scale": scale, "bias": rng.normal(size=n_out).astype(np.float32)}
        stats[f"norm{i}"] = {"mean": rng.normal(size=n_out), "spread": rng.random(n_out) + 0.5}
    network = mlp.fold(params, stats, 2)
    pixels = rng.integers(0, 256, (64, 49)).astype(np.float32)

    x = pixels.astype(np.float64) * 2 / 255 - 1
    for i in (1, 2, 3):
        norm, moments = params[f"norm{i}"], stats[f"norm{i}"]
        y = x @ np.where(params[f"dense{i}"]["kernel"] >= 0, 1.0, -1.0)
        y = (y - moments["mean"]) / np.sqrt(moments["spread"] + 1e-4)
        x = y * norm["scale"] + norm["bias"]
        x = x if i == 3 else np.where(x >= 0, 1.0, -1.0)

    sums = mlp.float_sums(network, pixels, np.matmul, np)
    assert np.allclose(sums * network.scale + network.bias, x)
    for backend in xnor.backends():
        if backend in gemm.own_backends():
            found = mlp.packed_sums(
                mlp.pack_network(network, backend), jnp.asarray(pixels), backend
            )
            assert np.array_equal(found, sums)
