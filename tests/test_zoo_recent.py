"""PokeBNN and BNext: published counts, blocks against numpy, packed products against floats."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from binjax.layers import set_progress
from binjax.models import MODELS
from binjax.models.bnext import Recoupled
from binjax.models.options import Compute
from binjax.models.pokebnn import Bottleneck, PokeConv, fit
from binjax.summary import summarize

RNG = np.random.default_rng(3)


def count(kind, **options):
    build = lambda: MODELS[kind]((224, 224, 3), 1000, **options, rngs=nnx.Rngs(0))  # noqa: E731
    return summarize(nnx.eval_shape(build), (224, 224, 3))


def test_pokebnn_is_the_published_one():
    """The numbers that google/aqt's ``pokebnn_test.py`` holds its network to."""
    found = count("pokebnn")
    dense = next(row for row in found.rows if row.name == "dense")
    assert 64 * dense.macs == 131_072_000
    assert found.ace - 64 * dense.macs == 4_091_469_824
    elements = {"BatchNorm": 0, "DPReLU": 0}
    for row in found.rows:
        if row.kind in elements:
            elements[row.kind] += math.prod(row.output_shape)
    assert elements == {"BatchNorm": 17_912_832, "DPReLU": 9_106_944}
    assert found.params_by_bits == {"1": 20_676_608, "4": 3_632_640, "8": 2_050_112, "32": 208_064}


@pytest.mark.parametrize(
    ("kind", "parameters", "billions"),
    # PyTorch's counts, of what is never called too; products of bits counted 1/64 and the others
    # 1/8, as in its README: 0.077e9, 0.172e9, 0.317e9, 0.819e9.
    [
        ("bnext_t", 30_862_236, 0.077),
        ("bnext_s", 68_594_614, 0.172),
        pytest.param("bnext_m", 134_501_974, 0.317, marks=pytest.mark.slow),
        pytest.param("bnext_l", 326_546_640, 0.820, marks=pytest.mark.slow),
    ],
)
def test_bnext_is_the_published_one(kind, parameters, billions):
    found = count(kind)
    assert found.trainable == parameters
    work = found.macs["1"] / 64 + found.macs["32"] / 8
    assert round(work / 1e9, 3) == billions


def sign(x):
    return np.where(x >= 0, 1.0, -1.0)


