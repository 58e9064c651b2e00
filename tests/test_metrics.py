"""Telemetry of binary networks against plain numpy, edges included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import binjax
from binjax import metrics
from binjax.layers.quantize import resolve_quantizer

BELOW, ABOVE = np.nextafter(np.float32(1), np.float32([0, 2]))
NORMAL = np.finfo(np.float32).tiny
SUBNORMAL = np.float32([1e-45, -1e-45, 1e-39, -1e-39])
EDGE = np.asarray([0, -0.0, NORMAL, -NORMAL, 1, -1, BELOW, -ABOVE, np.inf, -np.inf], np.float32)


def entropy_of(x):
    """Mean over channels of the sign's entropy in bits, by the definition."""
    x = x.reshape(-1, x.shape[-1])
    found = []
    for column in x.T:
        shares = [np.mean(column >= 0), np.mean(~(column >= 0))]
        found.append(-sum(p * np.log2(p) for p in shares if p > 0))
    return np.mean(found)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(1,), (7,), (5, 9), (3, 3, 4, 5)])
@pytest.mark.usefixtures("strict_promotion")
def test_flip_ratio(rng, shape):
    old, new = rng.normal(size=(2, *shape)).astype(np.float32)
    found = metrics.flip_ratio(old, new)
    assert (found.dtype, found.shape) == (jnp.float32, ())
    assert float(found) == pytest.approx(np.mean((old >= 0) != (new >= 0)), abs=1e-7)
    assert metrics.flip_ratio(old, old) == 0
    assert metrics.flip_ratio(np.abs(old) + 1, -np.abs(old) - 1) == 1


def test_flip_ratio_at_the_edge():
    """Both zeros are +1; sizes do not count."""
    flips = (EDGE >= 0) != (-EDGE >= 0)
    assert float(metrics.flip_ratio(EDGE, -EDGE)) == pytest.approx(np.mean(flips))
    assert metrics.flip_ratio(np.float32([0.0]), np.float32([-0.0])) == 0
    assert metrics.flip_ratio(np.float32([0.0]), np.float32([-1.0])) == 1
    assert metrics.flip_ratio(np.float32([5.0]), np.float32([0.0])) == 0


def test_flip_ratio_counts_what_sign_sees():
    """Whether subnormals are zeros is the back end's choice, one for both."""
    old = np.concatenate([EDGE, SUBNORMAL])
    for new in (-old, np.ones_like(old), -np.ones_like(old)):
        flips = np.mean(np.asarray(binjax.sign(old)) != np.asarray(binjax.sign(new)))
        assert float(metrics.flip_ratio(old, new)) == pytest.approx(flips)
        before, now = (metrics.value_planes(binjax.ste_sign, x) for x in (old, new))
        packed = metrics.packed_flip_ratio(metrics.pack_planes(before), now)
        assert float(packed) == pytest.approx(flips)


def test_flip_ratio_of_different_shapes():
    with pytest.raises(ValueError, match=r"flip_ratio: shapes \(3,\) and \(4,\) differ"):
        metrics.flip_ratio(np.zeros(3), np.zeros(4))


@pytest.mark.parametrize("clip", [1.0, 0.5])
@pytest.mark.usefixtures("strict_promotion")
def test_saturation(rng, clip):
    x = rng.normal(size=(6, 3, 3, 5)).astype(np.float32)
    found = metrics.saturation(x, clip)
    assert (found.dtype, found.shape) == (jnp.float32, ())
    assert float(found) == pytest.approx(np.mean(np.abs(x) > clip), abs=1e-7)


def test_saturation_at_the_edge():
    """The gradient passes at exactly ±1 (|x| <= 1), so these do not count."""
    for value, expected in ((1, 0), (-1, 0), (BELOW, 0), (ABOVE, 1), (-ABOVE, 1), (np.inf, 1)):
        assert metrics.saturation(np.float32([value])) == expected


