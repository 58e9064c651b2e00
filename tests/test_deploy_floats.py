"""Layers that stay float on request: listed, and otherwise refused."""

import jax.numpy as jnp
import numpy as np
import pytest
from deployed import images_for, randomize, scores_of
from flax import nnx
from runs import cli, fit, write_config

import binjax
from binjax import deploy
from binjax.deploy.floats import PixelScaling
from binjax.deploy.operations import (
    Affine,
    Real,
    ToFloat,
)
from binjax.deploy.prove import ProofError, prove
from binjax.layers import BatchNorm, BinaryConv, BinaryDense, Flatten, MaxPool, Sequential

SHAPE = (8, 6, 3)
SCALING = PixelScaling(np.ones(1), np.array([30, 40, 50.0]), 1 / np.array([60, 70, 80.0]))


def network(backend="auto"):
    rngs = nnx.Rngs(0)
    layers = {
        "conv1": BinaryConv(3, 20, input_quantizer=None, use_bias=True, backend=backend, rngs=rngs),
        "pool1": MaxPool(),
        "norm1": BatchNorm(20),
        "conv2": BinaryConv(20, 40, backend=backend, rngs=rngs),
        "norm2": BatchNorm(40),
        "conv3": BinaryConv(40, 8, kernel_quantizer=None, pad_value=1.0, rngs=rngs),
        "norm3": BatchNorm(8),
        "pool3": MaxPool((2, 2), (1, 1)),
        "conv4": BinaryConv(8, 33, padding="VALID", kernel_size=(1, 2), backend=backend, rngs=rngs),
        "norm4": BatchNorm(33),
        "flatten": Flatten(),
        "dense5": BinaryDense(33 * 3, 12, backend=backend, rngs=rngs),
        "norm5": BatchNorm(12),
        "dense6": BinaryDense(12, 10, kernel_quantizer="noop", rngs=rngs),
        "norm6": BatchNorm(10),
        "dense7": BinaryDense(10, 4, input_quantizer=None, kernel_quantizer="noop", rngs=rngs),
    }
    return randomize(Sequential(layers))


@pytest.fixture(scope="module")
def packed():
    return deploy.pack(network(), SHAPE, allow_float=True, pixel_scaling=SCALING)


def reference(images):
    scaled = (images.astype(np.float32) - np.float32(SCALING.mean)) * np.float32(SCALING.inverse)
    return scores_of(network("float"))(jnp.asarray(scaled))


def test_scores(packed, tmp_path):
    assert packed.graph.float_layers == ("conv1", "conv3", "dense6", "dense7")
    assert packed.graph.image.dtype == "uint8" and packed.graph.classes == 4
    images = images_for(packed.graph, 50)
    # Real sums are rounded as the compiler likes, and a sign near zero turns: few rows may.
    same = np.isclose(packed(images), reference(images), rtol=1e-4, atol=1e-4).all(1)
    assert same.mean() > 0.9
    packed.save(tmp_path / "m.binjax")
    np.testing.assert_array_equal(deploy.load(tmp_path / "m.binjax")(images), packed(images))
    kinds = [type(op) for op in packed.graph.ops]
    assert kinds.count(Real) == 4 and kinds.count(ToFloat) == 3 and kinds.count(Affine) == 5


def test_they_are_listed_and_not_proven(packed):
    found = prove(network(), packed, reference, {}, pixel_scaling=SCALING, n_random=100)
    assert found.float_layers == packed.graph.float_layers
    assert [layer.name for layer in found.layers] == ["conv2", "conv4", "dense5"]
    assert found.mismatches <= 10


def test_wrong_float_layers_are_found(packed):
    for name in ("scaled.inverse", "conv1.kernel", "dense6-norm1.factor"):
        tensors = {**packed.tensors, name: packed.tensors[name] * np.float32(-50)}
        wrong = deploy.PackedModel(packed.graph, tensors)
        with pytest.raises(ProofError, match=f"{name} is not what the trained network folds to"):
            prove(network(), wrong, reference, {}, pixel_scaling=SCALING, n_random=0)
    with pytest.raises(ProofError, match="random image"):  # another network than the one packed
        prove(
            network(),
            packed,
            lambda images: -reference(images),
            {},
            pixel_scaling=SCALING,
            n_random=20,
        )


def test_refused_unless_asked_for():
    with pytest.raises(deploy.DeployError, match=r"conv1: the first layer multiplies scaled"):
        deploy.pack(network(), SHAPE, pixel_scaling=SCALING)
    with pytest.raises(deploy.DeployError, match=r"conv1: it multiplies real inputs"):
        deploy.pack(network(), SHAPE)


def test_bits_do_not_become_real_inputs():
    rngs = nnx.Rngs(0)
    first = BinaryDense(8, 4, rngs=rngs)
    second = BinaryDense(4, 2, input_quantizer=None, kernel_quantizer=None, rngs=rngs)
    model = Sequential({"flatten": Flatten(), "a": first, "norm": BatchNorm(4), "b": second})
    with pytest.raises(deploy.DeployError, match="b takes real inputs from a, a layer of bits"):
        deploy.pack(model, (1, 1, 8), allow_float=True)


def test_other_quantizers_cannot_be_kept():
    ternary = binjax.declare(bits=2)(jnp.round)
    layer = BinaryDense(8, 4, input_quantizer=ternary, rngs=nnx.Rngs(0))
    with pytest.raises(deploy.DeployError, match="does not give ±1 and cannot be exported"):
        deploy.pack(Sequential({"f": Flatten(), "a": layer}), (1, 1, 8), allow_float=True)


def test_command(tmp_path, capsys):
    text = """
    epochs = 1
    batch_size = 32
    [data]
    name = "fashion-mnist-12k"
    limit_train = 96
    limit_test = 20
    [model]
    kind = "mlp"
    widths = [24]
    first_layer = "float"
    """
    fit(write_config(tmp_path, text), tmp_path / "run")
    words = ("export", tmp_path / "run", "--out", tmp_path / "m.binjax", "--random", 50)
    assert cli(*words) == 2
    assert "dense1: the first layer multiplies" in capsys.readouterr().err
    assert not (tmp_path / "m.binjax").exists()
    assert cli(*words, "--allow-float") == 0
    out, err = capsys.readouterr()
    assert "warning: dense1 stays float: the first layer multiplies scaled images" in err
    assert "checked, not proven (dense1 multiply floats)" in out
    assert cli("inspect", tmp_path / "m.binjax") == 0
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows if row.endswith("floats, not packed")] == ["dense1"]