def conv(x, kernel, stride):
    """SAME, as XLA pads it."""
    side = kernel.shape[0]
    size = -(-x.shape[1] // stride)
    extra = max((size - 1) * stride + side - x.shape[1], 0)
    border = (extra // 2, extra - extra // 2)
    x = np.pad(x, ((0, 0), border, border, (0, 0)))
    out = np.zeros((x.shape[0], size, size, kernel.shape[3]))
    for i in range(size):
        for j in range(size):
            part = x[:, i * stride : i * stride + side, j * stride : j * stride + side]
            out[:, i, j] = np.einsum("nhwc,hwco->no", part, kernel)
    return out


def norm(x):
    return (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)


def levels(x, k, axes, positive=False):
    n = 2**k - 1 if positive else 2 ** (k - 1) - 1
    x = np.maximum(x, 0) if positive else x
    largest = np.maximum(np.abs(x).max(axes, keepdims=True), 1e-5)
    return np.round(x * n / largest) * largest / n


def values(variable):
    return np.asarray(variable[...], np.float64)


def randomize(*variables):
    for variable in variables:
        drawn = RNG.uniform(0.2, 0.8, variable.shape)
        variable[...] = jnp.asarray(drawn, variable[...].dtype)


def test_a_poke_convolution():
    module = PokeConv(16, 32, 3, 2, Compute(), nnx.Rngs(0))
    reduce, expand, dprelu = module.gate.reduce, module.gate.expand, module.dprelu
    randomize(reduce.bias, expand.bias, dprelu.shift, dprelu.bias, dprelu.negative)
    x = RNG.normal(size=(3, 6, 6, 16)).astype(np.float32)
    whole = RNG.normal(size=(3, 3, 3, 8)).astype(np.float32)
    wide = x.astype(np.float64)
    kernel = values(module.body.conv.kernel)
    kernel = sign(kernel) * np.abs(kernel).max((0, 1, 2)) / 2
    y = norm(conv(sign(wide), kernel, 2))
    padded = np.pad(wide, ((0, 0), (0, 1), (0, 1), (0, 0)))
    means = sum(padded[:, i : i + 6 : 2, j : j + 6 : 2] for i in range(3) for j in range(3)) / 9
    y[..., :16] += means
    y += np.concatenate([whole] * 4, -1)
    moved = y - values(dprelu.shift)
    y = np.where(moved > 0, 1, values(dprelu.negative)) * moved + values(dprelu.bias)
    seen = levels(wide.mean((1, 2)), 4, 1)
    inner = seen @ levels(values(reduce.kernel), 4, 0) + values(reduce.bias)
    inner = levels(inner, 4, 1, positive=True)
    gate = inner @ levels(values(expand.kernel), 4, 0) + values(expand.bias)
    expected = norm(y * np.clip(gate / 6 + 0.5, 0, 1)[:, None, None])
    found = module(jnp.asarray(x), train=True, block_input=jnp.asarray(whole))
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4)


def test_a_bottleneck_begins_as_its_shortcuts():
    """The norm in front of the sum has a scale of 0 in its last convolution."""
    block = Bottleneck(64, 16, 1, Compute(), nnx.Rngs(0))
    assert not np.any(block.conv3.body.norm.scale[...]) and np.all(
        block.conv1.body.norm.scale[...] == 1
    )
    shape = jax.eval_shape(lambda x: block(x, train=False), jnp.ones((2, 4, 4, 64))).shape
    assert shape == (2, 4, 4, 64)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("pokebnn", {"width": 0.1875}),
        ("pokebnn", {"width": 0.75}),
        ("bnext_t", {}),
        ("reactnet_a", {}),
        *[
            pytest.param("pokebnn", {"width": width}, marks=pytest.mark.slow)
            for width in (0.125, 0.25, 0.5, 1.25, 1.5)
        ],
        pytest.param("reactnet18", {}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_sizes(kind, options):
    """Widths, and images whose maps have odd sides in front of a stride."""

    def run(x):
        return MODELS[kind](x.shape[1:], 10, **options, rngs=nnx.Rngs(0))(x)

    for side in (28, 33) if kind != "pokebnn" else (28,):
        assert jax.eval_shape(run, jnp.ones((1, side, side, 3))).shape == (1, 10)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pokebnn", "bnext_t"])
def test_less_is_kept_on_request(kind):
    """Of a block's convolution and norm only bits, with memory = "lean"."""
    options = {"width": 0.125} if kind == "pokebnn" else {}
    build = lambda: MODELS[kind]((16, 16, 3), 10, **options, rngs=nnx.Rngs(0))  # noqa: E731
    kept = summarize(nnx.eval_shape(build), (16, 16, 3), batch=16).activations.training
    assert kept["lean"] < kept["int16"] < kept["full"]


def test_shortcuts_are_fitted():
    x = jnp.asarray(RNG.normal(size=(1, 2, 2, 7)), jnp.float32)
    np.testing.assert_allclose(
        fit(x, (1, 2, 2, 3), widen="zeros"), x[..., :6].reshape(1, 2, 2, 3, 2).mean(-1), rtol=1e-6
    )
    np.testing.assert_array_equal(fit(x, (1, 2, 2, 9), widen="zeros")[..., :7], x)
    np.testing.assert_array_equal(fit(x, (1, 2, 2, 14), widen="tile")[..., 7:], x)


@pytest.mark.parametrize(
    ("side", "stride", "multiply"), [(3, 2, True), (3, 2, False), (1, 1, False)]
)
def test_a_recoupled_convolution(side, stride, multiply):
    module = Recoupled(8, side, stride, multiply, "ste_sign", Compute(), nnx.Rngs(0))
    randomize(module.move.bias, module.share, module.body.prelu.slope, module.gate.reduce.bias)
    module.share[...] = module.share[...].at[0].set(1.5).at[1].set(-0.5)
    x = RNG.normal(size=(3, 6, 6, 8)).astype(np.float32)
    wide = x.astype(np.float64)
    signs = sign(x + np.asarray(module.move.bias[...]))
    kernel = sign(values(module.body.conv.kernel))
    if side == 3:  # a border of 1 all around, whatever the stride
        padded = np.pad(signs, ((0, 0), (1, 1), (1, 1), (0, 0)))
        y = np.stack(
            [
                np.einsum("nhwc,hwco->no", padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3], kernel)
                for i in range(3)
                for j in range(3)
            ],
            1,
        ).reshape(3, 3, 3, 8)
    else:
        y = signs @ kernel[0, 0]
    y = norm(y)
    y = np.where(y > 0, y, values(module.body.prelu.slope) * y)
    around = np.where(wide > 0, wide, 0.25 * wide) if multiply else wide
    if stride == 2:
        wide, around = (v.reshape(3, 3, 2, 3, 2, 8).mean((2, 4)) for v in (wide, around))
    share = np.clip(values(module.share), 0, 1)
    gate, mixed = module.gate, share * wide + (1 - share) * y
    inner = mixed.mean((1, 2)) @ values(gate.reduce.kernel) + values(gate.reduce.bias)
    scale = np.maximum(inner, 0) @ values(gate.expand.kernel) + values(gate.expand.bias)
    y = y / (1 + np.exp(-scale))[:, None, None]
    expected = norm(y * around if multiply else y) + around
    found = module(jnp.asarray(x), train=True)
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "side", "options"), [("pokebnn", 8, {"width": 0.125}), ("bnext_t", 16, {})]
)
def test_forward_packed_and_in_floats(kind, side, options):
    x = jax.random.normal(jax.random.key(0), (2, side, side, 3))
    scores = []
    for backend in ("auto", "float"):
        model = MODELS[kind](x.shape[1:], 10, **options, compute=Compute(backend), rngs=nnx.Rngs(0))
        scores.append(jax.jit(lambda m, x: m(x))(model, x))
    np.testing.assert_allclose(*scores, rtol=1e-4, atol=1e-4)


