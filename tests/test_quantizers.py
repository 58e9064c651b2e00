"""The whole family of quantizers against plain numpy, at the edges of their domains."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quantizer_reference as reference
from flax import nnx
from quantizer_reference import kernel

from binjax import ste
from binjax.layers import (
    EDE,
    QUANTIZER_MODULES,
    RBNN,
    BinaryDense,
    LibraPB,
    Progress,
    ProgressiveSign,
    ReCU,
    RSign,
    ScaledSign,
    set_progress,
)

ONE = np.float32(1)
EDGES = np.array(
    [
        *(0.0, -0.0, 1e-40, -1e-40, 0.05, -0.05, 0.5, -0.5, 1 / 3, 1 / 6, 5 / 6),
        *(1, -1, np.nextafter(ONE, 2), np.nextafter(ONE, 0), -np.nextafter(ONE, np.float32(2))),
        *(np.nextafter(np.float32(0.05), ONE), np.nextafter(np.float32(0.05), np.float32(0))),
        *(2, -2, 50, -50, 3e38, -3e38, np.inf, -np.inf, np.nan),
    ],
    np.float32,
)
WIDE = EDGES.astype(np.float64)

ELEMENTWISE = {
    "ste_sign": (ste.ste_sign, reference.sign, reference.inside),
    "ste_sign none": (
        functools.partial(ste.ste_sign, clip_value=None),
        reference.sign,
        np.ones_like,
    ),
    "approx_sign": (ste.approx_sign, reference.sign, reference.approx),
    "bounded_sign": (
        ste.bounded_sign,
        reference.sign,
        lambda x: reference.inside(x, 3.0) * 2 / 3,
    ),
    "swish_sign": (ste.swish_sign, reference.sign, lambda x: reference.sigmoid_like(x, 5.0)),
    "ste_heaviside": (ste.ste_heaviside, reference.heaviside, reference.inside),
    "ste_heaviside 2": (
        functools.partial(ste.ste_heaviside, clip_value=2.0),
        reference.heaviside,
        lambda x: reference.inside(x, 2.0),
    ),
    "ste_tern": (
        ste.ste_tern,
        lambda x: reference.ternary(x, float(np.float32(0.05))),
        reference.inside,
    ),
    "ste_tern 0": (
        functools.partial(ste.ste_tern, threshold_value=0.0, clip_value=None),
        lambda x: reference.ternary(x, 0.0),
        np.ones_like,
    ),
    "dorefa": (
        ste.dorefa,
        lambda x: reference.levels(x.astype(np.float32), 2),
        lambda x: (x >= 0) & (x <= 1),
    ),
    "dorefa 8": (
        functools.partial(ste.dorefa, k_bit=8),
        lambda x: reference.levels(x.astype(np.float32), 8),
        lambda x: (x >= 0) & (x <= 1),
    ),
    "fourier": (
        ste.fourier,
        reference.sign,
        lambda x: reference.fourier(x, 10, math.pi / 2),
    ),
    "ede": (
        lambda x, **mode: ste.ede(x, 2.0, 1.5, **mode),
        reference.sign,
        lambda x: reference.ede(x, 2.0, 1.5),
    ),
    "rbnn": (
        lambda x, **mode: ste.rbnn(x, 2.0, 1.5, **mode),
        reference.sign,
        lambda x: reference.rbnn(x, 2.0, 1.5),
    ),
}


@pytest.mark.parametrize("autodiff", ["vjp", "jvp"])
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_values_and_gradients_at_the_edges(name, autodiff):
    quantizer, value, derivative = ELEMENTWISE[name]
    y, pullback = jax.vjp(lambda x: quantizer(x, autodiff=autodiff), jnp.asarray(EDGES))
    # Exact, but for a division by n, which XLA may make a product with 1/n.
    np.testing.assert_allclose(y, value(WIDE), rtol=2e-7 if name.startswith("dorefa") else 0)
    (found,) = pullback(jnp.full(EDGES.shape, 3, jnp.float32))
    expected = 3 * derivative(WIDE)
    number = ~np.isnan(WIDE)
    np.testing.assert_allclose(found[number], expected[number], rtol=2e-5, atol=2e-5)
    if autodiff == "jvp":
        tangent = jax.jvp(
            lambda x: quantizer(x, autodiff="jvp"),
            (jnp.asarray(EDGES),),
            (jnp.full(EDGES.shape, 3, jnp.float32),),
        )[1]
        np.testing.assert_array_equal(tangent, found)


def pulled(quantizer, x, g):
    y, pullback = jax.vjp(quantizer, jnp.asarray(x))
    return np.asarray(y, np.float64), np.asarray(pullback(jnp.asarray(g))[0], np.float64)


@pytest.mark.parametrize("shape", [(33, 5), (3, 3, 4, 6), (1, 1, 1, 2)], ids=str)
def test_kernels_scaled_by_their_mean(shape):
    w, g = kernel(*shape), kernel(*shape) + 1
    wide, g_wide = w.astype(np.float64), g.astype(np.float64)
    scale = reference.channel_mean(wide)
    y, found = pulled(ste.magnitude_aware_sign, w, g)
    np.testing.assert_allclose(y, reference.sign(wide) * scale, rtol=1e-6)
    np.testing.assert_allclose(found, g * scale * reference.inside(wide), rtol=1e-5)
    unscaled = functools.partial(ste.magnitude_aware_sign, scale_gradient=False)
    y, found = pulled(unscaled, w, g)
    np.testing.assert_allclose(y, reference.sign(wide) * scale, rtol=1e-6)
    np.testing.assert_allclose(found, g * reference.inside(wide), rtol=1e-5)
    # The mean of the clipped weights, and its own gradient.
    clipped = np.clip(wide, -1, 1)
    scale, count = reference.channel_mean(clipped), wide.size // shape[-1]
    y, found = pulled(ste.xnor_weight_scale, w, g)
    np.testing.assert_allclose(y, reference.sign(wide) * scale, rtol=1e-6)
    axes = tuple(range(w.ndim - 1))
    through = (g_wide * np.sign(clipped)).sum(axes, keepdims=True) * np.sign(clipped) / count
    expected = (g_wide * scale + through) * reference.inside(wide)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_dorefa_weights():
    w, g = kernel(9, 7), kernel(9, 7)
    for k in (1, 2, 4, 8):
        value, derivative = reference.dorefa_weights(w.astype(np.float64), k)
        y, found = pulled(lambda x, k=k: ste.dorefa(x, k, "weights"), w, g)
        np.testing.assert_allclose(y, value, atol=1e-6)
        np.testing.assert_allclose(found, g * derivative, rtol=1e-4, atol=1e-7)
    y, found = pulled(
        lambda x: ste.dorefa(x, 2, "weights"), np.zeros((3, 2), np.float32), g[:3, :2]
    )
    np.testing.assert_array_equal(y, 0)  # and not 1/3
    np.testing.assert_array_equal(found, g[:3, :2])


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_dorefa_in_half_precision_is_that_of_floats(dtype):
    x = jnp.linspace(-0.5, 1.5, 4001).astype(dtype)
    for k in (1, 3, 12, 16):
        for mode in ("activations", "weights"):
            wide, pullback = jax.vjp(
                lambda x, k=k, m=mode: ste.dorefa(x, k, m), x.astype("float32")
            )
            y, pull = jax.vjp(lambda x, k=k, m=mode: ste.dorefa(x, k, m), x)
            assert y.dtype == dtype
            np.testing.assert_array_equal(y, wide.astype(dtype))
            g = pullback(jnp.ones(x.shape, jnp.float32))[0].astype(dtype)
            np.testing.assert_array_equal(pull(jnp.ones_like(x))[0], g)
            assert not np.isnan(y).any()


@pytest.mark.parametrize("k", range(1, 17))
def test_dorefas_levels_are_quotients(k):
    """Exactly those of float32, though compilers divide by constants with their reciprocals."""
    levels = np.arange(2**k, dtype=np.float32) / np.float32(2**k - 1)
    x = jnp.asarray(levels)
    quantizer = functools.partial(ste.dorefa, k_bit=k)
    np.testing.assert_array_equal(quantizer(x), levels)
    np.testing.assert_array_equal(jax.jit(quantizer)(x), levels)
    weights = jax.jit(functools.partial(quantizer, mode="weights"))(jnp.linspace(-3, 3, 999))
    assert np.isin(weights, 2 * levels - 1).all()


def test_ternary_values_are_three():
    w = 1.3 * np.random.default_rng(0).normal(size=(255, 63)).astype(np.float32)
    for quantizer in (ste.absmean_ternary, jax.jit(ste.absmean_ternary)):
        values = np.unique(quantizer(jnp.asarray(w)))
        assert values.size == 3 and values[1] == 0 and values[0] == -values[2]


def test_surrogates_keep_the_dtype():
    """Traced float32 parameters, as of a schedule, with narrow inputs."""
    x = jnp.asarray(kernel(6, 4)).astype(jnp.bfloat16)
    parameters = {
        **{"progressive_sign": (0.5,), "ede": (2, 1), "rbnn": (0.5, 1), "libra_pb": (2, 1)},
        **{"recu": (0.9,), "adabin_weights": (2, 1), "bounded_sign": (3,), "ste_tern": (0.1,)},
    }
    for name, given in parameters.items():
        found = jax.eval_shape(getattr(ste, name), x, *map(jnp.float32, given))
        assert found.dtype == jnp.bfloat16, name


def test_ternary_weight_networks():
    w = kernel(40, 3)
    threshold = 0.7 * np.abs(w).astype(np.float64).mean()
    y = ste.ste_tern(jnp.asarray(w), ternary_weight_networks=True)
    np.testing.assert_array_equal(y, reference.ternary(w.astype(np.float64), threshold))
    zeros = ste.ste_tern(jnp.zeros((3, 2)), ternary_weight_networks=True)
    np.testing.assert_array_equal(zeros, 0)


def test_libra_pb_and_recu():
    w, g = kernel(3, 3, 5, 4), kernel(3, 3, 5, 4)
    wide = w.astype(np.float64)
    balanced = reference.standardized(wide)
    scale = 2 ** np.round(np.log2(reference.channel_mean(balanced)))
    y, found = pulled(lambda x: ste.libra_pb(x, 2.0, 1.5), w, g)
    np.testing.assert_array_equal(y, reference.sign(balanced) * scale)
    inner = g * scale * reference.ede(balanced, 2.0, 1.5)
    expected = reference.standardized_pullback(wide, inner)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
    v = 2 * math.sqrt(2) * balanced
    bound = -reference.channel_mean(v) * math.log(2 - 2 * 0.9)
    y, found = pulled(lambda x: ste.recu(x, 0.9), w, g)
    np.testing.assert_array_equal(y, reference.sign(v))
    inner = g * (np.abs(v) <= bound) * 2 * math.sqrt(2)
    expected = reference.standardized_pullback(wide, inner)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 3, 5, 4), (1, 1, 4, 3), (33, 5)], ids=str)
def test_adabin_weights(shape):
    w, g = kernel(*shape), kernel(*shape) + 1
    module = QUANTIZER_MODULES["adabin_weights"](shape[-1])
    for share, t in ((0.0, 0.1), (0.5, 1.0), (1.0, 10.0)):
        set_progress(module, share)
        value, pullback = reference.adabin(w.astype(np.float64), t, max(1 / t, 1))
        y, found = pulled(module, w, g)
        np.testing.assert_allclose(y, value, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found, pullback(g.astype(np.float64)), rtol=1e-3, atol=1e-4)


def test_adabin_activations():
    x, g = kernel(40, 3), kernel(40, 3) + 1
    module = QUANTIZER_MODULES["adabin_activations"](3)
    module.alpha[...], module.beta[...] = jnp.float32(0.5), jnp.float32(0.25)
    inner = (x.astype(np.float64) - 0.25) / 0.5
    y, found = pulled(module, x, g)
    np.testing.assert_allclose(y, 0.5 * reference.sign(inner) + 0.25, rtol=1e-6)
    slope = reference.approx(inner)
    np.testing.assert_allclose(found, g * slope, rtol=1e-5, atol=1e-6)
    graphdef, state = nnx.split(module)
    run = lambda state: jnp.vdot(nnx.merge(graphdef, state)(jnp.asarray(x)), g)  # noqa: E731
    gradient = jax.grad(run)(state)
    np.testing.assert_allclose(gradient["beta"][...], (g * (1 - slope)).sum(), rtol=1e-4)
    alpha = (g * (reference.sign(inner) - slope * inner)).sum()
    np.testing.assert_allclose(gradient["alpha"][...], alpha, rtol=1e-4)


def test_bitnet():
    w = kernel(16, 6)
    gamma = np.abs(w.astype(np.float64)).mean()
    y, found = pulled(ste.absmean_ternary, w, w)
    expected = gamma * np.clip(np.round(w / (gamma + 1e-5)), -1, 1)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(found, w)
    scale = 127 / np.abs(w.astype(np.float64)).max(-1, keepdims=True)
    y, found = pulled(ste.absmax_int8, w, w)
    np.testing.assert_allclose(y, np.round(w * scale) / scale, atol=1e-2)
    np.testing.assert_array_equal(found, w)
    assert np.all(np.isfinite(ste.absmax_int8(jnp.zeros((2, 3)))))


@pytest.mark.parametrize(
    ("per", "axes"), [("tensor", (0, 1)), ("image", 1), ("channel", 0), ("token", 1)]
)
def test_absmax(per, axes):
    w = kernel(16, 6)
    wide = w.astype(np.float64)
    for k, positive in ((8, False), (2, False), (4, True), (1, True)):
        x = np.maximum(wide, 0) if positive else wide
        n = 2**k - 1 if positive else 2 ** (k - 1) - 1
        largest = np.abs(x).max(axes, keepdims=True)
        y, found = pulled(lambda v, k=k, p=positive: ste.absmax(v, k, per, p), w, w)
        np.testing.assert_allclose(y, np.round(x * n / largest) * largest / n, atol=1e-6)
        np.testing.assert_array_equal(found, np.where(wide > 0, w, 0) if positive else w)
    assert not np.any(ste.absmax(jnp.zeros((2, 3)), 4, per))
    assert ste.absmax(jnp.zeros((0, 3)), 4, per).shape == (0, 3)
    assert ste.precision(functools.partial(ste.absmax, k_bit=4, eps=1e-3)) == 4


@pytest.mark.parametrize("shape", [(33, 5), (3, 3, 4, 6)], ids=str)
def test_half_of_the_largest(shape):
    w, g = kernel(*shape), kernel(*shape)
    wide = w.astype(np.float64)
    half = np.abs(wide).max(tuple(range(w.ndim - 1)), keepdims=True) / 2
    y, found = pulled(ste.absmax_sign, w, g)
    np.testing.assert_array_equal(y, reference.sign(wide) * half)
    np.testing.assert_allclose(found, g, rtol=1e-6)
    # A channel of zeros is next to zero, and its gradient passes.
    y, found = pulled(ste.absmax_sign, np.zeros(shape, np.float32), g)
    np.testing.assert_allclose(y, 0, atol=1e-6)
    np.testing.assert_allclose(found, g, rtol=1e-6)


def test_mean_of_the_layer():
    w, g = kernel(3, 3, 4, 6), kernel(3, 3, 4, 6)
    y, found = pulled(ste.layer_sign, w, g)
    wide = w.astype(np.float64)
    np.testing.assert_allclose(y, reference.sign(wide) * np.abs(wide).mean(), rtol=1e-6)
    np.testing.assert_allclose(found, g, rtol=1e-6)


def test_progressive_sign():
    x = np.array([-2, -1, -0.5, -1e-6, 0, 1e-9, 0.25, 3], np.float32)
    module = ProgressiveSign(1, t_end=1e-4, until=0.5)
    for share, temperature in ((0.0, 1.0), (0.25, 1e-2), (0.5, None), (1.0, None)):
        set_progress(module, share)
        wide = x.astype(np.float64)
        expected = reference.sign(wide) if temperature is None else wide / temperature
        y, found = pulled(module, x, 3 * x)
        np.testing.assert_allclose(y, np.clip(expected, -1, 1), rtol=1e-5)
        np.testing.assert_array_equal(found, 3 * x)
    set_progress(module, 1.0)
    assert set(np.unique(module(jnp.asarray(x)))) == {-1.0, 1.0}
    for options in ({"t_end": 0.0}, {"until": 0.0}, {"until": 2.0}):
        with pytest.raises(ValueError, match="wanted 0 < t_end < 1"):
            ProgressiveSign(1, **options)


CHANNELS = np.stack(
    [
        np.array([0.0, -0.0, 0.0, -0.0, 0.0, 0.0, -0.0, 0.0]),
        np.array([1, -1, 1.0000001, -1.0000001, 0.99999994, -0.99999994, 1, -1]),
        np.array([0.0, -0.0, 1e-40, -1e-40, 0.5, -0.25, 2.0, -50.0]),
        np.array([0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3]),
        np.array([np.inf, 1, -1, 0, 0.5, -0.5, 2, -2]),
        np.array([np.nan, 1, -1, 0, 0.5, -0.5, 2, -2]),
    ],
    -1,
).astype(np.float32)


def deviation(x):
    return np.sqrt(((x - x.mean(0)) ** 2).sum(0) / len(x))


def libra(x):
    balanced = reference.standardized(x)
    return reference.sign(balanced) * 2 ** np.round(np.log2(reference.channel_mean(balanced)))


PER_CHANNEL = {
    "magnitude_aware_sign": (
        ste.magnitude_aware_sign,
        lambda x: reference.sign(x) * reference.channel_mean(x),
    ),
    "xnor_weight_scale": (
        ste.xnor_weight_scale,
        lambda x: reference.sign(x) * reference.channel_mean(np.clip(x, -1, 1)),
    ),
    "absmax_sign": (ste.absmax_sign, lambda x: reference.sign(x) * np.abs(x).max(0) / 2),
    "libra_pb": (lambda x: ste.libra_pb(x, 2.0, 1.5), libra),
    "recu": (lambda x: ste.recu(x, 0.9), lambda x: reference.sign(reference.standardized(x))),
    "adabin_weights": (
        ste.adabin_weights,
        lambda x: deviation(x) * reference.sign(x - x.mean(0)) + x.mean(0),
    ),
    "absmax of channels": (
        lambda x: ste.absmax(x, 4, "channel"),
        lambda x: np.round(x / (m := np.maximum(np.abs(x).max(0), 1e-5)) * 7) * m / 7,
    ),
}


@pytest.mark.parametrize("name", PER_CHANNEL)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_channels_at_the_edges(name):
    """Zeros, ±1 and neighbours, one value, subnormal numbers; what is not finite stays alone."""
    quantizer, value = PER_CHANNEL[name]
    y = np.asarray(quantizer(jnp.asarray(CHANNELS)))
    expected = value(CHANNELS.astype(np.float64))
    if name in ("recu", "libra_pb", "adabin_weights"):  # about a mean that is rounded
        y, expected = np.delete(y, 3, 1), np.delete(expected, 3, 1)
    np.testing.assert_allclose(y, expected, rtol=2e-6, atol=2e-6)


PER_TENSOR = {
    "dorefa weights": (
        lambda x: ste.dorefa(x, 4, "weights"),
        lambda x: reference.dorefa_weights(x, 4)[0],
    ),
    "layer_sign": (ste.layer_sign, lambda x: reference.sign(x) * np.abs(x).mean()),
    "absmean_ternary": (
        ste.absmean_ternary,
        lambda x: (g := np.abs(x).mean()) * np.clip(np.round(x / (g + 1e-5)), -1, 1),
    ),
    "absmax": (
        ste.absmax,
        lambda x: np.round(x / np.abs(x).max() * 127) * np.abs(x).max() / 127,
    ),
    "absmax_int8": (
        ste.absmax_int8,
        lambda x: np.round(x * (s := 127 / np.maximum(np.abs(x).max(-1, keepdims=True), 1e-5))) / s,
    ),
}


@pytest.mark.parametrize("name", PER_TENSOR)
def test_tensors_at_the_edges(name):
    quantizer, value = PER_TENSOR[name]
    finite = CHANNELS[:, :4]
    y = np.asarray(quantizer(jnp.asarray(finite)))
    np.testing.assert_allclose(y, value(finite.astype(np.float64)), rtol=1e-5, atol=2e-6)
    rows = np.isnan(np.asarray(quantizer(jnp.asarray(CHANNELS[:, [1, 5]]))))
    assert rows[0].all() and (rows.all() or name == "absmax_int8")


def test_annealed_quantizers_follow_the_run():
    x = jnp.linspace(-2, 2, 9)
    wide = np.asarray(x, np.float64)
    for module, derivative, t_min in (
        (EDE(3), reference.ede, 0.1),
        (RBNN(3), reference.rbnn, 0.01),
    ):
        for share in (0.0, 0.5, 1.0):
            set_progress(module, share)
            t = t_min * (10 / t_min) ** share
            found = jax.grad(lambda z, module=module: module(z).sum())(x)
            expected = derivative(wide, t, max(1 / t, 1))
            np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
    module = ReCU(3)
    for share, tau in ((0.0, 0.85), (1.0, 0.99)):
        set_progress(module, share)
        np.testing.assert_allclose(module.tau(), tau, rtol=1e-6)
    model = nnx.List([EDE(1), LibraPB(2)])
    set_progress(model, 0.25)
    values = jax.tree.leaves(nnx.state(model, Progress))
    assert [float(value) for value in values] == [0.25, 0.25]


def test_rsign():
    module = RSign(3)
    module.bias[...] = jnp.asarray([0.5, 0.0, -0.5])
    x = kernel(8, 3)
    np.testing.assert_array_equal(module(jnp.asarray(x)), reference.sign(np.add(x, [0.5, 0, -0.5])))
    graphdef, state = nnx.split(module)
    gradient = jax.grad(lambda s: nnx.merge(graphdef, s)(jnp.asarray(x)).sum())(state)
    expected = reference.approx(np.add(x.astype(np.float64), [0.5, 0, -0.5])).sum(0)
    np.testing.assert_allclose(gradient["bias"][...], expected, rtol=1e-5)


def make_all():
    for name, quantizer in ste.QUANTIZERS.items():
        if not isinstance(quantizer, ste.Stochastic):
            yield name, quantizer
    yield "dorefa weights", functools.partial(ste.dorefa, k_bit=4, mode="weights")
    for name in QUANTIZER_MODULES:
        yield name, QUANTIZER_MODULES[name](4)
    yield "scaled", ScaledSign(4, prepare="standardize", scale="power_of_two", sign="approx_sign")


ALL = dict(make_all())


@pytest.mark.parametrize("name", ALL)
def test_transformations(name):
    """Forward mode, Hessian-vector products, vmap and per-example gradients; any dtype."""
    quantizer = ALL[name]
    forward = functools.partial(quantizer, autodiff="jvp")
    x = jnp.asarray(kernel(6, 4))
    loss = lambda f: lambda z: jnp.sum(jnp.sin(f(z) * z))  # noqa: E731
    gradient = jax.grad(loss(quantizer))(x)
    np.testing.assert_allclose(gradient, jax.grad(loss(forward))(x), rtol=1e-6)
    v = jnp.asarray(kernel(6, 4)) - 0.3
    along = jax.jvp(loss(forward), (x,), (v,))[1]
    np.testing.assert_allclose(along, jnp.sum(gradient * v), rtol=1e-4)
    hvp = jax.jvp(jax.grad(loss(forward)), (x,), (v,))[1]
    reverse = jax.grad(lambda z: jnp.vdot(jax.grad(loss(quantizer))(z), v))(x)
    np.testing.assert_allclose(hvp, reverse, rtol=1e-3, atol=1e-4)
    batch = jnp.stack([x, -x, x * 0.5])
    each = jax.vmap(jax.grad(loss(quantizer)))(batch)
    for one, found in zip(batch, each, strict=True):
        np.testing.assert_allclose(found, jax.grad(loss(quantizer))(one), rtol=1e-5, atol=1e-6)
    for dtype in (jnp.float16, jnp.bfloat16):
        y = jax.jit(quantizer)(x.astype(dtype))
        assert y.dtype == dtype and y.shape == x.shape
    if ste.is_sign(quantizer):
        split = ste.factors_of(quantizer)
        if split is None:
            assert set(np.unique(quantizer(x))) <= {-1.0, 1.0}
        else:
            signs, scale = split(x)
            assert set(np.unique(signs)) <= {-1.0, 1.0}
            assert scale.shape in ((), (4,))
            np.testing.assert_array_equal(quantizer(x), signs * scale.reshape(1, -1))


def test_bits_and_signs():
    declared = {name: ste.precision(quantizer) for name, quantizer in ALL.items()}
    assert declared["dorefa"] == 2 and declared["dorefa weights"] == 4
    assert declared["ste_tern"] == declared["absmean_ternary"] == 2
    assert ste.precision(functools.partial(ste.noop, precision=8)) == 8
    no_sign = {name for name, q in ALL.items() if declared[name] == 1 and not ste.is_sign(q)}
    assert no_sign == {
        *("ste_heaviside", "adabin_weights", "adabin_activations", "progressive_sign")
    }
    layer = BinaryDense(4, 2, input_quantizer="ste_heaviside", rngs=nnx.Rngs(0))
    assert layer.floats_because(train=True) == (
        "the input quantizer ste_heaviside has values other than ±1"
    )
