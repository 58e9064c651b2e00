"""Grouped and dilated convolutions, pools with borders, activations, containers: against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from binjax.layers import (
    ACTIVATIONS,
    Activation,
    AvgPool,
    BinaryConv,
    Concatenate,
    DPReLU,
    Dropout,
    Gate,
    GlobalAvgPool,
    LearnedScale,
    MaxPool,
    Pad,
    PReLU,
    Residual,
    RPReLU,
    Sequential,
    Shift,
    SqueezeExcite,
    apply,
    apply_watched,
    split,
)

RNG = np.random.default_rng(0)


def windows(x, window, strides, border, fill):
    """``[n, oh, ow, kh * kw, c]`` of a bordered NHWC array, by plain loops."""
    x = np.pad(x, ((0, 0), *border, (0, 0)), constant_values=fill)
    high = (x.shape[1] - window[0]) // strides[0] + 1
    wide = (x.shape[2] - window[1]) // strides[1] + 1
    out = np.zeros((x.shape[0], high, wide, window[0] * window[1], x.shape[3]), x.dtype)
    for i in range(high):
        for j in range(wide):
            top, left = i * strides[0], j * strides[1]
            part = x[:, top : top + window[0], left : left + window[1]]
            out[:, i, j] = part.reshape(x.shape[0], -1, x.shape[3])
    return out


def same(size, window, stride):
    total = max((-(-size // stride) - 1) * stride + window - size, 0)
    return total // 2, total - total // 2


@pytest.mark.parametrize("backend", ["auto", "float"])
@pytest.mark.parametrize(
    ("groups", "dilation", "padding", "pad_value"),
    [
        (1, (2, 1), "SAME", 0),
        (3, (1, 1), ((2, 0), (1, 3)), -1),
        (6, (1, 2), "VALID", 0),
        (2, (1, 1), "SAME", 0.5),  # a border that is not binary: floats
    ],
)
def test_convolutions(backend, groups, dilation, padding, pad_value):
    layer = BinaryConv(
        6,
        12,
        (3, 2),
        strides=(1, 2),
        groups=groups,
        dilation=dilation,
        padding=padding,
        pad_value=pad_value,
        backend=backend,
        rngs=nnx.Rngs(0),
    )
    assert layer.kernel.shape == (3, 2, 6 // groups, 12)
    assert (layer.floats_because(train=True) is None) == (backend == "auto" and pad_value != 0.5)
    x = RNG.normal(size=(2, 7, 8, 6)).astype(np.float32)
    reach = [(k - 1) * d + 1 for k, d in zip((3, 2), dilation, strict=True)]
    if padding == "SAME":
        border = [same(7, reach[0], 1), same(8, reach[1], 2)]
    else:
        border = [(0, 0), (0, 0)] if padding == "VALID" else padding
    signs = np.where(x >= 0, 1.0, -1.0)
    found = windows(signs, reach, (1, 2), border, pad_value)
    taps = [i * dilation[0] * reach[1] + j * dilation[1] for i in range(3) for j in range(2)]
    found = found[..., taps, :]  # [n, oh, ow, taps, 6]
    kernel = np.where(np.asarray(layer.kernel[...]) >= 0, 1.0, -1.0).reshape(6, 6 // groups, 12)
    expected = np.zeros((*found.shape[:3], 12))
    size_in, size_out = 6 // groups, 12 // groups
    for g in range(groups):
        part = found[..., g * size_in : (g + 1) * size_in]
        weights = kernel[:, :, g * size_out : (g + 1) * size_out]
        columns = np.einsum("nhwtc,tco->nhwo", part, weights)
        expected[..., g * size_out : (g + 1) * size_out] = columns
    np.testing.assert_array_equal(layer(jnp.asarray(x)), expected)


def test_convolutions_refuse():
    with pytest.raises(ValueError, match="groups is 4; it must divide the 6 input"):
        BinaryConv(6, 12, groups=4, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="BinaryConv dilation is"):
        BinaryConv(6, 12, dilation=(0, 1), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"BinaryConv padding is .* none negative"):
        BinaryConv(6, 12, padding=((0, -1), (0, 0)), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="pixels without groups"):
        BinaryConv(6, 12, groups=2, pixels=True, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("strides", [(2, 2), (3, 1)], ids=str)
@pytest.mark.parametrize("padding", ["SAME", ((1, 1), (0, 2))], ids=str)
def test_pools_with_borders(padding, strides):
    x = RNG.normal(size=(2, 8, 7, 3)).astype(np.float32) - 3
    sizes = zip((8, 7), strides, strict=True)
    border = [same(n, 3, s) for n, s in sizes] if padding == "SAME" else padding
    inside = windows(np.ones_like(x), (3, 3), strides, border, 0).sum(3)
    sums = windows(x, (3, 3), strides, border, 0).sum(3)
    options = {"window": (3, 3), "strides": strides, "padding": padding}
    found = MaxPool(**options)(jnp.asarray(x))
    np.testing.assert_array_equal(found, windows(x, (3, 3), strides, border, -np.inf).max(3))
    np.testing.assert_allclose(AvgPool(**options)(jnp.asarray(x)), sums / inside, rtol=1e-5)
    counted = AvgPool(**options, count_padding=True)(jnp.asarray(x))
    np.testing.assert_allclose(counted, sums / 9, rtol=1e-5)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(AvgPool(**options)(x) ** 2)))(jnp.asarray(x))
    doubled = np.sum(gradient * x)  # of a square, by Euler: twice its value
    np.testing.assert_allclose(doubled, 2 * np.sum((sums / inside) ** 2), rtol=1e-4)
    np.testing.assert_allclose(GlobalAvgPool()(jnp.asarray(x)), x.mean((1, 2)), rtol=1e-5)


def test_pools_refuse():
    for make in (MaxPool, AvgPool):
        with pytest.raises(ValueError, match="must be smaller than the window"):
            make((2, 2), padding=((2, 0), (0, 0)))
    for pool in (MaxPool(), AvgPool(), GlobalAvgPool()):
        with pytest.raises(ValueError, match=r"takes \[n, h, w, c\] inputs, got shape \(2, 3\)"):
            pool(jnp.ones((2, 3)))
    whole = jnp.arange(4, dtype=jnp.int8).reshape(1, 2, 2, 1) - 4
    np.testing.assert_array_equal(
        MaxPool((2, 2), padding=((1, 1), (1, 1)))(whole)[0, :, :, 0], [[-4, -3], [-2, -1]]
    )


def test_borders():
    x = RNG.normal(size=(2, 3, 2, 1)).astype(np.float32)
    expected = np.pad(x, ((0, 0), (1, 0), (0, 2), (0, 0)), constant_values=-1)
    np.testing.assert_array_equal(Pad(((1, 0), (0, 2)), -1)(jnp.asarray(x)), expected)
    with pytest.raises(ValueError, match="Pad padding is 'SAME'; expected"):
        Pad("SAME")


def test_squeeze_and_excite():
    gate = SqueezeExcite(8, 3, reduction=4, rngs=nnx.Rngs(0))
    x = RNG.normal(size=(2, 4, 5, 8)).astype(np.float32)
    first, second = (np.asarray(m.kernel[...]) for m in (gate.reduce, gate.expand))
    inner = np.maximum(x.mean((1, 2)) @ first, 0)
    expected = 1 / (1 + np.exp(-inner @ second))
    np.testing.assert_allclose(gate(jnp.asarray(x)), expected, rtol=1e-5)
    with pytest.raises(ValueError, match="reduction 16 leaves nothing of 8 channels"):
        SqueezeExcite(8, reduction=16, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="unknown activation"):
        SqueezeExcite(8, gate="sigmod", rngs=nnx.Rngs(0))


X = np.array([[-2.0, -0.5, 0.0], [0.25, 1.5, -1.0]], np.float32)


def test_activations_with_parameters():
    prelu = PReLU(3)
    prelu.slope[...] = jnp.asarray([0.1, 0.2, 0.3])
    np.testing.assert_allclose(prelu(X), np.where(X > 0, X, X * [0.1, 0.2, 0.3]), rtol=1e-6)
    shift = Shift(3)
    shift.bias[...] = jnp.asarray([1.0, 2.0, 3.0])
    np.testing.assert_array_equal(shift(X), np.add(X, [1, 2, 3]))
    rprelu = RPReLU(3)
    rprelu.before.bias[...] = jnp.asarray([0.5, 0.0, -0.5])
    rprelu.behind.bias[...] = jnp.asarray([1.0, -1.0, 0.0])
    moved = np.add(X, [0.5, 0, -0.5])
    expected = np.add(np.where(moved > 0, moved, 0.25 * moved), [1, -1, 0])
    np.testing.assert_allclose(rprelu(X), expected, rtol=1e-6)
    dprelu = DPReLU(3)
    dprelu.shift[...] = jnp.asarray([0.5, 0.0, -0.5])
    dprelu.bias[...] = jnp.asarray([1.0, -1.0, 0.0])
    dprelu.positive[...] = jnp.asarray([2.0, 3.0, 4.0])
    moved = X - [0.5, 0, -0.5]
    expected = np.add(np.where(moved > 0, [2, 3, 4] * moved, 0.25 * moved), [1, -1, 0])
    np.testing.assert_allclose(dprelu(X), expected, rtol=1e-6)


def test_learned_scales():
    scale = LearnedScale(3)
    scale.factors[0][...] = jnp.asarray([1.0, 2.0, 3.0])
    np.testing.assert_array_equal(scale(X), X * [1, 2, 3])
    rank1 = LearnedScale((4, 5, 3))
    factors = [RNG.normal(size=n).astype(np.float32) for n in (4, 5, 3)]
    for variable, value in zip(rank1.factors, factors, strict=True):
        variable[...] = jnp.asarray(value)
    x = RNG.normal(size=(2, 4, 5, 3)).astype(np.float32)
    product = np.einsum("i,j,k->ijk", *factors)
    np.testing.assert_allclose(rank1(x), x * product, rtol=1e-5)
    with pytest.raises(ValueError, match=r"LearnedScale\(4, 5, 3\) got shape \(2, 5, 4, 3\)"):
        rank1(jnp.ones((2, 5, 4, 3)))


def test_named_activations():
    for name in ACTIVATIONS:
        assert Activation(name)(jnp.asarray(X)).shape == X.shape
    np.testing.assert_array_equal(Activation("hard_tanh")(X), np.clip(X, -1, 1))
    slope = np.array([-1.2, -0.5, 0, 0.25, 1.1, -1], np.float32)
    np.testing.assert_allclose(Activation("leaky_tanh")(jnp.asarray(X)).reshape(-1), slope)
    with pytest.raises(ValueError, match="unknown activation 'rleu'; known: relu"):
        Activation("rleu")


class Times(nnx.Module):
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, x, *, train=False, key=None):
        return x * self.factor


class Halves(nnx.Module):
    def __call__(self, x, *, train=False, key=None):
        return jnp.mean(x, (1, 2)) * 0.5


def test_containers():
    x = RNG.normal(size=(2, 4, 4, 3)).astype(np.float32)
    np.testing.assert_array_equal(Residual(Times(2))(x), x * 2 + x)
    np.testing.assert_array_equal(Residual(Times(2), Times(4))(x), x * 2 + x * 4)
    np.testing.assert_array_equal(Concatenate(Times(2))(x), np.concatenate([x, 2 * x], -1))
    gate = x.mean((1, 2), keepdims=True) * 0.5
    np.testing.assert_allclose(Gate(Times(2), Halves())(x), 2 * x * gate, rtol=1e-5)
    with pytest.raises(ValueError, match=r"body gives \(2, 4, 4, 6\), shortcut \(2, 4, 4, 3\)"):
        Residual(Concatenate(Times(2)))(jnp.asarray(x))
    drop, key = Dropout(0.5), jax.random.key(0)
    assert set(np.unique(drop(jnp.ones((8, 8)), train=True, key=key))) == {0.0, 2.0}
    np.testing.assert_array_equal(drop(x), x)


def test_what_a_chain_hands_on_can_be_watched():
    inner = Sequential({"two": Times(2), "three": Times(3)})
    model = Sequential({"inner": inner, "scale": LearnedScale(3)})
    graphdef, params, stats = split(model)
    scores, moved, seen = apply_watched(
        graphdef, params, stats, jnp.asarray(X), ("inner/two", "inner"), train=True
    )
    np.testing.assert_array_equal(scores, X * 6)
    np.testing.assert_array_equal(seen["inner/two"], X * 2)
    np.testing.assert_array_equal(seen["inner"], X * 6)
    assert jax.tree.structure(moved) == jax.tree.structure(
        apply(graphdef, params, stats, jnp.asarray(X), train=True)[1]
    )
    with pytest.raises(ValueError, match="no layer 'outer'; nearest: "):
        apply_watched(graphdef, params, stats, jnp.asarray(X), ("outer",), train=True)
