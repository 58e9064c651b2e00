"""The network on which methods are compared: its shapes, its options, packed against floats."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from binjax.layers import BinaryConv, apply, split
from binjax.models import MODELS
from binjax.models.cifar_resnet import mean_under_window
from binjax.models.options import Compute
from binjax.summary import summarize

SHAPE = (12, 12, 3)
SLOW = partial(pytest.param, marks=pytest.mark.slow)
INGREDIENTS = [
    SLOW({"shortcut": "block", "downsample": "pad", "activation": "hard_tanh"}),
    SLOW({"kernel_quantizer": "xnor_weight_scale", "input_scale": True, "norm_first": True}),
    {"scale": "rank1", "activation": "relu"},
    SLOW({"scale": "channel", "activation": "dprelu", "kernel_quantizer": "libra_pb"}),
    {"input_quantizer": "rsign", "activation": "rprelu", "downsample": "pad"},
]


def build(options, **compute):
    return MODELS["cifar_resnet"](
        SHAPE, 10, depth=8, width=8, **options, compute=Compute(**compute), rngs=nnx.Rngs(0)
    )


def test_size():
    """He et al. 2016, table 6: 0.27 M parameters; the stem and the last layer are real."""
    model = nnx.eval_shape(
        lambda: MODELS["cifar_resnet"]((32, 32, 3), 10, downsample="pad", rngs=nnx.Rngs(0))
    )
    found = summarize(model, (32, 32, 3))
    assert found.params_1bit == 9 * (6 * 16 * 16 + 16 * 32 + 5 * 32 * 32 + 32 * 64 + 5 * 64 * 64)
    real = 27 * 16 + 650
    norms = 2 * (16 * 7 + 32 * 6 + 64 * 6)
    assert found.params_32bit == real + norms
    assert found.trainable == found.params_1bit + real + norms
    assert found.macs["1"] == 9 * (
        6 * 16 * 16 * 1024 + 16 * 32 * 256 + 5 * 32 * 32 * 256 + 32 * 64 * 64 + 5 * 64 * 64 * 64
    )


@pytest.mark.parametrize("options", INGREDIENTS, ids=str)
def test_packed_and_floats_agree(options):
    x = jax.random.normal(jax.random.key(0), (2, *SHAPE))

    def gradients(**compute):
        graphdef, params, stats = split(build(options, **compute))

        def loss(params):
            scores, moved = apply(graphdef, params, stats, x, train=True, key=jax.random.key(1))
            return jnp.sum(jnp.sin(scores)), (scores, moved)

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)

    (_, (scores, _)), ours = gradients()
    (_, (expected, _)), theirs = gradients(backend="float")
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)
    # One tolerance for all: what stands in front of a norm has gradients of mere rounding.
    largest = max(float(jnp.max(jnp.abs(b))) for b in jax.tree.leaves(theirs))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5 * largest)


def test_all_convolutions_but_the_real_ones_are_packed():
    model = build({"input_quantizer": "rsign", "activation": "rprelu", "downsample": "pad"})
    convs = [module for _, module in nnx.iter_modules(model) if isinstance(module, BinaryConv)]
    assert len(convs) == 7
    assert [conv.floats_because(train=True) for conv in convs].count(None) == 6


@pytest.mark.parametrize("stride", [1, 2])
def test_mean_under_the_window(stride):
    x = np.random.default_rng(0).normal(size=(2, 6, 5, 4)).astype(np.float32)
    mean = np.abs(x).mean(-1)
    total = [max((-(-n // stride) - 1) * stride + 3 - n, 0) for n in (6, 5)]
    padded = np.pad(mean, ((0, 0), *((t // 2, t - t // 2) for t in total)))
    high, wide = -(-6 // stride), -(-5 // stride)
    expected = np.zeros((2, high, wide, 1))
    for i in range(high):
        for j in range(wide):
            part = padded[:, i * stride : i * stride + 3, j * stride : j * stride + 3]
            expected[:, i, j, 0] = part.sum((1, 2)) / 9
    np.testing.assert_allclose(mean_under_window(jnp.asarray(x), stride), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 18}, "depth is 18, must be 6n [+] 2"),
        ({"shortcut": "both"}, "shortcut is 'both'; choose 'layer', 'block'"),
        ({"scale": "row"}, "scale is 'row'"),
        ({"pixels": True}, "its first layer is real"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        MODELS["cifar_resnet"](SHAPE, 10, **options, rngs=nnx.Rngs(0))
