"""Memory of activations, counted by hand for small networks; the order of rows; other modules."""

import io
import json
import math
import re

import jax
import jax.ad_checkpoint
import jax.numpy as jnp
import pytest
from flax import nnx
from rich.console import Console

from binjax.cli.main import main
from binjax.layers import (
    BatchNorm,
    BinaryConv,
    BinaryDense,
    BinaryGRUCell,
    Flatten,
    MaxPool,
    PReLU,
    Recurrent,
    Repeat,
    Residual,
    Sequential,
    apply,
    capture,
    split,
)
from binjax.models.options import Compute
from binjax.models.quicknet import residual_block
from binjax.summary import summarize, table
from binjax.summary.activations import training_bytes
from binjax.summary.terminal import fits, rich_tables

pytestmark = pytest.mark.filterwarnings("ignore::binjax.xnor.SlowerBackendWarning")


def abstract(build):
    return nnx.eval_shape(lambda: build(nnx.Rngs(0)))


def chain(rngs):
    """64 to 96 to 96 features, then 5; multiplied on words everywhere."""
    return Sequential(
        {
            "first": BinaryDense(64, 96, backend="xla", rngs=rngs),
            "norm1": BatchNorm(96),
            "second": BinaryDense(96, 96, backend="xla", rngs=rngs),
            "norm2": BatchNorm(96),
            "last": BinaryDense(96, 5, backend="xla", rngs=rngs),
        }
    )


def words(n):
    return 4 * math.ceil(n / 32)


def test_what_a_step_keeps_of_a_chain():
    """Per image: bits of each input, and of where its gradient passes; floats behind a norm."""
    few, many = (summarize(abstract(chain), (64,), batch=n).activations for n in (64, 128))
    assert (few.batch, many.batch) == (64, 128)
    per_image = {name: (many.training[name] - few.training[name]) / 64 for name in few.training}
    bits = 2 * (words(64) + words(96) + words(96))
    assert per_image["lean"] == bits
    assert per_image["full"] == bits + 4 * (96 + 96)  # a norm's centered input
    assert per_image["int16"] == bits + 2 * (96 + 96)  # the last one has nothing behind it
    assert per_image["float"] > per_image["full"]


def convolutions(rngs):
    return Sequential(
        {
            "first": BinaryConv(3, 40, input_quantizer=None, rngs=rngs),
            "norm1": BatchNorm(40),
            "second": BinaryConv(40, 8, backend="xla", rngs=rngs),
            "pool": MaxPool((2, 2)),
            "norm2": BatchNorm(8),
            "flatten": Flatten(),
            "last": BinaryDense(4 * 4 * 8, 5, backend="xla", rngs=rngs),
        }
    )


def quicknets_block(rngs):
    stem = {"first": BinaryConv(3, 8, input_quantizer=None, rngs=rngs), "norm": BatchNorm(8)}
    return Sequential({**stem, "block": residual_block(8, Compute("xla"), rngs)})


def birealnets_block(rngs):
    """What its product and its shortcut take, its quantizer needs in floats."""
    signs = {"input_quantizer": "approx_sign", "kernel_quantizer": "magnitude_aware_sign"}
    conv = BinaryConv(8, 8, **signs, backend="xla", rngs=rngs)
    real = BinaryConv(8, 8, (1, 1), input_quantizer=None, kernel_quantizer=None, rngs=rngs)
    body = Sequential({"conv": conv, "norm": BatchNorm(8)})
    stem = {"first": BinaryConv(3, 8, input_quantizer=None, rngs=rngs), "norm": BatchNorm(8)}
    return Sequential({**stem, "block": Residual(body, Sequential({"conv": real}))})


def saved(model, images, capsys):
    """Bytes that JAX says a gradient of the scores' sum saves.

    Not the images, which a convolution of floats takes in one piece, nor zeros of a ReLU's
    gradient, which no image changes.
    """
    graphdef, params, stats = split(model)
    stats = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), stats)

    def total(params, images):
        images = jax.lax.stop_gradient(images)
        return apply(graphdef, params, stats, images, train=True)[0].sum()

    jax.ad_checkpoint.print_saved_residuals(total, params, images)
    text = capsys.readouterr().out
    total_bytes = 0
    for bits, axes, why in re.findall(r"^[a-z]+(\d*)\[([\d,]+)\] (.*)", text, re.MULTILINE):
        found = tuple(map(int, axes.split(",")))
        its_images = found == images.shape and why.startswith("output of split")
        if not its_images and not why.startswith("output of broadcast_in_dim"):
            total_bytes += int(bits or 8) // 8 * math.prod(found)
    return total_bytes