@pytest.mark.parametrize("shape", [(50, 1), (50, 7), (8, 3, 3, 5)])
@pytest.mark.usefixtures("strict_promotion")
def test_sign_entropy(rng, shape):
    x = (rng.normal(size=shape) + rng.normal(size=shape[-1])).astype(np.float32)
    found = metrics.sign_entropy(x)
    assert (found.dtype, found.shape) == (jnp.float32, ())
    assert float(found) == pytest.approx(entropy_of(x), abs=1e-6)


def test_sign_entropy_of_known_channels():
    dead, balanced = np.ones(8), np.asarray([1, -1] * 4)
    quarter = np.asarray([1, -1, -1, -1] * 2)
    assert metrics.sign_entropy(np.stack([dead, -dead], -1)) == 0
    assert metrics.sign_entropy(balanced[:, None]) == pytest.approx(1)
    assert metrics.sign_entropy(np.stack([dead, balanced], -1)) == pytest.approx(0.5)
    bits = -(0.25 * np.log2(0.25) + 0.75 * np.log2(0.75))
    assert metrics.sign_entropy(quarter[:, None]) == pytest.approx(bits)
    # Zero counts as +1, and channels are not mixed.
    assert metrics.sign_entropy(np.asarray([[0.0], [-0.0], [-1.0], [-2.0]])) == pytest.approx(1)
    assert metrics.sign_entropy(np.asarray([[1.0, -1.0]] * 4)) == 0


@pytest.mark.parametrize("size", [1, 7, 8, 9, 31, 32, 33, 1000])
@pytest.mark.usefixtures("strict_promotion")
def test_packed_flip_ratio_is_flip_ratio(rng, size):
    """Sizes around a byte's end: padding bits must not count as flips."""
    old, new = rng.normal(size=(2, size)).astype(np.float32)
    signs = metrics.pack_planes([jnp.asarray(old >= 0)])
    assert signs.dtype == jnp.uint8
    assert np.array_equal(signs, np.packbits(old >= 0))
    found = jax.jit(metrics.packed_flip_ratio)(signs, [jnp.asarray(new >= 0)])
    assert found.dtype == jnp.float32
    assert float(found) == pytest.approx(float(metrics.flip_ratio(old, new)), abs=1e-7)


def label(value):
    """Functions are not named: their names would differ from process to process."""
    return "" if callable(value) else str(value)


def higher(w):
    """Above the mean of the channel."""
    return w >= w.mean(0)


def ternary(w):
    """One of three values, at the mean magnitude's half."""
    return np.round(w / np.abs(w).mean()).clip(-1, 1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ste_sign", lambda w: w >= 0),
        ("xnor_weight_scale", lambda w: w >= 0),
        ("libra_pb", higher),
        ("recu", higher),
        ("adabin_weights", higher),
        ("progressive_sign", lambda w: w >= 0),
        ({"kind": "scaled_sign", "prepare": "center", "scale": "learned"}, higher),
        ({"kind": "ste_tern", "threshold_value": 0.3}, lambda w: np.sign(w) * (abs(w) >= 0.3)),
        ("absmean_ternary", ternary),
    ],
    ids=label,
)
def test_flips_of_what_kernels_are(rng, name, value):
    """Of quantized kernels: the sign of a latent weight is not that of a centred or ternary one."""
    quantizer = resolve_quantizer(name, 5)
    old = (rng.normal(size=(33, 5)) + rng.normal(size=5)).astype(np.float32)
    new = old + 0.2 * rng.normal(size=old.shape).astype(np.float32)
    moved = old + np.float32(0.05)
    for now in (old, new, moved):
        before, planes = (metrics.value_planes(quantizer, w) for w in (old, now))
        found = metrics.packed_flip_ratio(metrics.pack_planes(before), planes)
        assert float(found) == pytest.approx(np.mean(value(old) != value(now)), abs=1e-7)


