"""BinaryNet.pytorch's networks: counts of the published code, blocks against numpy, training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from binjax.layers import apply, split
from binjax.models import MODELS
from binjax.models.options import Compute
from binjax.models.resnet_binary import Block
from binjax.summary import summarize

CIFAR, IMAGENET = ((32, 32, 3), 10), ((224, 224, 3), 1000)


def count(kind, sizes, **options):
    shape, classes = sizes
    build = lambda: MODELS[kind](shape, classes, **options, rngs=nnx.Rngs(0))  # noqa: E731
    return summarize(nnx.eval_shape(build), shape)


# What PyTorch counts: weights, biases, the norms' scales and shifts. The ImageNet networks of
# resnet_binary do not run upstream: layers counted by hand, with the CIFAR networks' ends.
COUNTS = [
    ("vgg_cifar10_binary", CIFAR, {}, 36_461_450),
    ("vgg_cifar10", CIFAR, {}, 14_029_706),
    ("alexnet_binary", IMAGENET, {}, 77_196_920),
    ("alexnet", IMAGENET, {}, 61_110_184),
    ("resnet_binary", CIFAR, {}, 4_338_030),
    ("resnet_binary", CIFAR, {"depth": 20}, 6_759_470),
    ("resnet_binary", CIFAR, {"depth": 32}, 11_602_350),
    ("resnet_binary", IMAGENET, {"depth": 18}, 11_692_536),
    ("resnet_binary", IMAGENET, {"depth": 34}, 21_800_696),
    ("resnet_binary", IMAGENET, {}, 25_563_128),
    ("resnet_binary", IMAGENET, {"depth": 101}, 44_555_256),
    ("resnet_binary", IMAGENET, {"depth": 152}, 60_198_904),
    ("resnet", CIFAR, {}, 175_258),
    ("resnet", IMAGENET, {"depth": 18}, 11_689_512),
    ("resnet", IMAGENET, {}, 25_557_032),
]


@pytest.mark.parametrize(("kind", "sizes", "options", "parameters"), COUNTS)
def test_parameters(kind, sizes, options, parameters):
    found = count(kind, sizes, **options)
    assert found.trainable == parameters
    real = kind in ("vgg_cifar10", "alexnet", "resnet")
    assert (found.params_1bit == 0) == real
    assert (found.macs["1"] == 0) == real


def test_multiplications():
    vgg = count("vgg_cifar10_binary", CIFAR)
    assert vgg.macs["32"] == 32 * 32 * 27 * 384
    side = [(384, 384, 32), (384, 768, 16), (768, 768, 16), (768, 1536, 8), (1536, 512, 8)]
    convolutions = sum(9 * a * b * n * n for a, b, n in side)
    assert vgg.macs["1"] == convolutions + 8192 * 1024 + 1024 * 1024 + 1024 * 10
    assert count("alexnet_binary", IMAGENET).macs["32"] == 55 * 55 * 121 * 3 * 192


def sign(x):
    return np.where(x >= 0, 1.0, -1.0)


def conv(x, kernel, stride, pad):
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    side = kernel.shape[0]
    size = (x.shape[1] - side) // stride + 1
    out = np.zeros((x.shape[0], size, size, kernel.shape[3]))
    for i in range(size):
        for j in range(size):
            part = x[:, i * stride : i * stride + side, j * stride : j * stride + side]
            out[:, i, j] = np.einsum("nhwc,hwco->no", part, kernel)
    return out


def norm(x):
    return (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)


@pytest.mark.parametrize("ends", [True, False])
def test_a_binary_block(ends):
    options = {"binary": True, "ends": ends, "compute": Compute(), "rngs": nnx.Rngs(0)}
    block = Block(5, [8, 8], [3, 3], 2, **options)
    x = np.random.default_rng(0).normal(size=(3, 6, 6, 5)).astype(np.float32)
    kernels = [
        sign(np.asarray(module.kernel[...], np.float64))
        for module in (block.body.conv1, block.body.conv2, block.shortcut.conv)
    ]
    inner = np.clip(norm(conv(sign(x), kernels[0], 2, 1)), -1, 1)
    y = conv(sign(inner), kernels[1], 1, 1) + norm(conv(sign(x), kernels[2], 2, 0))
    expected = np.clip(norm(y), -1, 1) if ends else y
    found = block(jnp.asarray(x), train=True)
    # A norm that lands on zero to rounding may take the other sign: few do.
    apart = np.abs(found - expected) > 1e-3
    assert apart.mean() < 0.02


@pytest.mark.parametrize(
    ("kind", "shape", "options"),
    [
        pytest.param(
            "resnet_binary",
            (8, 8, 3),
            {"depth": 14, "inflation_ratio": 1},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "resnet_binary", (12, 12, 3), {"depth": 50, "stem": "imagenet"}, marks=pytest.mark.slow
        ),
        ("resnet", (8, 8, 3), {"depth": 14}),
    ],
)
def test_forward_packed_and_in_floats(kind, shape, options):
    x = jax.random.normal(jax.random.key(0), (2, *shape))

    def scores(backend):
        compute = Compute(backend)
        graphdef, params, stats = split(
            MODELS[kind](shape, 10, **options, compute=compute, rngs=nnx.Rngs(0))
        )
        forward = jax.jit(lambda p, s, x: apply(graphdef, p, s, x, train=False)[0])
        return forward(params, stats, x)

    np.testing.assert_allclose(scores("auto"), scores("float"), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "sizes", "options", "message"),
    [
        ("resnet_binary", CIFAR, {"depth": 8}, "depth is 8; small images take at least 14"),
        ("resnet_binary", IMAGENET, {"depth": 20}, "depth is 20; large images take 18, 34, 50"),
        ("resnet", IMAGENET, {"pixels": True}, "its first layer is real"),
        ("vgg_cifar10_binary", ((4, 4, 3), 10), {}, "images of 4x4 are too small; at least 8x8"),
        ("alexnet_binary", ((60, 60, 3), 10), {}, "images of 60x60 are too small"),
        ("alexnet_binary", CIFAR, {"stem": "small"}, "stem is 'small'"),
        ("vgg_cifar10_binary", CIFAR, {"inflation_ratio": 0}, "inflation_ratio is 0"),
    ],
)
def test_refusals(kind, sizes, options, message):
    with pytest.raises(ValueError, match=message):
        MODELS[kind](*sizes, **options, rngs=nnx.Rngs(0))