@pytest.mark.parametrize(
    ("build", "shape", "twice"),
    [
        (chain, (64,), 0),
        (convolutions, (8, 8, 3), 0),
        (quicknets_block, (8, 8, 3), 0),
        (birealnets_block, (8, 8, 3), 4 * 8 * 8 * 8),  # as one piece of itself too
    ],
)
def test_what_a_step_keeps_is_what_jax_saves(build, shape, twice, capsys):
    few, many = (training_bytes(abstract(build), shape, n) for n in (9, 16))
    for name in ("float", "full", "lean"):
        model = abstract(build)
        for _, module in nnx.iter_modules(model):
            if isinstance(module, Sequential):
                module.memory = "full" if name == "float" else name
            elif isinstance(module, BinaryConv | BinaryDense) and name == "float":
                module.backend = "float"
        images = [jax.ShapeDtypeStruct((n, *shape), jnp.float32) for n in (9, 16)]
        less, more = (saved(model, batch, capsys) for batch in images)
        assert many[name] - few[name] == more - less - 7 * twice > 0, name


def test_sums_that_do_not_fit_16_bits():
    def build(rngs):
        return Sequential({"wide": BinaryDense(32768, 2, backend="xla", rngs=rngs)})

    found = summarize(abstract(build), (32768,), batch=2)
    assert found.activations.training["int16"] is None
    assert re.search(r"Kept by a step of 2, int16 +-\n", table(found))