@pytest.mark.parametrize(
    ("name", "reached"),
    [
        ("ste_sign", lambda x: abs(x) <= 1),
        ({"kind": "ste_sign", "clip_value": "none"}, lambda x: abs(x) >= 0),
        ("approx_sign", lambda x: abs(x) < 1),
        ("bounded_sign", lambda x: abs(x) <= 3),
        ("stochastic_sign", lambda x: abs(x) <= 1),
        ("swish_sign", lambda x: abs(x) >= 0),
        ("dorefa", lambda x: (x >= 0) & (x <= 1)),
        ({"kind": "rbnn", "t_min": 1.0}, lambda x: abs(x) < np.sqrt(np.float32(2))),
        ("rsign", lambda x: abs(x + 1.5) < 1),
        ("adabin_activations", lambda x: abs((x - 0.5) / 2) < 1),
        ("xnor_weight_scale", lambda x: abs(x) <= 1),
        ("libra_pb", lambda x: abs(x) >= 0),
    ],
    ids=label,
)
def test_where_no_gradient_arrives(rng, name, reached):
    quantizer = resolve_quantizer(name, 5)
    if name == "rsign":
        quantizer.bias[...] = jnp.full(5, 1.5)
    if name == "adabin_activations":
        quantizer.alpha[...], quantizer.beta[...] = jnp.float32(2), jnp.float32(0.5)
    x = np.float32(2) * rng.normal(size=(40, 5)).astype(np.float32)
    assert np.array_equal(metrics.unreached(quantizer, x), ~reached(x))


def test_dead_weights_of_a_quantizer():
    w = jnp.asarray([[0.2], [-1.25], [1.1], [-1.0]])
    assert metrics.dead_weights(w, 1.25, binjax.ste_sign) == 0.5
    assert metrics.dead_weights(w, None, binjax.ste_sign) == 0.5
    assert metrics.dead_weights(w, None) == 0
    assert metrics.dead_weights(w, 1.0, resolve_quantizer("recu", 1)) == 0.75


def test_under_jit(rng):
    x = rng.normal(size=(16, 4)).astype(np.float32)
    for function in (metrics.saturation, metrics.sign_entropy):
        assert float(jax.jit(function)(x)) == pytest.approx(float(function(x)), abs=1e-6)


def test_correlation_to_the_initialization():
    old = jnp.asarray([0.5, -0.5, 0.0, -1.0])
    assert metrics.c2i_ratio(old, old * 3) == 1
    assert metrics.c2i_ratio(old, jnp.asarray([-0.5, 0.5, 0.0, -1.0])) == 0
    assert metrics.c2i_ratio(old, jnp.asarray([-0.5, 0.5, -1.0, 1.0])) == -1


def test_dead_weights():
    w = jnp.asarray([1, -1, BELOW, -ABOVE, 0, np.inf], jnp.float32)
    np.testing.assert_allclose(metrics.dead_weights(w), 4 / 6)
    np.testing.assert_allclose(metrics.dead_weights(w, 2.0), 1 / 6, rtol=1e-6)


def test_margins(rng):
    x = rng.normal(1, 2, (7, 5, 3)).astype(np.float32)
    x[..., 2] = 4  # a channel that never changes
    flat = x[..., :2].reshape(-1, 2).astype(np.float64)
    expected = np.mean(np.abs(flat).mean(0) / flat.std(0))
    np.testing.assert_allclose(jax.jit(metrics.sign_margin)(x), expected, rtol=1e-5)
    assert metrics.sign_margin(jnp.ones((4, 2))) == 0


def test_gradient_cosine(rng):
    a = {"w": rng.normal(size=(3, 4)).astype(np.float32), "b": np.float32([1, 2])}
    b = {"w": rng.normal(size=(3, 4)).astype(np.float32), "b": np.float32([-1, 0.5])}
    x, y = (np.concatenate([t["w"].ravel(), t["b"]]).astype(np.float64) for t in (a, b))
    expected = x @ y / np.linalg.norm(x) / np.linalg.norm(y)
    np.testing.assert_allclose(metrics.gradient_cosine(a, b), expected, rtol=1e-5)
    np.testing.assert_allclose(metrics.gradient_cosine(a, a), 1, rtol=1e-6)
    zeros = jax.tree.map(np.zeros_like, a)
    assert metrics.gradient_cosine(a, zeros) == 0
    with pytest.raises(ValueError, match="zip"):
        metrics.gradient_cosine(a, {"w": a["w"]})
