"""What the README shows runs, and what it claims is in the results table with its command."""

import csv
import re
import tomllib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from binjax.models import MODELS
from binjax.summary import summarize

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_setup_commands_stand_alone_in_their_blocks():
    assert blocks("sh")[:2] == [
        "pip install . && binjax train configs/quickstart.toml\n",
        "pip install '.[test]' && pytest\n",
    ]


def test_example_trains():
    (example,) = blocks("python")
    scope: dict = {}
    exec(example, scope)
    images = jax.random.normal(jax.random.key(1), (50, 784))
    labels = jnp.arange(50) % 10
    state = (scope["params"], scope["stats"], scope["opt_state"])
    losses = []
    for _ in range(30):
        *state, loss = scope["step"](*state, images, labels)
        losses.append(float(loss))
    assert losses[-1] < 0.5 * losses[0]


def test_configs_it_names_exist():
    for path in re.findall(r"configs/\w+\.toml", README):
        assert (ROOT / path).is_file(), path


def test_results_are_rows_of_the_csv():
    text = (ROOT / "docs" / "results.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    table = re.findall(r"^\| (.+?) \| `(binjax train .+?)` \| ([\d.]+) ± ([\d.]+) \|", README, re.M)
    assert table
    known = {(row["command"], row["mean"], row["sd"]) for row in rows}
    for name, command, mean, sd in table:
        assert (command, mean, sd) in known, name


@pytest.mark.parametrize("config", sorted((ROOT / "configs").glob("*.toml")), ids=lambda p: p.stem)
def test_configs_say_what_they_claim(config):
    header = [
        line for line in config.read_text(encoding="utf-8").splitlines() if line.startswith("#")
    ]
    text = " ".join(header)
    assert f"binjax train configs/{config.name}" in text
    assert "not yet run" in text or re.search(r"0\.\d+ ± 0\.\d+ over \d seeds", text)


def test_kernel_speeds_are_rows_of_the_csv():
    text = (ROOT / "docs" / "bench_kernels.csv").read_text(encoding="utf-8")
    known = {
        (row["shape"], row["provider"], row["mode"], row["threads"]): (
            f"{float(row['median_ms']):.3g}",
            f"{float(row['tops']):.2f}",
            f"{float(row['percent_of_ceiling']):.0f}",
            f"{float(row['ratio']):.1f}",
        )
        for row in csv.DictReader(text.splitlines())
        if row["provider"].startswith("binjax-")
    }
    cells = (
        r"^\| `([\dx]+)` \| (native|xla), ([\w-]+) \| (\d+) \| (\S+) \| (\S+) \| (\d+) \| (\S+) \|$"
    )
    table = re.findall(cells, README, re.M)
    assert table
    for shape, backend, mode, threads, *numbers in table:
        assert known[shape, f"binjax-{backend}", mode, threads] == tuple(numbers), (shape, mode)


def test_figure2_is_rows_of_the_csv():
    text = (ROOT / "docs" / "figure2.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    seconds = {
        (row["case"], row["provider"], row["mode"]): f"{float(row['median_ms']) / 1e3:.3g} s"
        for row in rows
    }
    for case, xnor in (("figure2-gemm", "pack-both"), ("figure2-mlp", "packed-mlp")):
        plain = seconds[case, "unoptimised", "float32"]
        library = next(r["baseline"] for r in rows if r["case"] == case).split()
        cells = (plain, seconds[case, library[0], library[1]], seconds[case, "binjax-native", xnor])
        assert re.search(r"\| {} .*\| {} \| {}: ".format(*map(re.escape, cells)), README), cells
    accuracy = {row["accuracy"] for row in rows} - {""}
    assert len(accuracy) == 1
    assert f"| {accuracy.pop()} |" in README


def test_training_speeds_are_rows_of_the_csv():
    text = (ROOT / "docs" / "bench_train.csv").read_text(encoding="utf-8")
    known = {}
    for row in csv.DictReader(text.splitlines()):
        memory = f"{float(row['temp_mib']):.0f}" if row["temp_mib"] else ""
        known[row["net"], row["variant"]] = (
            f"{float(row['step_ms']):.3g}",
            f"{float(row['ratio']):.2f}",
            memory,
        )
    table = re.findall(r"^\| `([\w-]+)` ((?:\| [^|]* )+)\|$", README, re.M)
    table = [(net, cells) for net, cells in table if (net, "plain") in known]
    assert len(table) == 6
    for net, cells in table:
        plain, *rest = (cell.strip() for cell in cells.strip("| ").split("|"))
        assert plain == f"{known[net, 'plain'][0]}; {known[net, 'plain'][2]}"
        shown = dict(zip(("float", "packed", "lean", "torch", "larq"), rest, strict=True))
        for variant, cell in shown.items():
            ms, ratio, memory = known[net, variant]
            wanted = f"{ms} ({ratio}×)" + (f"; {memory}" if memory else "")
            assert cell == wanted, (net, variant)


def test_inference_speeds_are_rows_of_the_csv():
    text = (ROOT / "docs" / "bench_infer.csv").read_text(encoding="utf-8")
    rows = {
        (row["net"], row["batch"], row["threads"], row["contestant"]): row
        for row in csv.DictReader(text.splitlines())
    }
    table = re.findall(r"^\| `([\w-]+)`, (\d+), (\d) ((?:\| [^|]* )+)\|$", README, re.M)
    assert len(table) == 14
    columns = ("packed", "c", "float-xla", "torch", "bnn-lab", "larq", "lce")
    for net, batch, threads, cells in table:
        shown = (cell.strip() for cell in cells.strip("| ").split("|"))
        for contestant, cell in zip(columns, shown, strict=True):
            row = rows.get((net, batch, threads, contestant))
            if row is None:
                assert cell == "–"
                continue
            ms = f"{float(row['median_ms']):.3g}"
            ratio = "" if contestant == "float-xla" else f" ({float(row['ratio']):.3g}×)"
            assert cell == ms + ratio, (net, batch, threads, contestant)


def test_methods_are_in_the_csv():
    text = (ROOT / "docs" / "methods.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    plan = tomllib.loads((ROOT / "configs/methods/cifar10.toml").read_text(encoding="utf-8"))
    methods = [(m["name"], m.get("overrides", ""), m.get("against", "")) for m in plan["methods"]]
    assert [(row["name"], row["overrides"], row["against"]) for row in rows] == methods
    for row in rows:
        scores = [float(score) for score in row["test_accuracy"].split()]
        assert len(scores) == len(plan["seeds"])
        assert float(row["mean"]) == pytest.approx(np.mean(scores), abs=1e-4)
        assert float(row["sd"]) == pytest.approx(np.std(scores, ddof=1), abs=1e-4)
        shown = f"| {row['name']} | {100 * float(row['mean']):.1f} ± {100 * float(row['sd']):.1f} |"
        gain = "–"
        if row["against"]:
            gain = f"{100 * float(row['gain']):+.1f} ± {100 * float(row['gain_sd']):.1f}"
        assert f"{shown} {row['against'] or '–'} | {gain} |\n" in README
    seconds = sum(float(row["seconds"]) for row in rows) * len(plan["seeds"]) / 2  # of two cores
    assert seconds < 60 * plan["minutes"]


ZOO = re.findall(
    r"^\| `(\w+)`( \(32×32, 10 classes\))? \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \|$",
    README,
    re.M,
)


@pytest.mark.parametrize(
    ("kind", "small", "numbers"),
    [
        (z[0], z[1], z[2:])
        if z[0] in ("cifar_resnet", "quicknet", "vgg_cifar10_binary", "bnext_t")
        else pytest.param(z[0], z[1], z[2:], marks=pytest.mark.slow)
        for z in ZOO
    ],
)
def test_the_zoo_is_counted(kind, small, numbers):
    """What `binjax summary MODEL` prints, at the sizes that the table is for."""
    shape, classes = ((32, 32, 3), 10) if small else ((224, 224, 3), 1000)
    model = nnx.eval_shape(lambda: MODELS[kind](shape, classes, rngs=nnx.Rngs(0)))
    found = summarize(model, shape)
    others = sum(found.macs.values()) - found.macs["1"]
    counted = [found.params_1bit, found.params_32bit, found.macs["1"], others]
    assert [int(number.replace(",", "")) for number in numbers] == counted


def test_the_whole_zoo_was_checked():
    text = (ROOT / "docs" / "zoo.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    assert [row["model"] for row in rows if row["check"] == "real"] == list(MODELS)
    assert [row["model"] for row in rows if row["check"] == "small"] == list(MODELS)
    assert all(row["ok"] == "True" for row in rows)
    peaks = {row["model"]: float(row["peak_gib"]) for row in rows if row["check"] == "real"}
    assert max(peaks.values()) == peaks.pop("bnext_l") < 8.25
    assert max(peaks.values()) < 4
    for row in rows:
        if row["check"] == "small":
            first, last, apart = re.findall(r"[\d.]+(?:e[+-]\d+)?", row["detail"])
            assert float(last) < float(first) and float(apart) < 1e-6


def test_the_zoos_table_is_found():
    assert len(ZOO) == README.count("| `", README.index("## The zoo"), README.index("## Methods"))