def test_what_an_evaluation_holds_of_a_chain():
    found = summarize(abstract(chain), (64,)).activations
    assert found.training == {} and found.batch == 0
    assert found.inference == {"float": 4 * (96 + 96), "packed": 96 // 8 + 4 * 96}


def test_a_shortcut_is_held():
    """The floats that are added behind a product, beside its input: signs are other numbers."""

    def build(rngs):
        conv = Sequential({"conv": BinaryConv(8, 8, rngs=rngs), "norm": BatchNorm(8)})
        return Sequential({"block": Residual(conv), "flatten": Flatten()})

    found = summarize(abstract(build), (6, 6, 8)).activations
    floats = 4 * 6 * 6 * 8
    assert found.inference == {"float": 3 * floats, "packed": 2 * floats + 6 * 6 * 8 // 8}


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_a_real_product_takes_what_its_shortcut_adds(groups):
    def build(rngs):
        real = {"input_quantizer": None, "kernel_quantizer": None}
        conv = BinaryConv(8, 8, groups=groups, **real, rngs=rngs)
        return Sequential({"block": Residual(conv), "flatten": Flatten()})

    found = summarize(abstract(build), (6, 6, 8)).activations
    floats = 4 * 6 * 6 * 8
    assert found.inference == {"float": 2 * floats, "packed": 2 * floats}


def test_a_real_input_is_held_in_floats():
    def build(rngs):
        first = BinaryDense(40, 3, input_quantizer=None, rngs=rngs)
        return Sequential({"first": first, "last": BinaryDense(3, 2, rngs=rngs)})

    found = summarize(abstract(build), (40,)).activations
    assert found.inference == {"float": 4 * 43, "packed": 4 * 43}


@pytest.mark.parametrize("batch", [0, -1])
def test_batches_that_are_none(batch):
    with pytest.raises(ValueError, match=f"batch is {batch}"):
        summarize(abstract(chain), (64,), batch=batch)


class Backwards(nnx.Module):
    """Calls its layers in another order than that of names and of definition, one twice."""

    def __init__(self, rngs):
        self.a = BinaryDense(4, 4, rngs=rngs)
        self.b = PReLU(4)
        self.c = BinaryDense(4, 4, rngs=rngs)
        self.never = BinaryDense(4, 4, rngs=rngs)

    def __call__(self, x, *, train=False, key=None):
        return self.a(self.b(self.c(self.c(x))))


def test_rows_come_in_the_order_of_calls():
    found = summarize(abstract(Backwards), (4,))
    assert [(row.name, row.calls, row.macs) for row in found.rows] == [
        ("c", 2, 2 * 16),
        ("b", 1, 0),
        ("a", 1, 16),
        ("never", 0, 0),
    ]
    assert found.params_1bit == 3 * 16  # a layer that is called twice has its kernel once


class Foreign(nnx.Module):
    """Modules of flax, variables in a list, and one of no kind that is known."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 6, (3, 3), strides=2, feature_group_count=3, rngs=rngs)
        self.linear = nnx.Linear(6, 5, rngs=rngs)
        self.factors = nnx.List([nnx.Param(jnp.ones(5)), nnx.Param(jnp.ones(()))])
        self.seen = nnx.BatchStat(jnp.zeros(7))

    def __call__(self, x, *, train=False, key=None):
        y = self.linear(self.conv(x).mean((1, 2))) * self.factors[0][...][None]
        return jnp.einsum("ni,i->n", y, self.factors[0][...]) * self.factors[1][...]


def test_modules_that_are_not_ours():
    found = summarize(abstract(Foreign), (8, 8, 3))
    rows = {row.name: row for row in found.rows}
    assert rows["conv"].macs == 4 * 4 * 9 * 1 * 6
    assert rows["conv"].output_shape == (4, 4, 6)
    assert rows["linear"].macs == 6 * 5
    assert (rows["linear"].input_bits, rows["linear"].kernel_bits) == (32, 32)
    assert rows[""].macs == 5
    assert (rows[""].trainable, rows[""].non_trainable) == (6, 7)
    assert found.params_32bit == 9 * 6 + 6 + 35 + 6 + 7
    assert found.keras_params == found.params_32bit


class Tied(nnx.Module):
    """One kernel in two layers."""

    def __init__(self, rngs):
        self.one, self.two = (BinaryDense(4, 4, rngs=rngs) for _ in range(2))
        self.two.kernel = self.one.kernel

    def __call__(self, x, *, train=False, key=None):
        return self.two(self.one(x))


def test_tied_kernels_count_once():
    found = summarize(abstract(Tied), (4,))
    assert (found.params, found.trainable) == (16, 16)
    assert found.macs["1"] == 32


class Scanned(nnx.Module):
    """A product in a loop of its own."""

    def __init__(self, rngs):
        self.linear = nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, x, *, train=False, key=None):
        kernel = self.linear.kernel[...]
        start = jnp.zeros((x.shape[0], 4))
        return jax.lax.scan(lambda h, now: (now + h @ kernel, None), start, x.swapaxes(0, 1))[0]


def test_products_in_loops_are_counted_at_every_step():
    assert summarize(abstract(Scanned), (9, 4)).macs["32"] == 9 * 16


@pytest.mark.parametrize("memory", ["full", "lean"])
def test_repeated_blocks(memory):
    def build(rngs):
        def block(rngs):
            layers = {"z": BinaryDense(4, 4, rngs=rngs), "a": BatchNorm(4)}
            return Sequential(layers, memory=memory)

        return Sequential({"blocks": Repeat(3, block, rngs=rngs)})

    found = summarize(abstract(build), (4,))
    assert [(row.name, row.params_1bit, row.params_32bit, row.macs) for row in found.rows] == [
        ("blocks/block/z", 48, 0, 48),
        ("blocks/block/a", 0, 24, 0),
    ]


def test_what_loops_record_stays_inside():
    """Under jit too: telemetry of a network with loops."""
    cell = Recurrent(BinaryGRUCell(4, 6, rngs=nnx.Rngs(0)), last=True)
    repeat = Repeat(2, lambda rngs: BinaryDense(6, 6, rngs=rngs), rngs=nnx.Rngs(0))
    graphdef, params, stats = split(Sequential({"loop": cell, "blocks": repeat}))
    x = jnp.ones((2, 7, 4))
    watched = jax.jit(lambda p: capture(nnx.merge(graphdef, p, stats), x))(params)
    assert watched.keys() == {"loop", "blocks/block"}
    assert watched["blocks/block"]["output"].shape == (2, 6)


def test_a_terminal_shows_the_same():
    found = summarize(abstract(chain), (64,), batch=32)
    console = Console(width=150, record=True, force_terminal=False, file=io.StringIO())
    tables = rich_tables(found)
    assert fits(console, tables)
    assert not fits(Console(width=60), tables)
    console.print(tables)
    shown = console.export_text()
    for line in table(found).splitlines():
        for word in line.split():
            if not set(word) <= {"-"}:
                assert word in shown, word


def test_options_of_the_command(capsys):
    assert main(["summary", "mlp", "--no-macs", "--batch", "3"]) == 0
    shown = capsys.readouterr().out
    assert "MACs" not in shown and "Kept by a step of 3, lean" in shown
    assert main(["summary", "mlp", "--batch", "0", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["activations"]
    assert (found["batch"], found["training"]) == (0, {})
    assert main(["summary", "mlp", "--batch", "-1"]) == 2
    assert capsys.readouterr().err.startswith("binjax: summary --batch: -1")
    assert main(["summary", "mlp", "--no-macs", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["params"] and not {"macs", "ops", "ace", "energy_model_pj"} & {*found}
    assert "macs" not in found["layers"][0]
    assert main(["summary", "mlp", "--no-macs", "--csv"]) == 0
    assert "mac" not in capsys.readouterr().out.splitlines()[0]
    assert main(["summary", "mlp", "--json", "--csv"]) == 2
    assert capsys.readouterr().err == "binjax: summary: takes --json or --csv, not both\n"
