"""What a network weighs: Larq's published counts, and sums over rows."""

import json
from dataclasses import replace
from functools import partial

import jax.numpy as jnp
import pytest
from flax import nnx

from binjax.layers import (
    BatchNorm,
    BinaryConv,
    BinaryConvTranspose,
    BinaryDense,
    BinaryDepthwiseConv,
    BinaryGRUCell,
    BinaryLocallyConnected,
    BinarySeparableConv,
    BinaryWeight,
    Flatten,
    GlobalAvgPool,
    PReLU,
    Recurrent,
    Repeat,
    Residual,
    Sequential,
    ShiftBatchNorm,
    capture,
)
from binjax.models import MODELS
from binjax.models.options import Compute
from binjax.ste import Stochastic, absmax, declare, dorefa, ste_sign
from binjax.summary import (
    Products,
    arithmetic_effort,
    as_csv,
    energy_model,
    operations,
    summarize,
    table,
)


def of_model(kind, shape, **options):
    model = nnx.eval_shape(lambda: MODELS[kind](shape, 10, rngs=nnx.Rngs(0), **options))
    return summarize(model, shape)


@pytest.fixture(scope="module")
def larq():
    return of_model("larq_cifar10", (32, 32, 3))


def test_larq_tutorial(larq):
    """docs.larq.dev, "BinaryNet on CIFAR10": the summary printed there."""
    assert larq.keras_params == 10_363_550
    assert larq.trainable == 10_355_850
    assert (larq.params_1bit, larq.params_32bit) == (10_352_000, 7_700)
    assert larq.params == 10_359_700
    assert larq.macs == {"1": 510_961_664, "2": 0, "32": 3_110_400}
    assert larq.memory_bytes == 1_324_800


def test_rows_of_the_larq_tutorial(larq):
    rows = {row.name: row for row in larq.rows}
    assert [row.name for row in larq.rows] == [
        f"{'conv' if i < 7 else 'dense'}{i}" if part == "kernel" else f"norm{i}"
        for i in range(1, 10)
        for part in ("kernel", "norm")
    ]
    assert (rows["conv1"].input_bits, rows["conv1"].kernel_bits) == (32, 1)
    assert (rows["conv2"].input_bits, rows["conv2"].kernel_bits) == (1, 1)
    assert rows["conv1"].macs == 3_110_400 == 30 * 30 * 3 * 3 * 3 * 128
    assert rows["conv2"].macs == 30 * 30 * 3 * 3 * 128 * 128
    assert rows["conv6"].output_shape == (7, 7, 512)
    assert rows["dense7"].params_1bit == 4608 * 1024
    assert rows["norm1"].params_32bit == 256
    assert rows["norm1"].macs == 0


@pytest.mark.parametrize(
    ("kind", "shape", "trainable", "binary"),
    [
        ("mlp", (28, 28, 1), 36_843_550, 36_806_656),
        ("cifar10_convnet", (32, 32, 3), 14_033_566, 14_022_016),
        ("svhn_convnet", (32, 32, 3), 6_406_494, 6_397_632),
    ],
)
def test_the_papers_networks(kind, shape, trainable, binary):
    found = of_model(kind, shape)
    assert (found.trainable, found.params_1bit) == (trainable, binary)
    # With scale and bias, what deployed batch norms hold is what they learned.
    assert found.params_32bit == trainable - binary
    assert found.keras_params == trainable + (trainable - binary) * 2 // 3


def test_totals_are_sums_of_rows(larq):
    assert larq.params_1bit == sum(row.params_1bit for row in larq.rows)
    assert larq.params_32bit == sum(row.params_32bit for row in larq.rows)
    assert larq.memory_bytes == sum(row.memory_bytes for row in larq.rows)
    assert sum(larq.macs.values()) == sum(row.macs for row in larq.rows)


def build(*layers):
    """A chain of layers made by functions of rngs, abstract."""

    def make():
        rngs = nnx.Rngs(0)
        return Sequential({f"layer{i}": layer(rngs) for i, layer in enumerate(layers)})

    return nnx.eval_shape(make)


