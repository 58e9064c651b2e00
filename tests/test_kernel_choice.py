"""Which kernel a layer multiplies on: what is refused, what floats are taken for, what is told."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from runs import cli, write_config

from binjax import config, train
from binjax.config import ConfigError
from binjax.layers import BinaryConv, BinaryDense, Sequential, apply, products, split
from binjax.layers.choice import BACKENDS, describe
from binjax.models import MODELS
from binjax.models.options import Compute
from binjax.ste import declare, ste_sign
from binjax.xnor import backends
from binjax.xnor.dispatch import triton_problem
from binjax.xnor.geometry import Geometry
from binjax.xnor.gradient_ops import floats_instead
from binjax.xnor.native import native

pytestmark = pytest.mark.filterwarnings("ignore::binjax.xnor.SlowerBackendWarning")

PACKED = [
    "xla",
    pytest.param(
        "native",
        marks=pytest.mark.skipif("native" not in backends(), reason="no native library here"),
    ),
]


def dense(n_in=8, n_out=4, **options):
    return BinaryDense(n_in, n_out, **options, rngs=nnx.Rngs(0))


def conv(n_in=3, n_out=4, **options):
    return BinaryConv(n_in, n_out, **options, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("backend", PACKED)
@pytest.mark.parametrize(
    ("make", "options", "why"),
    [
        (dense, {"input_quantizer": None}, "the input is real"),
        (conv, {"input_quantizer": None}, "the input is real"),
        (dense, {"kernel_quantizer": None}, "the kernel is not binarized"),
        (dense, {"kernel_quantizer": "noop"}, "the kernel quantizer noop has 32 bits"),
        (dense, {"input_quantizer": "noop"}, "the input quantizer noop has 32 bits"),
        (dense, {"input_quantizer": jnp.sign}, "the input quantizer sign declares no precision"),
        (dense, {"dropout": 0.5}, "dropout 0.5 makes zeros of ±1 inputs"),
        (conv, {"pad_value": 0.5}, "pad_value 0.5 is not -1, 0 or 1"),
    ],
)
def test_what_a_packed_back_end_refuses(backend, make, options, why):
    name = "BinaryDense" if make is dense else "BinaryConv"
    with pytest.raises(
        ValueError, match=f"^{name}: backend = '{backend}' multiplies bits, but "
    ) as e:
        make(backend=backend, **options)
    assert why in str(e.value)
    assert 'take backend = "auto" (floats where they are needed) or "float"' in str(e.value)
    layer = make(**options)
    assert layer.floats_because(train=True) == why
    assert (layer.floats_because(train=False) is None) == ("dropout" in options)


def test_unknown_back_ends():
    for make in (dense, conv):
        with pytest.raises(
            ValueError, match="backend is 'cuda'; choose 'auto', 'float', 'xla', 'n"
        ):
            make(backend="cuda")
    assert BACKENDS == ("auto", "float", "xla", "native", "triton")
    if triton_problem() is not None:  # where it can be compiled, so can programs for other machines
        with pytest.raises(ValueError, match="backend='triton' cannot be used"):
            dense(backend="triton")


def test_sums_that_16_bits_do_not_hold():
    layers = {"dense": dense(32768, 2)}
    with pytest.raises(
        ValueError, match='dense sums 32768 products, memory = "int16" holds up to 3'
    ):
        Sequential(layers, memory="int16")
    Sequential(layers, memory="lean")
    Sequential({"dense": dense(32768, 2, backend="float")}, memory="int16")
    with pytest.raises(ValueError, match="memory is 'small'; choose 'full', 'int16', 'lean'"):
        Sequential(layers, memory="small")
    model = Sequential({"dense": dense(32767, 2)}, memory="int16")
    model.dense.kernel[...] = jnp.ones((32767, 2))
    graphdef, params, stats = split(model)
    for value in (1.0, -1.0):
        x = jnp.full((8, 32767), value)
        gradient = jax.grad(
            lambda p, x=x: jnp.sum(apply(graphdef, p, stats, x, train=True)[0] ** 2)
        )
        # 2 y x, summed over eight rows; y and x have the same sign
        np.testing.assert_array_equal(gradient(params)["dense"]["kernel"], 2 * 32767.0 * 8)


@pytest.mark.parametrize(
    ("make", "options", "wants"),
    [
        (dense, {"input_quantizer": "approx_sign"}, "no input quantizer, not approx_sign"),
        (dense, {"kernel_quantizer": None}, "a binary kernel quantizer"),
        (conv, {"kernel_quantizer": "noop"}, "a binary kernel quantizer"),
        (conv, {"pad_value": 1}, "pad_value 0, not 1"),
        (conv, {"pad_value": -1}, "pad_value 0, not -1"),
        (dense, {"n_in": 65794}, "at most 65793 inputs, not 65794"),
        (conv, {"n_in": 7311}, "at most 65793 inputs, not 65799"),
    ],
)
def test_what_pixels_do_not_go_with(make, options, wants):
    with pytest.raises(ValueError, match=r"pixels = True wants .*; pixels = False takes") as error:
        make(**options, pixels=True)
    assert f"pixels = True wants {wants}; pixels = False takes real inputs" in str(error.value)


def test_inputs_of_the_wrong_kind():
    images = np.zeros((2, 5, 5, 3), np.uint8)
    message = "pixels=True takes uint8 images, got float32; pixels=False takes scaled ones"
    for train_ in (False, True):
        with pytest.raises(TypeError, match=f"BinaryConv with {message}"):
            conv(pixels=True)(images.astype(np.float32), train=train_)
    with pytest.raises(TypeError, match=r"with pixels=True takes uint8 images, got int32"):
        dense(pixels=True)(np.zeros((2, 8), np.int32))
    with pytest.raises(TypeError, match="floating dtype, got uint8 inputs; scale images to floats"):
        conv(input_quantizer=None)(images)
    with pytest.raises(TypeError, match="uint8"):
        conv()(images)
    with pytest.raises(ValueError, match=r"BinaryDense takes \[..., 8\] inputs, got shape"):
        dense(pixels=True)(np.zeros((2, 9), np.uint8))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            [
                *("--model.first-layer", "pixels", "--data.scaling.kind", "standard"),
                *("--data.scaling.mean", "[0.3]", "--data.scaling.std", "[0.4]"),
                *("--model.kind", "cifar10_convnet"),
            ],
            r'model.first_layer: "pixels" needs data.scaling.kind = "unit"',
        ),
        (
            [
                *("--model.first-layer", "pixels", "--data.scaling.kind", "standard"),
                *("--data.scaling.mean", "[0.3]", "--data.scaling.std", "[1e-300]"),
            ],
            "needs a deviation in data.scaling that float32 can divide by",
        ),
        (
            ["--model.first-layer", "pixels", "--model.kernel-quantizer", "noop"],
            "needs a model.kernel_quantizer that binarizes",
        ),
        (
            ["--backend", "xla", "--model.first-layer", "float"],
            "model.kind mlp: BinaryDense: backend = 'xla' multiplies bits, but the input is real",
        ),
        (
            ["--backend", "xla", "--model.hidden-dropout", "0.5"],
            "model.kind mlp: .* but dropout 0.5 makes zeros",
        ),
        (
            ["--memory", "int16", "--model.widths", "[32768, 2]"],
            'model.kind mlp: dense2 sums 32768 products, memory = "int16" holds up to 32767',
        ),
    ],
)
def test_configs_that_contradict_themselves(words, message, tmp_path):
    text = '[model]\nkind = "mlp"\nwidths = [8]\ninput_dropout = 0.0\nhidden_dropout = 0.0\n'
    path = write_config(tmp_path, text)
    with pytest.raises(ConfigError, match=message) as error:
        train.make_task(config.load(path, words), (4, 4, 1), 10, 200)
    assert "\n" not in str(error.value)


@pytest.mark.skipif("native" not in backends(), reason="no native library here")
def test_a_native_config_needs_a_first_layer_that_takes_pixels(tmp_path):
    text = 'backend = "native"\n[model]\nkind = "mlp"\nwidths = [8]\nhidden_dropout = 0.0\n'
    path = write_config(tmp_path, text + "input_dropout = 0.0\n")
    train.make_task(config.load(path), (4, 4, 1), 10, 200)
    with pytest.raises(
        ConfigError, match="backend = 'native' multiplies bits, but the input is re"
    ):
        train.make_task(config.load(path, ["--model.first-layer", "float"]), (4, 4, 1), 10, 200)
    # By default there is input dropout, which takes floats in training.
    path = write_config(tmp_path, text)
    with pytest.raises(ConfigError, match=r"but dropout 0\.2 makes zeros of pixels"):
        train.make_task(config.load(path), (4, 4, 1), 10, 200)


def test_what_is_told():
    best = backends()[0]
    best = f"{best} ({native().isa})" if best == "native" else best
    coarse = declare(bits=2)(lambda x: ste_sign(x) / 2)
    told = {
        best: dense(),
        "xla": dense(backend="xla"),
        'float: backend = "float"': conv(backend="float"),
        "float: the input is real": conv(input_quantizer=None),
        "float: the kernel is not binarized": dense(kernel_quantizer=None),
        "float: the input quantizer <lambda> has 2 bits": dense(input_quantizer=coarse),
        "float: dropout 0.25 makes zeros of ±1 inputs": dense(dropout=0.25),
        "float: pad_value 2 is not -1, 0 or 1": conv(pad_value=2),
        f"8-bit pixels, {best}": conv(pixels=True),
        "8-bit pixels, xla": conv(pixels=True, backend="xla"),
        "float: dropout 0.25 makes zeros of pixels": dense(pixels=True, dropout=0.25),
        '8-bit pixels, float: backend = "float"': dense(pixels=True, backend="float"),
    }
    for words, layer in told.items():
        assert describe(layer.backend, layer.operands, train=True) == words
    assert dense(dropout=0.25).floats_because(train=False) is None


def test_products_of_a_network():
    options = {"widths": (8, 8), "input_dropout": 0.0, "hidden_dropout": 0.5}
    model = nnx.eval_shape(
        lambda: MODELS["mlp"]((4, 4, 1), 3, compute=Compute("auto"), rngs=nnx.Rngs(0), **options)
    )
    assert products(model) == {
        "dense1": "float: the input is real",
        "dense2": "float: dropout 0.5 makes zeros of ±1 inputs",
        "dense3": "float: dropout 0.5 makes zeros of ±1 inputs",
    }


def test_summary_says_it_per_layer(tmp_path, capsys):
    text = 'backend = "xla"\n[model]\nkind = "mlp"\nwidths = [8]\ninput_dropout = 0.0\n'
    path = write_config(tmp_path, text + "hidden_dropout = 0.0\n")
    assert cli("summary", str(path), "--json") == 0
    layers = json.loads(capsys.readouterr().out)["layers"]
    assert {layer["name"]: layer["product"] for layer in layers} == {
        "dense1": "8-bit pixels, xla",
        "norm1": "",
        "dense2": "xla",
        "norm2": "",
    }


def test_groups_of_one_channel_are_evaluated_in_floats():
    """A word of 32 bits would hold one; a back end that is named multiplies bits."""
    x = jax.random.normal(jax.random.key(0), (2, 5, 5, 6))
    layers = {
        backend: BinaryConv(6, 12, groups=6, backend=backend, rngs=nnx.Rngs(0))
        for backend in ("auto", "xla")
    }
    assert "one channel" in str(layers["auto"].floats_because(train=False))
    assert layers["auto"].floats_because(train=True) is None
    assert layers["xla"].floats_because(train=False) is None
    np.testing.assert_array_equal(layers["auto"](x), layers["xla"](x))
    wider = BinaryConv(6, 6, groups=3, rngs=nnx.Rngs(0))
    assert wider.floats_because(train=False) is None


def test_few_rows_are_multiplied_in_floats():
    """Tables of five images do not pay for a matrix gradient of fewer than six rows."""
    plain, conv = (Geometry(8, (1, 1), (1, 1), pads, 0) for pads in ((0,) * 4, (1,) * 4))
    assert "5 rows" in floats_instead("kernel", 5, plain, (1, 1), 1)
    assert floats_instead("kernel", 6, plain, (1, 1), 1) is None
    assert floats_instead("input", 1, plain, (1, 1), 1) is None
    assert floats_instead("kernel", 1, conv, (3, 3), 1) is None
    assert "symbolic" in floats_instead("input", None, plain, (1, 1), 1)


def test_small_batches_are_told():
    """A gradient that is a product of floats is not called packed."""
    if "native" not in backends():
        pytest.skip("no native library here")
    layers = {"dense1": BinaryDense(8, 4, backend="native", rngs=nnx.Rngs(0))}
    isa = f"native ({native().isa})"
    why = "gradient of the kernel float: 5 rows are too few for tables to pay"
    assert products(Sequential(layers), 5) == {"dense1": f"{isa}, {why}"}
    assert products(Sequential(layers), 6) == products(Sequential(layers)) == {"dense1": isa}


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="of machines without a GPU")
def test_a_back_end_of_another_platform_is_refused_before_anything_is_compiled():
    quick = config.Config(backend="triton")
    with pytest.raises(ConfigError, match=r"^backend: 'triton' runs on gpus, .* on cpu; choose"):
        train.setup(quick)
