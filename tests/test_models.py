"""The networks: exact parameter counts, layer order, shapes, options, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from binjax.config import networks
from binjax.layers import BatchNorm, BinaryConv, BinaryDense, BinaryWeight, ShiftBatchNorm, capture
from binjax.models import MODELS

MNIST, CIFAR = (28, 28, 1), (32, 32, 3)
CHAINS = ("mlp", "cifar10_convnet", "svhn_convnet", "larq_cifar10")
CONVNET = [
    *("conv1", "norm1", "conv2", "pool2", "norm2", "conv3", "norm3", "conv4", "pool4", "norm4"),
    *("conv5", "norm5", "conv6", "pool6", "norm6", "flatten"),
    *("dense7", "norm7", "dense8", "norm8", "dense9", "norm9"),
]


def abstract(kind, shape, n_classes=10, **options):
    """The model without its numbers."""
    return nnx.eval_shape(lambda: MODELS[kind](shape, n_classes, rngs=nnx.Rngs(0), **options))


def count(model, kind):
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(nnx.state(model, kind)))


def shapes(model, image_shape):
    """What each layer with a kernel gives for one image."""
    graphdef, variables = nnx.split(model)

    def run(variables, image):
        return capture(nnx.merge(graphdef, variables), image)

    found = jax.eval_shape(run, variables, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32))
    return {layer: values["output"].shape[1:] for layer, values in found.items()}


@pytest.mark.parametrize(
    ("kind", "shape", "options", "trainable", "binary"),
    [
        ("mlp", MNIST, {}, 36_843_550, 36_806_656),
        ("mlp", MNIST, {"widths": (2048,) * 3}, 10_033_182, 784 * 2048 + 2 * 2048**2 + 20_480),
        ("cifar10_convnet", CIFAR, {}, 14_033_566, 14_022_016),
        ("svhn_convnet", CIFAR, {}, 6_406_494, 6_397_632),
        ("larq_cifar10", CIFAR, {}, 10_355_850, 10_352_000),
    ],
)
def test_parameters(kind, shape, options, trainable, binary):
    model = abstract(kind, shape, **options)
    assert count(model, nnx.Param) == trainable
    assert count(model, BinaryWeight) == binary


def test_larq_counts_as_keras_does():
    model = abstract("larq_cifar10", CIFAR)
    assert count(model, (nnx.Param, nnx.BatchStat)) == 10_363_550


def test_layer_order():
    assert list(abstract("mlp", MNIST, widths=(5, 4)).names) == [
        "flatten",
        *("dense1", "norm1", "dense2", "norm2", "dense3", "norm3"),
    ]
    for kind in ("cifar10_convnet", "svhn_convnet", "larq_cifar10"):
        names = list(abstract(kind, CIFAR).names)
        assert names == CONVNET


@pytest.mark.parametrize(
    ("kind", "convolutions", "dense"),
    [
        (
            "cifar10_convnet",
            [(32, 128), (32, 128), (16, 256), (16, 256), (8, 512), (8, 512)],
            (1024, 1024, 10),
        ),
        (
            "svhn_convnet",
            [(32, 64), (32, 64), (16, 128), (16, 128), (8, 256), (8, 256)],
            (1024, 1024, 10),
        ),
        # The first convolution is VALID: 30, 30, 15, 15, 7, 7, then 3x3 behind the last pool.
        (
            "larq_cifar10",
            [(30, 128), (30, 128), (15, 256), (15, 256), (7, 512), (7, 512)],
            (1024, 1024, 10),
        ),
    ],
)
def test_shapes_of_the_convnets(kind, convolutions, dense):
    expected = {f"conv{i}": (n, n, c) for i, (n, c) in enumerate(convolutions, start=1)}
    expected |= {f"dense{i}": (n,) for i, n in enumerate(dense, start=7)}
    model = abstract(kind, CIFAR)
    assert shapes(model, CIFAR) == expected
    side = convolutions[-1][0] // 2
    assert model.dense7.kernel.shape == (side * side * convolutions[-1][1], 1024)
    assert model.conv1.kernel.shape == (3, 3, 3, convolutions[0][1])


def test_shapes_of_the_mlp():
    model = abstract("mlp", (5, 7, 3), 4, widths=(11, 13))
    assert shapes(model, (5, 7, 3)) == {"dense1": (11,), "dense2": (13,), "dense3": (4,)}
    assert model.dense1.kernel.shape == (105, 11)


@pytest.mark.parametrize("kind", CHAINS)
def test_only_the_first_layer_takes_real_inputs(kind):
    model = abstract(kind, MNIST if kind == "mlp" else CIFAR)
    layers = [getattr(model, name) for name in model.names]
    kernels = [layer for layer in layers if isinstance(layer, BinaryDense | BinaryConv)]
    assert [layer.input_quantizer is None for layer in kernels] == [True] + [False] * (
        len(kernels) - 1
    )
    assert all(layer.kernel_quantizer is not None for layer in kernels)
    assert all(isinstance(layer.kernel, BinaryWeight) for layer in kernels)
    assert isinstance(layers[-1], BatchNorm)


@pytest.mark.parametrize("kind", CHAINS)
def test_options_are_those_of_the_config(kind):
    """A config section's fields are the model's keyword arguments, defaults included; its
    ``first_layer`` becomes ``pixels``, by the data's scaling."""
    sections = (networks.MLP, networks.Cifar10ConvNet, networks.SvhnConvNet, networks.LarqCifar10)
    section = next(s for s in sections if s().kind == kind)()
    shape = MNIST if kind == "mlp" else CIFAR
    configured = abstract(kind, shape, **section.model_dump(exclude={"kind", "first_layer"}))
    default = abstract(kind, shape)
    assert configured.names == default.names
    assert jax.tree.map(lambda x: x.shape, nnx.to_pure_dict(nnx.state(configured))) == jax.tree.map(
        lambda x: x.shape, nnx.to_pure_dict(nnx.state(default))
    )