def test_every_kind_of_layer():
    model = build(
        lambda rngs: BinaryConv(
            3, 5, (2, 3), input_quantizer=None, padding="VALID", use_bias=True, rngs=rngs
        ),
        lambda rngs: ShiftBatchNorm(5),
        lambda rngs: BinaryConv(5, 2, strides=(2, 2), rngs=rngs),
        lambda rngs: Flatten(),
        lambda rngs: BatchNorm(4 * 3 * 2, use_scale=False),
        lambda rngs: BinaryDense(24, 7, kernel_quantizer=None, rngs=rngs),
        lambda rngs: BinaryDense(7, 3, input_quantizer=None, kernel_quantizer=None, rngs=rngs),
    )
    found = summarize(model, (8, 8, 3))  # 7x6 behind the first layer, 4x3 behind the second
    rows = {row.name: row for row in found.rows}
    assert "layer3" not in rows
    assert rows["layer0"].output_shape == (7, 6, 5)
    assert (rows["layer0"].params_1bit, rows["layer0"].params_32bit) == (2 * 3 * 3 * 5, 5)
    assert rows["layer0"].macs == 2 * 3 * 3 * 5 * 7 * 6
    assert rows["layer2"].macs == 9 * 5 * 2 * 4 * 3
    # A binary input and a real kernel count as 32-bit.
    assert [rows["layer5"].input_bits, rows["layer5"].kernel_bits] == [1, 32]
    assert (rows["layer5"].params_1bit, rows["layer5"].params_32bit) == (0, 24 * 7)
    assert [rows["layer6"].input_bits, rows["layer6"].kernel_bits] == [32, 32]
    assert found.macs == {"1": 1080, "2": 0, "32": 3780 + 24 * 7 + 21}
    assert found.params_1bit == 90 + 90
    assert found.params_32bit == 5 + 10 + 48 + 168 + 21
    assert found.memory_bytes == 23 + 4 * found.params_32bit  # 180 bits: rounded up to bytes
    assert found.trainable == 90 + 5 + 10 + 90 + 24 + 168 + 21
    assert found.keras_params == found.trainable + 10 + 48


def test_a_real_model_is_left_as_it_was():
    model = MODELS["mlp"]((4, 4, 1), 3, widths=(8,), rngs=nnx.Rngs(0))
    before = nnx.to_pure_dict(nnx.state(model))
    assert summarize(model, (4, 4, 1)).trainable == 16 * 8 + 8 * 3 + 3 * (8 + 3)
    after = nnx.to_pure_dict(nnx.state(model))
    assert before.keys() == after.keys()
    assert jnp.array_equal(before["dense1"]["kernel"], after["dense1"]["kernel"])


def test_json(larq):
    found = json.loads(json.dumps(larq.as_json()))
    assert found["params"] == 10_359_700
    assert found["macs"] == {"1": 510_961_664, "2": 0, "32": 3_110_400}
    assert found["memory_bytes"] == 1_324_800
    assert [layer["name"] for layer in found["layers"]][:2] == ["conv1", "norm1"]
    assert set(found) == {
        *("params", "params_1bit", "params_32bit", "trainable", "keras_params"),
        *("memory_bytes", "macs", "layers", "params_by_bits", "non_trainable"),
        *("memory_bytes_8bit", "memory_bytes_float32", "ternary_macs_ratio", "activations"),
        *("binary_macs_ratio", "ops", "ace", "energy_model_pj"),
    }
    assert found["layers"][0]["memory_bytes"] == 432 and found["layers"][0]["mac_bits"] == 32


