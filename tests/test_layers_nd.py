"""Layers beside dense and 2-D convolution: integers against plain numpy, bits against floats."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from binjax.layers import (
    BinaryConv,
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
    BinarySeparableConv1D,
    Recurrent,
    Sequential,
    apply,
    quant,
    split,
)

RNG = np.random.default_rng(0)


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


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
    """Outputs of all back ends and gradients on bits and in floats; returns the former."""
    x, results = jnp.asarray(draw(*shape)), []
    for backend in ("auto", "float"):
        layer = make(backend)
        assert (layer.floats_because(train=True) is None) == (backend == "auto")
        graphdef, state = nnx.split(layer)

        def loss(s, x, graphdef=graphdef):
            y = nnx.merge(graphdef, s)(x)
            return jnp.sum(jnp.sin(y)), y

        found = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(state, x)
        (_, y), gradients = found
        results.append((y, jax.tree.leaves(gradients)))
    (y, ours), (expected, theirs) = results
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(y, jax.jit(make("xla"))(x))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    return make("auto"), np.asarray(x), np.asarray(y)


@pytest.mark.parametrize(
    ("padding", "stride", "dilation", "groups", "pad_value"),
    [
        slow("SAME", 1, 1, 1, 0),
        ("SAME", 2, 1, 3, -1),
        slow("VALID", 1, 2, 1, 0),
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
    [slow("SAME", 1, 1, 0), ("SAME", (2, 1, 2), 1, 1), ("VALID", (1, 2, 1), (2, 1, 1), 0)],
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


def scatter(x, kernel, strides, dilation=None):
    """All of a transposed convolution, by the definition."""
    taps = kernel.shape[:-2]
    dilation = dilation or (1,) * len(taps)
    sizes = [
        (n - 1) * s + max((k - 1) * d + 1, s)
        for n, k, s, d in zip(x.shape[1:-1], taps, strides, dilation, strict=True)
    ]
    out = np.zeros((x.shape[0], *sizes, kernel.shape[-1]))
    for place in itertools.product(*map(range, x.shape[1:-1])):
        for tap in itertools.product(*map(range, taps)):
            at = tuple(
                p * s + t * d for p, s, t, d in zip(place, strides, tap, dilation, strict=True)
            )
            out[(slice(None), *at)] += x[(slice(None), *place)] @ kernel[tap]
    return out


@pytest.mark.parametrize(
    ("taps", "strides", "dilation", "padding", "extra", "shape", "crop"),
    [
        # Keras's output sizes, and where the window of the full result begins.
        ((3, 3), (2, 2), (1, 1), "SAME", None, (4, 5), [(0, 8), (0, 10)]),
        slow((3, 2), (1, 2), (1, 1), "VALID", None, (4, 5), [(0, 6), (0, 10)]),
        slow((5, 3), (2, 1), (1, 1), "SAME", None, (4, 5), [(1, 8), (1, 5)]),
        ((1, 2), (2, 3), (1, 1), "VALID", None, (3, 3), [(0, 6), (0, 9)]),
        ((3, 3), (2, 2), (1, 1), "SAME", (1, 0), (4, 4), [(0, 8), (1, 7)]),
        ((3, 2), (2, 3), (2, 2), "VALID", None, (3, 4), [(0, 9), (0, 12)]),
        ((2, 3, 2), (2, 1, 2), (1, 1, 1), "SAME", None, (2, 3, 3), [(0, 4), (1, 3), (0, 6)]),
    ],
)
def test_transposed(taps, strides, dilation, padding, extra, shape, crop):
    def make(backend):
        return (BinaryConvTranspose if len(taps) == 2 else BinaryConvTranspose3D)(
            3,
            4,
            taps,
            strides=strides,
            dilation=dilation,
            padding=padding,
            output_padding=extra,
            backend=backend,
            rngs=nnx.Rngs(0),
        )

    layer, x, y = both(make, 2, *shape, 3)
    full = scatter(sign(x), sign(layer.kernel[...]), strides, dilation)
    window = tuple(slice(low, low + size) for low, size in crop)
    np.testing.assert_array_equal(y, full[(slice(None), *window)])


@pytest.mark.parametrize("layer", [BinaryConv3D, BinaryConvTranspose3D])
def test_sums_over_taps_are_rounded_once(layer):
    """To bfloat16, whose integers end at 256."""
    ones = nnx.initializers.ones
    made = layer(101, 2, (3, 1, 3), padding="SAME", kernel_init=ones, rngs=nnx.Rngs(0))
    x = np.where(RNG.random((1, 3, 1, 4, 101)) < 0.9, 1, -1).astype(np.float32)
    exact = jax.jit(made)(jnp.asarray(x))
    assert np.max(exact) > 512
    found = jax.jit(made)(jnp.asarray(x, jnp.bfloat16))
    np.testing.assert_array_equal(found, exact.astype(jnp.bfloat16))


@pytest.mark.parametrize(("size", "taps", "strides"), [((5, 6), (3, 2), (1, 2)), (7, 3, 2)])
def test_locally_connected(size, taps, strides):
    def make(backend):
        return BinaryLocallyConnected(
            3, 4, size, taps, strides=strides, use_bias=True, backend=backend, rngs=nnx.Rngs(0)
        )

    sizes, window, step = ((v,) if isinstance(v, int) else v for v in (size, taps, strides))
    layer, x, y = both(make, 2, *sizes, 3)
    assert layer.bias.shape == y.shape[1:]
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


@pytest.mark.parametrize(
    "cell", [pytest.param(BinaryLSTMCell, marks=pytest.mark.slow), BinaryGRUCell]
)
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


def reference_lstm(x, w, u, b):
    h = c = np.zeros((x.shape[0], u.shape[0]))
    for t in range(x.shape[1]):
        i, f, g, o = np.split(sign(x[:, t]) @ w + sign(h) @ u + b, 4, -1)
        c = c / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
        h = np.tanh(c) / (1 + np.exp(-o))
    return h


def reference_gru(x, w, u, b):
    h = np.zeros((x.shape[0], u.shape[0]))
    for t in range(x.shape[1]):
        (zx, rx, gx), (zh, rh, gh) = (
            np.split(both, 3, -1) for both in (sign(x[:, t]) @ w + b, sign(h) @ u)
        )
        z, r = 1 / (1 + np.exp(-zx - zh)), 1 / (1 + np.exp(-rx - rh))
        h = z * h + (1 - z) * np.tanh(gx + r * gh)
    return h


@pytest.mark.parametrize(
    ("make", "reference"), [(BinaryLSTMCell, reference_lstm), (BinaryGRUCell, reference_gru)]
)
def test_recurrent_cells(make, reference):
    layer = Recurrent(make(4, 5, rngs=nnx.Rngs(0)), last=True)
    x, cell = draw(3, 6, 4), layer.cell
    # Not scaled down so far that the order of sums could change a sign.
    w, u = (np.asarray(m.kernel[...], np.float64) for m in (cell.inputs, cell.hidden))
    w, u = (sign(m) * np.abs(m).mean(0) for m in (w, u))
    expected = reference(x, w, u, np.asarray(cell.inputs.bias[...], np.float64))
    np.testing.assert_allclose(layer(jnp.asarray(x)), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(layer(jnp.asarray(x), train=True), expected, rtol=1e-4, atol=1e-5)
    hard = make(4, 5, gate="hard_sigmoid", activation="hard_tanh", rngs=nnx.Rngs(0))
    y = Recurrent(hard)(jnp.asarray(x))
    assert y.shape == (3, 6, 5) and np.max(np.abs(y)) <= 1
    wide = make(4, 5, dtype=jnp.float32, rngs=nnx.Rngs(0))
    assert Recurrent(wide)(jnp.asarray(x, jnp.bfloat16)).dtype == jnp.float32


BOTH = {"input_quantizer": "ste_sign", "kernel_quantizer": "ste_sign"}
DEPTHWISE = {"input_quantizer": "ste_sign", "depthwise_quantizer": "ste_sign"}


def larqs(make, x, expected):
    """A layer with random biases: ``expected(signs of x, signs of its kernel)``, and biases."""
    bias = make.bias
    bias[...] = jnp.asarray(draw(*bias.shape))
    found = jax.jit(make)(jnp.asarray(x))
    wanted = expected(sign(x), sign(make.kernel[...])) + np.asarray(bias[...])
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_larqs_names():
    rngs = nnx.Rngs(0)
    x1, x2, x3 = (draw(2, *(5,) * n, 3) for n in (1, 2, 3))
    ones = (1, 1, 1)
    larqs(quant.QuantDense(3, 4, **BOTH, rngs=rngs), x1, lambda x, k: x @ k)
    causal = quant.QuantConv1D(3, 4, 3, 2, "causal", dilation_rate=2, **BOTH, rngs=rngs)
    larqs(causal, x1, lambda x, k: convolve(x, k, [2], [(4, 0)], 0, [2]))
    padded = quant.QuantConv2D(3, 6, 3, padding="same", pad_values=1.0, groups=3, **BOTH, rngs=rngs)
    larqs(padded, x2, lambda x, k: convolve(x, k, (1, 1), [(1, 1)] * 2, 1, (1, 1), 3))
    solid = quant.QuantConv3D(3, 4, (3, 2, 1), **BOTH, rngs=rngs)
    larqs(solid, x3, lambda x, k: convolve(x, k, ones, [(0, 0)] * 3, 0, ones))
    depthwise = quant.QuantDepthwiseConv2D(3, 3, 2, depth_multiplier=2, **DEPTHWISE, rngs=rngs)
    larqs(depthwise, x2, lambda x, k: convolve(x, k, (2, 2), [(0, 0)] * 2, 0, (1, 1), 3))
    plane = quant.QuantConv2DTranspose(3, 4, 3, 2, **BOTH, rngs=rngs)
    larqs(plane, x2, lambda x, k: scatter(x, k, (2, 2)))
    cube = quant.QuantConv3DTranspose(3, 4, (2, 1, 2), 2, "same", **BOTH, rngs=rngs)
    larqs(cube, x3, lambda x, k: scatter(x, k, (2, 2, 2)))
    line = quant.QuantLocallyConnected1D(3, 5, 4, 3, 2, **BOTH, rngs=rngs)
    larqs(line, x1, lambda x, k: own_kernels(x, k, (3,), (2,)))
    grid = quant.QuantLocallyConnected2D(3, (5, 5), 4, (3, 2), 2, **BOTH, rngs=rngs)
    larqs(grid, x2, lambda x, k: own_kernels(x, k, (3, 2), (2, 2)))


def own_kernels(x, kernel, taps, strides):
    places = [range(0, n - k + 1, s) for n, k, s in zip(x.shape[1:-1], taps, strides, strict=True)]
    columns = []
    for number, place in enumerate(itertools.product(*places)):
        part = x[(slice(None), *(slice(p, p + k) for p, k in zip(place, taps, strict=True)))]
        columns.append(part.reshape(x.shape[0], -1) @ kernel[number])
    return np.stack(columns, 1).reshape(x.shape[0], *map(len, places), -1)


def test_larqs_separable_layers():
    signs = DEPTHWISE | {"pointwise_quantizer": "ste_sign", "rngs": nnx.Rngs(0)}
    x1, x2 = draw(2, 5, 3), draw(2, 5, 5, 3)
    for layer, x, border in (
        (quant.QuantSeparableConv1D(3, 4, 3, padding="causal", **signs), x1[:, None], (0, 2)),
        (quant.QuantSeparableConv2D(3, 4, 3, depth_multiplier=2, **signs), x2, (0, 0)),
    ):
        taps = (1, 3) if border[1] else (3, 3)
        ends = [(0, 0), border[::-1]]
        depthwise, pointwise = (sign(own.kernel[...]) for own in (layer.depthwise, layer.pointwise))
        assert depthwise.shape[:2] == taps
        middle = convolve(sign(x), depthwise, (1, 1), ends, 0, (1, 1), 3)
        given = x[:, 0] if border[1] else x
        found = np.asarray(jax.jit(layer)(jnp.asarray(given)))
        expected = middle @ pointwise[0, 0]
        np.testing.assert_array_equal(found.reshape(expected.shape), expected)


def test_keras_arguments():
    def make(**options):
        return quant.QuantConv2D(3, 4, 3, **options, rngs=nnx.Rngs(0))

    assert not np.any(make(kernel_initializer="zeros", data_format=None, name=None).kernel[...])
    for options, message in (
        ({"activation": "relu"}, "QuantConv2D: no activation here; put binjax.layers.Activation"),
        ({"kernel_constraint": "weight_clip"}, "binjax.optim.clip_latent"),
        ({"kernel_regularizer": "l2"}, "add it to the loss"),
        ({"data_format": "channels_first"}, "only 'channels_last' is here"),
        ({"kernel_initializer": "glorot"}, "known: glorot_uniform"),
    ):
        with pytest.raises(ValueError, match=message):
            make(**options)
    with pytest.raises(ValueError, match='only "valid" is here'):
        quant.QuantLocallyConnected1D(3, 5, 4, 3, padding="same", rngs=nnx.Rngs(0))


@pytest.mark.parametrize("memory", ["lean", pytest.param("int16", marks=pytest.mark.slow)])
def test_chains_that_keep_little(memory):
    """A block begins at layers that are one product; the others are called as they are."""

    def make(memory):
        rngs = nnx.Rngs(0)
        layers = {
            "grouped": BinaryConv(4, 8, groups=2, rngs=rngs),
            "solid": BinaryConvTranspose(8, 4, strides=2, rngs=rngs),
            "depthwise": BinaryDepthwiseConv(4, rngs=rngs),
        }
        return Sequential(layers, memory=memory)

    x, results = jnp.asarray(draw(2, 3, 3, 4)), []
    for kept in ("full", memory):
        graphdef, params, stats = split(make(kept))

        def loss(params, graphdef=graphdef, stats=stats):
            return jnp.sum(jnp.sin(apply(graphdef, params, stats, x, train=True)[0]))

        results.append(jax.jit(jax.value_and_grad(loss))(params))
    for a, b in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda r: BinaryConv1D(3, 4, padding="CAUSAL", pad_value=1.0, rngs=r), "causal padding"),
        (lambda r: BinaryConv1D(3, 4, padding="FULL", rngs=r), "BinaryConv1D padding is 'FULL'"),
        (lambda r: BinaryConv1D(3, 4, groups=2, rngs=r), "groups is 2; it must divide the 3"),
        (lambda r: BinaryConv3D(3, 4, (3, 3), rngs=r), "expected 3 positive integers"),
        (lambda r: BinaryConv3D(3, 4, padding=((1, 1),), rngs=r), "3 pairs"),
        (lambda r: BinaryConv3D(3, 4, (2.5, 1, 1), rngs=r), "expected 3 positive integers"),
        (lambda r: BinaryConv1D(3, 4, padding=1, rngs=r), r"\(\(before, after\),\)"),
        (lambda r: BinarySeparableConv1D(3, 4, padding="CAUSAL", pad_value=1.0, rngs=r), "causal"),
        (lambda r: BinarySeparableConv1D(3, 4, rngs=r)(jnp.ones((2, 5, 5, 3))), "n, t, 3"),
        (lambda r: BinaryLSTMCell(3, 4, gate="sigmod", rngs=r), "unknown activation 'sigmod'"),
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


@pytest.mark.parametrize("make", [BinaryConvTranspose, BinaryConvTranspose3D])
@pytest.mark.parametrize("option", ["pad_value", "groups", "pixels"])
def test_options_that_mean_nothing(make, option):
    with pytest.raises(TypeError, match=f"{make.__name__} has no option '{option}'; it has input"):
        make(4, 4, **{option: 1}, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("backend", ["auto", "float"])
def test_no_images(backend):
    layer = BinaryLocallyConnected(3, 4, (5, 5), 3, backend=backend, rngs=nnx.Rngs(0))
    assert layer(jnp.zeros((0, 5, 5, 3))).shape == (0, 3, 3, 4)
