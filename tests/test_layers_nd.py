"""Layers beside dense and 2-D convolution: integers against plain numpy, bits against floats."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from binjax.layers import (
    BinaryConv1D,
    BinaryConv3D,
    BinaryConvTranspose,
    BinaryConvTranspose3D,
    BinaryDense,
    BinaryDepthwiseConv,
    BinaryGRUCell,
    BinaryLocallyConnected,
    BinaryLSTMCell,
    BinarySeparableConv,
    Recurrent,
    Sequential,
    apply,
    quant,
    split,
)

RNG = np.random.default_rng(0)


def sign(x):
    return np.where(np.asarray(x) >= 0, 1.0, -1.0)


def convolve(x, kernel, strides, border, fill, dilation, groups=1):
    """Any number of axes, by the definition: x ``[n, *sizes, C]``, kernel ``[*taps, C/g, N]``."""
    x = np.pad(x, ((0, 0), *border, (0, 0)), constant_values=fill)
    taps = kernel.shape[:-2]
    sizes = [
        (n - (k - 1) * d - 1) // s + 1
        for n, k, s, d in zip(x.shape[1:-1], taps, strides, dilation, strict=True)
    ]
    out = np.zeros((x.shape[0], *sizes, kernel.shape[-1]))
    n_in, n_out = kernel.shape[-2], kernel.shape[-1] // groups
    for place in itertools.product(*map(range, sizes)):
        for tap in itertools.product(*map(range, taps)):
            at = tuple(
                p * s + t * d for p, s, t, d in zip(place, strides, tap, dilation, strict=True)
            )
            for g in range(groups):
                part = x[(slice(None), *at)][:, g * n_in : (g + 1) * n_in]
                weights = kernel[tap][:, g * n_out : (g + 1) * n_out]
                out[(slice(None), *place)][:, g * n_out : (g + 1) * n_out] += part @ weights
    return out


def same(size, taps, stride, dilation):
    total = max((-(-size // stride) - 1) * stride + (taps - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


def draw(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def both(make, *shape):
    """Outputs and gradients on bits and in floats; returns the former."""
    x, results = jnp.asarray(draw(*shape)), []
    for backend in ("auto", "float"):
        layer = make(backend)
        packed = layer.floats_because(train=True) is None
        assert packed == (backend == "auto")
        graphdef, state = nnx.split(layer)
        loss = lambda s, x: jnp.sum(jnp.sin(nnx.merge(graphdef, s)(x)))  # noqa: E731, B023
        results.append((layer(x), jax.tree.leaves(jax.jit(jax.grad(loss, (0, 1)))(state, x))))
    (y, ours), (expected, theirs) = results
    np.testing.assert_array_equal(y, expected)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    return make("auto"), np.asarray(x), np.asarray(y)


@pytest.mark.parametrize(
    ("padding", "stride", "dilation", "groups", "pad_value"),
    [
        ("SAME", 1, 1, 1, 0),
        ("SAME", 2, 1, 3, -1),
        ("VALID", 1, 2, 1, 0),
        ("CAUSAL", 2, 2, 1, 0),
        (((2, 0),), 1, 1, 1, 1),
    ],
)
def test_one_dimension(padding, stride, dilation, groups, pad_value):
    def make(backend):
        return BinaryConv1D(
            6,
            9,
            3,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            pad_value=pad_value,
            backend=backend,
            rngs=nnx.Rngs(0),
        )

    layer, x, y = both(make, 2, 11, 6)
    border = {
        "SAME": [same(11, 3, stride, dilation)],
        "VALID": [(0, 0)],
        "CAUSAL": [(2 * dilation, 0)],
    }.get(padding, padding)
    kernel = sign(layer.kernel[...])
    expected = convolve(sign(x), kernel, [stride], border, pad_value, [dilation], groups)
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize(
    ("padding", "strides", "dilation", "pad_value"),
    [("SAME", 1, 1, 0), ("SAME", (2, 1, 2), 1, 1), ("VALID", (1, 2, 1), (2, 1, 1), 0)],
)
def test_three_dimensions(padding, strides, dilation, pad_value):
    def make(backend):
        return BinaryConv3D(
            4,
            5,
            (3, 2, 3),
            strides=strides,
            padding=padding,
            dilation=dilation,
            pad_value=pad_value,
            backend=backend,
            rngs=nnx.Rngs(0),
        )

    layer, x, y = both(make, 2, 5, 4, 6, 4)
    step, reach = layer.strides, layer.dilation
    border = [(0, 0)] * 3
    if padding == "SAME":
        border = [same(*item) for item in zip((5, 4, 6), (3, 2, 3), step, reach, strict=True)]
    kernel = sign(layer.kernel[...])
    np.testing.assert_array_equal(y, convolve(sign(x), kernel, step, border, pad_value, reach))


def scatter(x, kernel, strides):
    """All of a transposed convolution, by the definition."""
    taps = kernel.shape[:-2]
    sizes = [(n - 1) * s + max(k, s) for n, k, s in zip(x.shape[1:-1], taps, strides, strict=True)]
    out = np.zeros((x.shape[0], *sizes, kernel.shape[-1]))
    for place in itertools.product(*map(range, x.shape[1:-1])):
        for tap in itertools.product(*map(range, taps)):
            at = tuple(p * s + t for p, s, t in zip(place, strides, tap, strict=True))
            out[(slice(None), *at)] += x[(slice(None), *place)] @ kernel[tap]
    return out


@pytest.mark.parametrize(
    ("make_layer", "taps", "strides", "padding", "extra", "shape", "crop"),
    [
        # Keras's output sizes, and where the window of the full result begins.
        (BinaryConvTranspose, (3, 3), (2, 2), "SAME", None, (4, 5), [(0, 8), (0, 10)]),
        (BinaryConvTranspose, (3, 2), (1, 2), "VALID", None, (4, 5), [(0, 6), (0, 10)]),
        (BinaryConvTranspose, (5, 3), (2, 1), "SAME", None, (4, 5), [(1, 8), (1, 5)]),
        (BinaryConvTranspose, (1, 2), (2, 3), "VALID", None, (3, 3), [(0, 6), (0, 9)]),
        (BinaryConvTranspose, (3, 3), (2, 2), "SAME", (1, 0), (4, 4), [(0, 8), (1, 7)]),
        (
            BinaryConvTranspose3D,
            (3, 2, 3),
            (2, 1, 2),
            "SAME",
            None,
            (2, 3, 3),
            [(0, 4), (0, 3), (0, 6)],
        ),
    ],
)
def test_transposed(make_layer, taps, strides, padding, extra, shape, crop):
    def make(backend):
        return make_layer(
            3,
            4,
            taps,
            strides=strides,
            padding=padding,
            output_padding=extra,
            backend=backend,
            rngs=nnx.Rngs(0),
        )

    layer, x, y = both(make, 2, *shape, 3)
    full = scatter(sign(x), sign(layer.kernel[...]), strides)
    window = tuple(slice(low, low + size) for low, size in crop)
    np.testing.assert_array_equal(y, full[(slice(None), *window)])


@pytest.mark.parametrize(("size", "taps", "strides"), [((5, 6), (3, 2), (1, 2)), (7, 3, 2)])
def test_locally_connected(size, taps, strides):
    def make(backend):
        return BinaryLocallyConnected(
            3, 4, size, taps, strides=strides, use_bias=True, backend=backend, rngs=nnx.Rngs(0)
        )

    sizes, window, step = ((v,) if isinstance(v, int) else v for v in (size, taps, strides))
    layer, x, y = both(make, 2, *sizes, 3)
    kernel = sign(layer.kernel[...])
    places = [range(0, n - k + 1, s) for n, k, s in zip(sizes, window, step, strict=True)]
    for number, place in enumerate(itertools.product(*places)):
        part = x[(slice(None), *(slice(p, p + k) for p, k in zip(place, window, strict=True)))]
        expected = sign(part).reshape(2, -1) @ kernel[number]
        np.testing.assert_array_equal(y.reshape(2, -1, 4)[:, number], expected)


def test_depthwise_and_separable():
    layer = BinaryDepthwiseConv(5, depth_multiplier=2, rngs=nnx.Rngs(0))
    assert layer.kernel.shape == (3, 3, 1, 10)
    assert layer.floats_because(train=True) is None
    x = draw(2, 4, 4, 5)
    kernel = sign(layer.kernel[...])
    expected = convolve(sign(x), kernel, (1, 1), [(1, 1)] * 2, 0, (1, 1), groups=5)
    np.testing.assert_array_equal(layer(jnp.asarray(x)), expected)
    both_layers = BinarySeparableConv(5, 7, between_quantizer="ste_sign", rngs=nnx.Rngs(0))
    depthwise = both_layers.depthwise(jnp.asarray(x))
    pointwise = sign(both_layers.pointwise.kernel[...])[0, 0]
    np.testing.assert_array_equal(both_layers(jnp.asarray(x)), sign(depthwise) @ pointwise)
    plain = BinarySeparableConv(5, 7, rngs=nnx.Rngs(0))
    assert plain.pointwise.floats_because(train=True) == "the input is real"


@pytest.mark.parametrize("cell", [BinaryLSTMCell, BinaryGRUCell])
def test_recurrent_cells_learn_on_bits(cell):
    """Whether the first of six signs is +1: the state has to carry it."""

    def make(backend):
        rngs = nnx.Rngs(1)
        real = BinaryDense(24, 2, input_quantizer=None, kernel_quantizer=None, rngs=rngs)
        recurrent = Recurrent(cell(4, 24, backend=backend, rngs=rngs), last=True)
        return Sequential({"recurrent": recurrent, "out": real})

    graphdef, params, stats = split(make("auto"))
    # Images of its own: those of the module's generator depend on which tests ran before.
    x = sign(np.random.default_rng(1).normal(size=(64, 6, 4))).astype(np.float32)
    labels = jnp.asarray((x[:, 0, 0] > 0).astype(np.int32))
    x = jnp.asarray(x)

    def loss(params, graphdef=graphdef):
        scores, _ = apply(graphdef, params, stats, x, train=True)
        losses = optax.softmax_cross_entropy_with_integer_labels(scores, labels)
        return jnp.mean(losses), scores

    # Packed and float gates are the same sums, times the same scale.
    float_graph, _, _ = split(make("float"))
    np.testing.assert_allclose(loss(params)[1], loss(params, float_graph)[1], rtol=1e-4, atol=1e-5)
    tx = optax.adam(0.02)

    @jax.jit
    def step(params, state):
        (value, _), grads = jax.value_and_grad(loss, has_aux=True)(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    state, values = tx.init(params), []
    for _ in range(60):
        params, state, value = step(params, state)
        values.append(float(value))
    assert values[-1] < 0.3 < values[0]


def test_larqs_names():
    rngs = nnx.Rngs(0)
    x1, x2, x3 = (jnp.asarray(draw(2, *(6,) * n, 3)) for n in (1, 2, 3))
    layers = {
        quant.QuantDense(3, 4, rngs=rngs): (x1, (2, 6, 4)),
        quant.QuantConv1D(3, 4, 3, 2, rngs=rngs): (x1, (2, 2, 4)),
        quant.QuantConv2D(3, 4, 3, padding="same", rngs=rngs): (x2, (2, 6, 6, 4)),
        quant.QuantConv3D(3, 4, (3, 2, 1), rngs=rngs): (x3, (2, 4, 5, 6, 4)),
        quant.QuantDepthwiseConv2D(3, 3, depth_multiplier=2, rngs=rngs): (x2, (2, 4, 4, 6)),
        quant.QuantSeparableConv2D(3, 4, 3, 2, rngs=rngs): (x2, (2, 2, 2, 4)),
        quant.QuantConv2DTranspose(3, 4, 3, 2, rngs=rngs): (x2, (2, 13, 13, 4)),
        quant.QuantConv3DTranspose(3, 4, 3, 2, "same", rngs=rngs): (x3, (2, 12, 12, 12, 4)),
        quant.QuantLocallyConnected1D(3, 6, 4, 3, rngs=rngs): (x1, (2, 4, 4)),
        quant.QuantLocallyConnected2D(3, (6, 6), 4, 3, 2, rngs=rngs): (x2, (2, 2, 2, 4)),
    }
    for layer, (x, shape) in layers.items():
        assert layer(x).shape == shape
    binary = quant.QuantConv2D(
        3, 4, 3, input_quantizer="ste_sign", kernel_quantizer="ste_sign", use_bias=False, rngs=rngs
    )
    assert binary.floats_because(train=True) is None and binary.bias is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda r: BinaryConv1D(3, 4, padding="CAUSAL", pad_value=1.0, rngs=r), "causal padding"),
        (lambda r: BinaryConv1D(3, 4, padding="FULL", rngs=r), "BinaryConv1D padding is 'FULL'"),
        (lambda r: BinaryConv1D(3, 4, groups=2, rngs=r), "groups is 2; it must divide the 3"),
        (lambda r: BinaryConv3D(3, 4, (3, 3), rngs=r), "expected 3 positive integers"),
        (lambda r: BinaryConv3D(3, 4, padding=((1, 1),), rngs=r), "3 pairs"),
        (lambda r: BinaryConvTranspose(3, 4, padding=((1, 1),) * 2, rngs=r), '"SAME" or "VALID"'),
        (
            lambda r: BinaryConvTranspose(3, 4, strides=2, output_padding=2, rngs=r),
            "output_padding is 2; wanted 2 numbers below the strides",
        ),
        (lambda r: BinaryLocallyConnected(3, 4, (2, 5), rngs=r), "do not fit into"),
        (lambda r: BinaryDepthwiseConv(3, depth_multiplier=0, rngs=r), "depth_multiplier is 0"),
        (lambda r: BinaryConv1D(3, 4, rngs=r)(jnp.ones((2, 5, 4))), r"takes \[n, t, 3\] inputs"),
        (lambda r: BinaryConv3D(3, 4, rngs=r)(jnp.ones((2, 5, 5, 3))), r"\[n, d, h, w, 3\]"),
        (lambda r: Recurrent(BinaryGRUCell(3, 4, rngs=r))(jnp.ones((2, 3))), r"\[n, t, n_in\]"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make(nnx.Rngs(0))