def test_table():
    options = {"widths": (16,), "use_bias": False, "input_dropout": 0.0, "hidden_dropout": 0.0}
    found = of_model("mlp", (2, 2, 1), **options, pixels=True, compute=Compute("xla"))
    lines = [line.rstrip() for line in table(found).splitlines()]
    assert lines[0].split("  ")[0] == "layer"
    assert [" ".join(line.split()) for line in lines[:8]] == [
        "layer kind outputs input bits kernel bits 1-bit x 1 32-bit x 1 memory (kB) "
        "1-bit MACs 32-bit MACs product in training",
        lines[1],
        "dense1 BinaryDense 16 32 1 64 0 0.01 0 64 8-bit pixels, xla",
        "norm1 BatchNorm 16 - - 0 32 0.12 0 0",
        "dense2 BinaryDense 10 1 1 160 0 0.02 160 0 xla",
        "norm2 BatchNorm 10 - - 0 20 0.08 0 0",
        lines[1],
        "total 224 52 0.23 160 64",
    ]
    assert set(lines[1]) == {"-"}
    assert [line[:33].rstrip() for line in lines[9:17]] == [
        "Total params",
        "Trainable params",
        "Non-trainable params",
        "Params as Keras counts",
        "Model size",
        "Model size (8-bit FP weights)",
        "Float-32 equivalent",
        "Compression ratio of memory",
    ]
    assert [line[33:] for line in lines[9:]] == [
        *("276", "276", "52", "328"),
        *("236.00 B", "80.00 B", "1.08 KiB", "0.2138 (1 to 4.7)"),
        *("224", "0.7143", "66", "672"),  # 64 of 8 bits by 1, 160 of 1 by 1
        "0.000 µJ of arithmetic, 0.0 µJ to read the weights once",
        "104.00 B float, 68.00 B packed",
    ]


def test_a_table_without_macs():
    """Larq's option of that name leaves them in the rows."""
    found = of_model("mlp", (2, 2, 1), widths=(16,))
    assert "MACs" in table(found)
    for word in ("MACs", "OPs", "ACE", "nergy"):
        assert word not in table(found, macs=False)


def test_the_table_of_the_larq_tutorial(larq):
    """Three digits and sizes as larq 0.13.3 prints them for that network."""
    lines = table(larq).splitlines()
    told = {line[:33].rstrip(): line[33:] for line in lines}
    assert told["Total params"] == "10,359,700 (10.4 M)"
    assert told["Non-trainable params"] == "7,700 (7.7 k)"
    assert told["Params as Keras counts"] == "10,363,550 (10.4 M)"
    assert told["Model size"] == "1.26 MiB"
    assert told["Model size (8-bit FP weights)"] == "1.24 MiB"
    assert told["Float-32 equivalent"] == "39.52 MiB"
    assert told["Number of MACs"] == "514,072,064 (514 M)"
    assert told["Ratio of MACs that are binarized"] == "0.9939"
    assert all(line == line.rstrip() for line in lines)


@pytest.mark.parametrize(
    ("n", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1,000 (1 k)"),
        (999_499, "999,499 (999 k)"),
        (999_500, "999,500 (1 M)"),
        (12_345_678_901, "12,345,678,901 (12.3 B)"),
        (10**15, "1,000,000,000,000,000 (1.00E+15)"),
    ],
)
def test_rounding(n, text):
    """As larq's ``_number_as_readable_str``."""
    work = replace(of_model("mlp", (2, 2, 1), widths=(4,)), params=n)
    assert f"Total params                     {text}\n" in table(work)


def test_precision_is_what_quantizers_declare():
    def mine(x):
        return ste_sign(x)

    def count(**quantizers):
        layer = BinaryDense(8, 4, **quantizers, rngs=nnx.Rngs(0))
        return layer, summarize(Sequential({"dense": layer}), (8,))

    layer, found = count(kernel_quantizer="noop", input_quantizer="noop")
    assert not isinstance(layer.kernel, BinaryWeight)
    assert (found.params_1bit, found.macs["1"]) == (0, 0)
    layer, found = count(kernel_quantizer=mine, input_quantizer=mine)
    assert isinstance(layer.kernel, BinaryWeight)
    assert (found.params_1bit, found.macs["32"]) == (0, 32)
    declared = declare(bits=1)(mine)
    assert count(kernel_quantizer=declared, input_quantizer=declared)[1].macs["1"] == 32
    coarse = declare(bits=4)(lambda x: jnp.round(x * 8) / 8)
    assert count(input_quantizer=coarse)[1].macs == {"1": 0, "2": 0, "32": 0, "4": 32}
    narrow = partial(ste_sign, clip_value=0.5)
    pair = Stochastic(training=lambda key, x: ste_sign(x), evaluation=ste_sign, bits=1)
    assert count(kernel_quantizer=narrow, input_quantizer=pair)[1].macs["1"] == 32


