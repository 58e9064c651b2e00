"""Files for Larq Compute Engine, read back and executed by `lce_reference`."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from deployed import images_for, randomize
from flax import nnx
from lce_reference import execute, parse

from binjax import deploy, models
from binjax.deploy.graph import Graph, expected_tensors, largest_sum, shapes
from binjax.deploy.operations import (
    Affine,
    Conv,
    Dense,
    DeployError,
    Flatten,
    Image,
    MaxPool,
    Real,
    Scores,
    Sign,
    Threshold,
    ToFloat,
)
from binjax.deploy.packed import PackedModel
from binjax.deploy.tflite import to_tflite, write_tflite
from binjax.xnor.geometry import Geometry

pytest.importorskip("flatbuffers", reason="flatbuffers is not installed (extra `tflite`)")
pytestmark = pytest.mark.filterwarnings("ignore::binjax.xnor.SlowerBackendWarning")


def model_of(ops, shape, dtype="uint8", seed=0):
    """A graph with random arrays; thresholds inside and beyond all sums."""
    graph, rng = Graph(Image(shape, dtype, ""), tuple(ops)), np.random.default_rng(seed)
    products = {op.name: op for op in ops if isinstance(op, Dense | Conv)}
    last = {f"{name}.words": op.elements for name, op in products.items()}
    last |= {
        f"{name}.words": op.geometry.channels
        for name, op in products.items()
        if isinstance(op, Conv) and op.operand == "bits"
    }
    for op, shape_after in zip(ops, shapes(graph), strict=True):
        last |= {f"{op.name}.flip": shape_after[-1]}
    tensors = {}
    for name, (kind, size) in expected_tensors(graph).items():
        op = products.get(name.rsplit(".", 1)[0])
        if name.endswith(".threshold"):
            spread = np.sqrt(op.elements) * (100 if op.operand == "pixels" else 1)
            values = rng.normal(size=size) * spread
            values[:2] = largest_sum(op) + 1, -(1 << 31)
        elif kind == np.uint32:
            values = rng.integers(0, 1 << 32, size, np.uint32)
            values[..., -1] &= np.uint32((1 << (last[name] % 32 or 32)) - 1)
        else:
            values = rng.normal(size=size)
        tensors[name] = values.astype(kind)
    return PackedModel(graph, tensors)


BITS, SCORES = Threshold(), Scores(1.0)


def conv(name, n_in, n_out, kernel=(3, 3), padding=(0, 0, 0, 0), value=0, rule=BITS, **options):
    geometry = Geometry(
        n_in, options.get("strides", (1, 1)), options.get("dilation", (1, 1)), padding, value
    )
    operand = options.get("operand", "bits")
    return Conv(name, operand, n_out, kernel, geometry, options.get("groups", 1), rule)


def bordered(*between, n=40, **options):
    """Pixels, a layer, what is between, the layer in question, and scores."""
    first = conv("first", 2, n, (2, 2), operand="pixels")
    return [first, *between, conv("second", n, 33, **options)]


def pool(name="pool", window=(2, 2), strides=(2, 1)):
    return MaxPool(name, window, strides)


def after(ops, shape):
    high, wide, n = shape
    for op in ops:
        if isinstance(op, MaxPool):
            high, wide = (
                (size - w) // s + 1
                for size, w, s in zip((high, wide), op.window, op.strides, strict=True)
            )
        else:
            (high, wide), n = op.geometry.output((high, wide), op.kernel), op.outputs
    return high, wide, n


def scored(ops, shape):
    high, wide, n = after(ops, shape)
    return [*ops, Flatten("flatten"), Dense("last", "bits", high * wide * n, 5, SCORES)]


SHAPE, ROUND = (9, 8, 2), (1, 1, 1, 1)
CASES = {
    "zeros, SAME": (bordered(padding=ROUND), {"LceQuantize"}),
    "zeros, SAME with strides": (bordered(padding=(0, 1, 1, 1), strides=(2, 2)), {"LceQuantize"}),
    "zeros, uneven": (bordered(kernel=(3, 2), padding=(2, 0, 1, 3)), {"PAD", "SUB"}),
    "zeros, dilated": (bordered(padding=(2, 2, 2, 2), dilation=(2, 2)), {"LceQuantize"}),
    "ones, SAME": (bordered(padding=ROUND, value=1), set()),
    "ones, uneven": (bordered(padding=(0, 2, 1, 0), value=1, strides=(2, 1)), {"PAD"}),
    "minus ones": (bordered(padding=ROUND, value=-1), {"LceDequantize", "PADV2"}),
    "minus ones, words": (bordered(padding=ROUND, value=-1, n=64), {"PADV2"}),
    "ones behind a pool": (bordered(pool(), padding=ROUND, value=1), {"LceBMaxPool2d", "PADV2"}),
    "zeros behind a pool": (bordered(pool(), padding=ROUND), {"LceBMaxPool2d"}),
    "two pools": (bordered(pool(), pool("again"), kernel=(1, 2)), {"LceDequantize"}),
}


def case(name):
    ops, wanted = CASES[name]
    return model_of(scored(ops, SHAPE), SHAPE), wanted


MORE = {
    "grouped": lambda: model_of(
        scored(
            [
                conv("first", 2, 64, operand="pixels", padding=(1, 2, 0, 1)),
                pool(),
                conv("second", 32, 6, (2, 2), groups=2, padding=(0, 1, 0, 1)),
            ],
            SHAPE,
        ),
        SHAPE,
    ),
    "signs of floats": lambda: model_of(
        [
            Sign("sign"),
            conv("first", 2, 35, (2, 3), (1, 0, 1, 1), 1),
            Flatten("flatten"),
            Dense("dense", "bits", 9 * 8 * 35, 70, BITS),
            Dense("last", "bits", 70, 5, SCORES),
        ],
        SHAPE,
        "float32",
    ),
    "largest sums": lambda: model_of(
        [Sign("sign"), *scored([conv("first", 2, 34, (1, 1))], SHAPE)], SHAPE, "float32"
    ),
    "one layer": lambda: model_of(
        [Flatten("f"), Dense("last", "pixels", 144, 5, Scores(float(np.float32(1 / 255)), True))],
        SHAPE,
    ),
    "scores of a convolution": lambda: model_of(
        [
            conv("first", 2, 33, operand="pixels", padding=ROUND),
            conv("last", 33, 7, (9, 8), rule=Scores(1.0, True)),
        ],
        SHAPE,
    ),
    "one channel": lambda: model_of(
        [
            Flatten("flatten"),
            Dense("first", "pixels", 144, 2, BITS),
            Dense("last", "bits", 2, 5, SCORES),
        ],
        SHAPE,
    ),
}
ALL = {**{name: lambda name=name: case(name)[0] for name in CASES}, **MORE}


@pytest.mark.parametrize("name", ALL)
def test_every_bit_and_score(name):
    model = ALL[name]()
    images = images_for(model.graph, 5)
    np.testing.assert_array_equal(execute(to_tflite(model), images), model(images))


@pytest.mark.parametrize("name", CASES)
def test_operators_that_a_border_takes(name):
    model, wanted = case(name)
    _, operators, _, _ = parse(to_tflite(model))
    codes = {code for code, *_ in operators}
    assert wanted <= codes
    if not wanted:  # from bits to bits in one operator
        assert [code for code, *_ in operators].count("LceQuantize") == 1


NETWORKS = {
    "mlp": ((6, 5, 1), {"widths": (40, 33)}),
    "mlp, shift": ((6, 5, 1), {"widths": (64,), "norm": {"kind": "shift"}}),
    "cifar10_convnet": ((8, 8, 3), {"channels": (20, 32), "widths": (40,)}),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_trained_networks(name):
    shape, options = NETWORKS[name]
    build = models.MODELS[name.split(",")[0]]
    model = deploy.pack(randomize(build(shape, 7, pixels=True, rngs=nnx.Rngs(0), **options)), shape)
    images = images_for(model.graph, 6)
    found, own = execute(to_tflite(model), images), np.asarray(model(images))
    np.testing.assert_array_equal(found, own)


def test_layers_that_stayed_float():
    ops = [
        ToFloat("scaled", "pixels"),
        Real("a", 18, 33, (3, 3), Geometry(2, (1, 1), (1, 1), (1, 1, 1, 1), 0)),
        Affine("a-norm"),
        MaxPool("a-pool", (2, 2), (2, 2)),
        Sign("a-sign"),
        conv("b", 33, 40, padding=ROUND, value=1),
        pool(),
        ToFloat("c-input", "bits"),
        Real("c", 160, 9, (2, 2), Geometry(40, (2, 1), (1, 1), (1, 0, 2, 0), 1)),
        Affine("c-norm"),
        Flatten("flatten"),
        Real("d", 36, 5, None, None),
        Affine("d-norm"),
    ]
    model = model_of(ops, (9, 8, 2))
    images = images_for(model.graph, 4)
    found = execute(to_tflite(model), images)
    np.testing.assert_allclose(found, model(images), rtol=1e-4, atol=1e-3)


def test_flat_bits_become_floats():
    ops = [Sign("sign"), Flatten("flatten"), ToFloat("in", "bits"), Real("d", 144, 5, None, None)]
    model = model_of([*ops, Affine("norm")], SHAPE, "float32")
    images = images_for(model.graph, 4)
    np.testing.assert_allclose(
        execute(to_tflite(model), images), model(images), rtol=1e-5, atol=1e-5
    )


def test_inputs_outputs_and_size():
    shape = (28, 28, 1)
    network = models.MODELS["mlp"](shape, 10, pixels=True, rngs=nnx.Rngs(0), widths=(256, 256))
    data = to_tflite(deploy.pack(network, shape))
    tensors, _, (first,), (last,) = parse(data)
    assert (tensors[first][0], tensors[first][1]) == ((1, 28, 28, 1), np.uint8)
    assert (tensors[last][0], tensors[last][1]) == ((1, 10), np.float32)
    assert tensors[first][3] == "pixels" and tensors[last][3] == "scores"
    assert b"takes uint8 [n, height, width, channels] of 28x28x1" in data
    weights = 784 * 256 + 256 * 256 + 256 * 10
    assert len(data) < weights / 8 + 16_000


def test_written_whole(tmp_path):
    model = ALL["one layer"]()
    path = tmp_path / "out" / "model.tflite"
    write_tflite(model, path)
    assert path.read_bytes() == to_tflite(model)
    assert [p.name for p in path.parent.iterdir()] == ["model.tflite"]


def test_without_flatbuffers(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with pytest.raises(DeployError, match=r"pip install 'binjax\[export\]'"):
        write_tflite(ALL["one layer"](), tmp_path / "model.tflite")
    assert not list(tmp_path.iterdir())


def test_groups_of_part_of_a_word():
    ops = [Sign("sign"), conv("grouped", 1, 4, (9, 8), groups=2, rule=SCORES)]
    with pytest.raises(DeployError, match=r"grouped .conv. has 2 groups of 1 channels"):
        to_tflite(model_of(ops, SHAPE, "float32"))


def test_too_many_products():
    shape = (200, 200, 1)
    model = model_of([Flatten("flat"), Dense("large", "pixels", 40_000, 2, SCORES)], shape)
    with pytest.raises(DeployError, match="large sums 40000 products of pixels"):
        to_tflite(model)


def test_the_script_without_lce(tmp_path):
    ALL["one layer"]().save(tmp_path / "model.binjax")
    script = Path(__file__).parents[1] / "scripts" / "check_lce.py"
    words = [sys.executable, script, tmp_path / "model.binjax", "--python", sys.executable]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if importlib.util.find_spec("larq_compute_engine") is not None:
        pytest.skip("LCE is here")
    assert (done.returncode, done.stderr) == (2, "")
    assert "Larq Compute Engine cannot be imported by" in done.stdout