def test_dropout_of_the_mlp():
    model = abstract("mlp", MNIST, widths=(4, 4), input_dropout=0.1, hidden_dropout=0.3)
    assert [model.dense1.dropout, model.dense2.dropout, model.dense3.dropout] == [0.1, 0.3, 0.3]


def test_shift_norm_except_behind_the_last_layer():
    for kind, shape in (("mlp", MNIST), ("cifar10_convnet", CIFAR)):
        model = abstract(kind, shape, norm={"kind": "shift", "momentum": 0.5})
        norms = [getattr(model, name) for name in model.names if name.startswith("norm")]
        assert all(isinstance(n, ShiftBatchNorm) and n.momentum == 0.5 for n in norms[:-1])
        assert isinstance(norms[-1], BatchNorm)
    model = abstract("mlp", MNIST, norm={"kind": "batch", "eps": 0.5, "running": "inverse_std"})
    assert (model.norm4.eps, model.norm4.running) == (0.5, "inverse_std")


@pytest.mark.parametrize(("use_bias", "more"), [(True, 8 + 4 + 3), (False, 0)])
def test_biases(use_bias, more):
    model = abstract("mlp", (2, 2, 1), 3, widths=(8, 4), use_bias=use_bias)
    kernels, norms = 4 * 8 + 8 * 4 + 4 * 3, 2 * (8 + 4 + 3)
    assert count(model, nnx.Param) == kernels + norms + more


@pytest.mark.parametrize(("init", "limit"), [("uniform", 1.0), ("glorot_uniform", None)])
def test_initial_latent_weights(init, limit):
    model = MODELS["mlp"]((8, 8, 1), 10, widths=(128,), kernel_init=init, rngs=nnx.Rngs(0))
    kernel = np.asarray(model.dense1.kernel[...])
    limit = limit or np.sqrt(6 / (64 + 128))
    assert 0.98 * limit < np.abs(kernel).max() <= limit
    assert abs(kernel.mean()) < 0.02 * limit * np.sqrt(12)
    again = MODELS["mlp"]((8, 8, 1), 10, widths=(128,), kernel_init=init, rngs=nnx.Rngs(0))
    assert np.array_equal(kernel, again.dense1.kernel[...])
    other = MODELS["mlp"]((8, 8, 1), 10, widths=(128,), kernel_init=init, rngs=nnx.Rngs(1))
    assert not np.array_equal(kernel, other.dense1.kernel[...])


def test_scores():
    model = MODELS["mlp"]((4, 4, 1), 5, widths=(8,), rngs=nnx.Rngs(0))
    images = jnp.linspace(-1, 1, 3 * 16).reshape(3, 4, 4, 1)
    scores = model(images)
    assert (scores.shape, scores.dtype) == ((3, 5), jnp.float32)
    with pytest.raises(ValueError, match=r"dropout needs key"):
        model(images, train=True)
    with pytest.raises(ValueError, match=r"BinaryDense takes \[..., 16\] inputs, got shape"):
        model(images[:, :3])


@pytest.mark.parametrize(
    ("kind", "shape", "options", "message"),
    [
        ("cifar10_convnet", (7, 32, 3), {}, "images of 7x32 are too small for 3 max-pools of 2x2"),
        ("svhn_convnet", (8, 7, 3), {}, "at least 8x8 is needed"),
        ("cifar10_convnet", (31, 31, 3), {"channels": (1,) * 5}, "at least 32x32 is needed"),
        ("larq_cifar10", (9, 32, 3), {}, "images of 9x32 are too small; at least 10x10"),
        ("mlp", MNIST, {"norm": {"kind": "layer"}}, "unknown norm 'layer'; known: batch, shift"),
        ("mlp", MNIST, {"kernel_init": "zeros"}, "unknown kernel_init 'zeros'; known: glorot"),
        ("mlp", MNIST, {"input_quantizer": "sgn"}, "unknown quantizer 'sgn'; did you mean rsign"),
        ("mlp", MNIST, {"kernel_quantizer": "stochastic_sign"}, "kernel_quantizer must be determ"),
        ("mlp", MNIST, {"input_dropout": 1.0}, "dropout is 1.0, must be in"),
        ("mlp", MNIST, {"widths": (0,)}, "n_out is 0, must be an integer"),
    ],
)
def test_refusals(kind, shape, options, message):
    with pytest.raises(ValueError, match=message):
        abstract(kind, shape, **options)


@pytest.mark.parametrize(
    ("kind", "shape"),
    [("cifar10_convnet", (8, 8, 3)), ("svhn_convnet", (9, 8, 1)), ("larq_cifar10", (10, 10, 3))],
)
def test_the_smallest_images(kind, shape):
    """One pixel is left behind the last pool."""
    model = abstract(kind, shape)
    assert model.dense7.kernel.shape[0] == model.conv6.n_out
    assert shapes(model, shape)["dense9"] == (10,)