def test_costs():
    """By hand: 64 float by 1-bit products and 160 of 1 by 1 bit, then of 8 by 2 bits."""
    work = [Products(64, 32, 1), Products(160, 1, 1), Products(10, 8, 2)]
    assert operations(work) == 64 + 160 / 64 + 10
    assert arithmetic_effort(work) == 64 * 32 + 160 + 10 * 16
    model = energy_model(work, 80)
    assert model["arithmetic"] == pytest.approx(64 * 4.6 + 160 * 0.2 / 32 + 10 * 0.23)
    assert model["weights_from_dram"] == 10 * 1300


@pytest.mark.parametrize(
    ("pixels", "bits", "pj"), [(True, 8, 0.23), (False, 32, 4.6)], ids=["pixels", "floats"]
)
def test_costs_of_a_first_layer(pixels, bits, pj):
    """8-bit pixels are multiplied as such, images scaled to floats as floats; Larq's columns say 32
    of both."""
    found = of_model("larq_cifar10", (32, 32, 3), pixels=pixels)
    assert found.ace == 3_110_400 * bits + 510_961_664
    arithmetic = 3_110_400 * pj + 510_961_664 * 0.2 / 32
    assert found.energy_model_pj["arithmetic"] == pytest.approx(arithmetic)
    assert found.ops == 3_110_400 + 510_961_664 / 64
    assert found.macs == {"1": 510_961_664, "2": 0, "32": 3_110_400}
    first = found.rows[0]
    assert (first.input_bits, first.kernel_bits, first.mac_bits) == (32, 1, 32)
    assert first.operand_bits == bits


@pytest.mark.parametrize(
    ("quantizer", "bits"),
    [
        (partial(dorefa, k_bit=3), 3),
        ("absmax", 8),
        (partial(absmax, k_bit=4), 4),
        ("ste_tern", 2),
        (None, 32),
    ],
)
def test_costs_of_quantized_inputs(quantizer, bits):
    """Of 4 to 6 channels, kernels of 3x3, on 8x8; results of the local one are 6x6."""
    options = {"input_quantizer": quantizer}
    layers = {
        "dense": lambda rngs: BinaryDense(4, 6, **options, rngs=rngs),
        "conv": lambda rngs: BinaryConv(4, 6, **options, rngs=rngs),
        "grouped": lambda rngs: BinaryConv(4, 6, groups=2, **options, rngs=rngs),
        "depthwise": lambda rngs: BinaryDepthwiseConv(4, **options, rngs=rngs),
        "separable": lambda rngs: BinarySeparableConv(4, 6, **options, rngs=rngs),
        "transposed": lambda rngs: BinaryConvTranspose(4, 6, (3, 3), **options, rngs=rngs),
        "local": lambda rngs: BinaryLocallyConnected(4, 6, (8, 8), 3, **options, rngs=rngs),
        "ternary": lambda rngs: BinaryConv(4, 6, kernel_quantizer="ste_tern", **options, rngs=rngs),
    }
    ace = {name: summarize(build(layer), (8, 8, 4)).ace for name, layer in layers.items()}
    assert ace == {
        "dense": 64 * 4 * 6 * bits,
        "conv": 64 * 9 * 4 * 6 * bits,
        "grouped": 64 * 9 * 2 * 6 * bits,
        "depthwise": 64 * 9 * 4 * bits,
        "separable": 64 * 9 * 4 * bits + 64 * 4 * 6 * 32,  # nothing is quantized between the two
        "transposed": 64 * 9 * 4 * 6 * bits,
        "local": 36 * 9 * 4 * 6 * bits,
        "ternary": 64 * 9 * 4 * 6 * bits * 2,
    }
    cell = build(lambda rngs: Recurrent(BinaryGRUCell(4, 6, **options, rngs=rngs), last=True))
    assert summarize(cell, (7, 4)).ace == 7 * 4 * 18 * bits + 7 * 6 * 18  # its state is of 1 bit