def test_progressive_kernels_end_as_signs():
    """And with the network that has signs from the beginning."""

    def make(progressive):
        kernels = "progressive_sign" if progressive else "ste_sign"
        return Recoupled(8, 3, 1, True, kernels, Compute(), nnx.Rngs(0))

    x = jnp.asarray(RNG.normal(size=(2, 4, 4, 8)), jnp.float32)
    module = make(True)
    assert "progressive_sign" in str(module.body.conv.floats_because(train=True))
    assert np.max(np.abs(module(x) - make(False)(x))) > 1e-3
    set_progress(module, 1.0)
    np.testing.assert_array_equal(module(x), make(False)(x))


@pytest.mark.parametrize(
    ("kind", "shape", "options", "message"),
    [
        ("pokebnn", (32, 32, 3), {"width": 0.3}, "width is 0.3; 64 times it must be an integer"),
        ("pokebnn", (32, 32, 3), {"width": 0.375}, "above 16 a multiple of 16"),
        ("pokebnn", (32, 32, 3), {"stem_filters": 48}, "stem_filters is 48; it must divide 64"),
        ("pokebnn", (4, 4, 3), {}, "images of 4x4 are too small; at least 8x8"),
        ("bnext_t", (32, 32, 3), {"size": "huge"}, "size is 'huge'; choose 'tiny', 'small'"),
        ("bnext_t", (8, 8, 3), {}, "images of 8x8 are too small; at least 16x16"),
        ("bnext_t", (32, 32, 3), {"stem": "small"}, "stem is 'small'"),
        ("bnext_t", (32, 32, 3), {"pixels": True}, "its first layer is real"),
    ],
)
def test_refusals(kind, shape, options, message):
    with pytest.raises(ValueError, match=message):
        MODELS[kind](shape, 10, **options, rngs=nnx.Rngs(0))