def test_layers_beside_dense_and_convolution():
    model = build(
        lambda rngs: BinaryConv(4, 6, groups=2, rngs=rngs),
        lambda rngs: BinaryConvTranspose(6, 3, (3, 3), strides=2, rngs=rngs),
        lambda rngs: BinaryLocallyConnected(3, 2, (16, 16), 3, rngs=rngs),
        lambda rngs: BinarySeparableConv(2, 5, rngs=rngs),
        lambda rngs: Residual(Sequential({"b": BinaryConv(5, 5, rngs=rngs), "a": BatchNorm(5)})),
        lambda rngs: PReLU(5),
        lambda rngs: GlobalAvgPool(),
        lambda rngs: BinaryDense(5, 2, kernel_quantizer="absmean_ternary", rngs=rngs),
    )
    found = summarize(model, (8, 8, 4))
    rows = {row.name: row for row in found.rows}
    assert rows["layer0"].macs == 8 * 8 * 9 * 2 * 6
    assert rows["layer1"].macs == 8 * 8 * 9 * 6 * 3  # for every input, not for every output
    assert rows["layer1"].output_shape == (16, 16, 3)
    assert rows["layer2"].macs == rows["layer2"].params_1bit == 14 * 14 * 27 * 2
    assert rows["layer3/depthwise"].mac_bits == 1
    assert rows["layer3/depthwise"].macs == 14 * 14 * 9 * 2
    assert rows["layer3/pointwise"].mac_bits == 32  # nothing is quantized between the two
    assert rows["layer5"].params_32bit == 5
    assert rows["layer7"].params_kbit == 10 and rows["layer7"].mac_bits == 2
    assert found.params_by_bits["2"] == 10
    assert found.params == sum(found.params_by_bits.values())
    # In the order in which they are called, and chains in theirs.
    assert [row.name for row in found.rows] == [
        *("layer0", "layer1", "layer2", "layer3/depthwise", "layer3/pointwise"),
        *("layer4/body/b", "layer4/body/a", "layer5", "layer7"),
    ]
    text = table(found)
    assert "2-bit x 1" in text and "2-bit MACs" in text


def test_a_recurrent_layer_is_counted_at_every_step():
    model = build(lambda rngs: Recurrent(BinaryGRUCell(4, 6, rngs=rngs), last=True))
    found = summarize(model, (7, 4))
    assert {row.name: row.macs for row in found.rows if row.macs} == {
        "layer0/cell/inputs": 7 * 4 * 18,
        "layer0/cell/hidden": 7 * 6 * 18,
    }


def test_repeated_blocks_are_recorded_and_counted():
    def block(rngs):
        return Sequential({"dense": BinaryDense(8, 8, rngs=rngs), "norm": BatchNorm(8)})

    rngs = nnx.Rngs(0)
    layers = {"blocks": Repeat(3, block, rngs=rngs), "last": BinaryDense(8, 2, rngs=rngs)}
    found = summarize(Sequential(layers), (8,))
    assert [(row.name, row.params_1bit, row.macs) for row in found.rows] == [
        ("blocks/block/dense", 3 * 64, 3 * 64),
        ("blocks/block/norm", 0, 0),
        ("last", 16, 16),
    ]
    recorded = capture(Sequential(layers), jnp.ones((1, 8)))
    assert set(recorded) == {"blocks/block/dense", "last"}


def test_csv(larq):
    lines = as_csv(larq).splitlines()
    assert lines[0].startswith("name,kind,output_shape,input_bits,kernel_bits,params_1bit")
    assert lines[1].startswith("conv1,BinaryConv,30x30x128,32,1,3456,0,0,432.0,3110400,32,")
    assert len(lines) == len(larq.rows) + 1
