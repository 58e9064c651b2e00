"""8-bit images times binary weights, against integers in numpy: every back end gives their bits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from binary_reference import each_backend, signs
from jax import export
from jax.sharding import PartitionSpec as P
from sharding import run, two_devices

import binjax
from binjax import xnor
from binjax.xnor import pixel_scale, pixel_windows, pixels
from binjax.xnor.geometry import pads

pytestmark = [
    pytest.mark.filterwarnings("ignore::binjax.xnor.SlowerBackendWarning"),
    pytest.mark.usefixtures("strict_promotion"),
]

LENGTHS = (1, 27, 31, 32, 33, 300, 784, 1000)
SCALE = np.float32(1) / np.float32(255)


def images(rng, shape):
    """Random pixels with the ends of their range strewn in."""
    x = rng.integers(0, 256, shape, dtype=np.uint8)
    at = rng.random(shape)
    return np.where(at < 0.1, 0, np.where(at > 0.9, 255, x)).astype(np.uint8)


def weights(rng, shape):
    """Normal values with the edges of sign and of the gradient's mask strewn in."""
    w = rng.normal(size=shape).astype(np.float32)
    edges = np.asarray([0.0, -0.0, 1, -1, np.nextafter(np.float32(1), 2), -1.5, 1e-45], np.float32)
    return np.where(rng.random(shape) < 0.3, rng.choice(edges, shape), w)


def centered(x):
    return 2 * x.astype(np.int64) - 255


def scaled(dot):
    """What integers become: rounded to float32, times float32(1/255)."""
    assert np.abs(dot).max(initial=0) < 2**24
    return dot.astype(np.float32) * SCALE


def windows(x, kernel, strides, padding, dilation):
    """``[n, oh, ow, kh kw C]`` of 2x - 255 in a border of zeros."""
    borders = pads(x.shape[1:3], kernel, strides, padding, dilation)
    q = np.pad(centered(x), ((0, 0), *borders, (0, 0)))
    size = [(q.shape[1 + a] - (kernel[a] - 1) * dilation[a] - 1) // strides[a] + 1 for a in (0, 1)]
    taps = []
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            from_tap = q[:, i * dilation[0] :, j * dilation[1] :]
            taps.append(from_tap[:, :: strides[0], :: strides[1]][:, : size[0], : size[1]])
    return np.concatenate(taps, 3)


@each_backend()
@pytest.mark.parametrize("k", LENGTHS)
def test_rows(backend, k):
    rng = np.random.default_rng(k)
    product = jax.jit(functools.partial(xnor.pixel_matmul, backend=backend))
    for m in (1, 5, 64, 100):
        for n in (1, 10, 33, 128):
            x, w = images(rng, (m, k)), weights(rng, (k, n))
            found = product(x, w)
            assert found.dtype == jnp.float32
            np.testing.assert_array_equal(found, scaled(centered(x) @ signs(w)))


@each_backend()
@pytest.mark.parametrize("pixel", [0, 255])
def test_largest_sums(backend, pixel):
    k = pixel_scale.LARGEST_K
    x, w = np.full((1, k), pixel, np.uint8), np.ones((k, 3), np.float32)
    w[:, 1], w[0, 2] = -1, -1
    found = xnor.pixel_matmul(x, w, backend=backend)
    np.testing.assert_array_equal(found, scaled(centered(x) @ signs(w)))


# (channels, kernel, image): whole words, parts of words and several of them; the last windows of
# 16 bytes and 17
LAYERS = [
    (1, (3, 3), (7, 9)),
    (3, (3, 3), (13, 11)),
    (4, (3, 3), (6, 6)),
    (1, (5, 5), (8, 8)),
    (3, (5, 5), (12, 13)),
    (4, (5, 5), (9, 9)),
    (1, (7, 7), (17, 16)),
    (3, (7, 7), (20, 21)),
    (4, (7, 7), (15, 15)),
    (40, (3, 2), (5, 6)),
    (16, (1, 1), (5, 4)),
    (17, (2, 1), (5, 4)),
]
FORMS = [
    ((1, 1), "SAME", (1, 1)),
    ((2, 2), "SAME", (1, 1)),
    ((1, 1), "VALID", (1, 1)),
    ((2, 1), ((0, 2), (3, 1)), (1, 1)),
    ((1, 1), "SAME", (2, 2)),
    ((1, 2), ((4, 4), (4, 4)), (1, 2)),
]


@each_backend()
@pytest.mark.parametrize("layer", LAYERS)
def test_windows(backend, layer):
    channels, kernel, image = layer
    rng = np.random.default_rng(channels)
    for n in (5, 64) if channels == 3 else (33,):
        x, w = images(rng, (2, *image, channels)), weights(rng, (*kernel, channels, n))
        for strides, padding, dilation in FORMS:
            options = {"strides": strides, "padding": padding, "dilation": dilation}
            found = xnor.pixel_conv(x, w, **options, backend=backend)
            assert found.dtype == jnp.float32
            columns = signs(w).reshape(-1, n)
            expected = scaled(windows(x, kernel, **options) @ columns)
            np.testing.assert_array_equal(found, expected, err_msg=str(options))


@each_backend()
def test_scale_is_rounded_before_what_follows(backend):
    # Fused with the subtraction into one multiply-add, a tenth of these would have other bits.
    rng = np.random.default_rng(5)
    x, w = images(rng, (200, 300)), weights(rng, (300, 40))
    mean = rng.normal(size=(1, 40)).astype(np.float32)
    product = jax.jit(lambda x, w, m: binjax.pixel_matmul(x, w, backend=backend) - m)
    wanted = scaled(centered(x) @ signs(w)) - mean
    np.testing.assert_array_equal(product(x, w, mean), wanted)


def test_bits_of_the_float_network():
    # q / 255 in [-1, 1], as training in floats would compute it from integers
    rng = np.random.default_rng(1)
    x, w = images(rng, (20, 784)), weights(rng, (784, 50))
    floats = (2 * x.astype(np.float32) - 255) @ signs(w).astype(np.float32) * SCALE
    np.testing.assert_array_equal(binjax.pixel_matmul(x, w), floats)
    unit = (2 * x.astype(np.float64) / 255 - 1) @ signs(w)
    np.testing.assert_allclose(binjax.pixel_matmul(x, w), unit, rtol=1e-6, atol=1e-5)


@each_backend()
@pytest.mark.parametrize("saturated", [True, False])
def test_gradients(backend, saturated):
    rng = np.random.default_rng(2)
    for leading, k, n in (((7,), 77, 33), ((2, 3), 40, 10), ((), 31, 5)):
        x, w = images(rng, (*leading, k)), weights(rng, (k, n))
        y, pullback = jax.vjp(lambda w: pixels._matmul(x, w, saturated, backend), w)  # noqa: B023
        np.testing.assert_array_equal(y, scaled(centered(x) @ signs(w)))
        g = rng.integers(-3, 4, y.shape).astype(np.float32)
        expected = scaled(centered(x).reshape(-1, k).T @ g.reshape(-1, n).astype(np.int64))
        mask = np.abs(w) <= 1 if saturated else 1
        np.testing.assert_array_equal(pullback(jnp.asarray(g))[0], expected * mask)


@each_backend()
@pytest.mark.parametrize("saturated", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_gradients_of_kernels(backend, saturated, form):
    strides, padding, dilation = form
    rng = np.random.default_rng(3)
    x, w = images(rng, (2, 9, 8, 3)), weights(rng, (3, 2, 3, 4))
    y, pullback = jax.vjp(
        lambda w: pixels._conv(x, w, (strides, padding, dilation), saturated, backend), w
    )
    g = rng.integers(-3, 4, y.shape).astype(np.float32)
    rows = windows(x, (3, 2), strides, padding, dilation).reshape(-1, 18)
    expected = scaled(rows.T @ g.reshape(-1, 4).astype(np.int64)).reshape(w.shape)
    mask = np.abs(w) <= 1 if saturated else 1
    np.testing.assert_array_equal(pullback(jnp.asarray(g))[0], expected * mask)


@pytest.mark.parametrize("bound", [1, 5000])
def test_windows_a_few_rows_at_a_time(monkeypatch, bound):
    monkeypatch.setattr(pixel_windows, "PATCH_BYTES", bound)
    rng = np.random.default_rng(4)
    x, w = images(rng, (2, 11, 10, 2)), weights(rng, (3, 3, 2, 5))
    for strides, padding, dilation in FORMS[::3]:
        convolve = functools.partial(
            pixels._conv, options=(strides, padding, dilation), saturated=True, backend="xla"
        )
        jax.clear_caches()  # they may know these shapes, with another bound
        y, pullback = jax.vjp(lambda w: convolve(x, w), w)  # noqa: B023
        rows = windows(x, (3, 3), strides, padding, dilation)
        np.testing.assert_array_equal(y, scaled(rows @ signs(w).reshape(-1, 5)))
        g = rng.integers(-3, 4, y.shape).astype(np.float32)
        expected = scaled(rows.reshape(-1, 18).T @ g.reshape(-1, 5).astype(np.int64))
        expected = expected.reshape(w.shape) * (np.abs(w) <= 1)
        np.testing.assert_array_equal(pullback(jnp.asarray(g))[0], expected)
    jax.clear_caches()


@each_backend()
def test_vmap(backend):
    rng = np.random.default_rng(5)
    xs, ws = images(rng, (3, 5, 40)), weights(rng, (3, 40, 6))
    product = functools.partial(xnor.pixel_matmul, backend=backend)
    expected = scaled(np.einsum("amk,bkn->abmn", centered(xs), signs(ws)))
    np.testing.assert_array_equal(jax.vmap(product, (0, None))(xs, ws[0]), expected[:, 0])
    np.testing.assert_array_equal(jax.vmap(product, (None, 0))(xs[0], ws), expected[0])
    both = jax.vmap(product)(xs, ws)
    np.testing.assert_array_equal(both, expected[np.arange(3), np.arange(3)])
    twice = jax.vmap(jax.vmap(product, (None, 0)), (0, None))(xs, ws)
    np.testing.assert_array_equal(twice, expected)

    xs, ws = images(rng, (2, 3, 6, 5, 3)), weights(rng, (2, 3, 3, 3, 7))
    convolve = functools.partial(xnor.pixel_conv, backend=backend)
    singly = np.stack([[convolve(x, w) for w in ws] for x in xs])
    np.testing.assert_array_equal(jax.vmap(convolve, (0, None))(xs, ws[0]), singly[:, 0])
    np.testing.assert_array_equal(jax.vmap(convolve, (None, 0))(xs[0], ws), singly[0])
    np.testing.assert_array_equal(jax.vmap(convolve)(xs, ws), singly[[0, 1], [0, 1]])
    gradient = jax.grad(lambda w, x: jnp.sum(jnp.sin(convolve(x, w))))
    together = jax.vmap(gradient, (None, 0))(ws[0], xs)
    for i in range(2):
        np.testing.assert_allclose(together[i], gradient(ws[0], xs[i]), rtol=1e-6, atol=1e-5)


def test_dtypes_and_no_second_trace():
    traces = []

    @jax.jit
    def step(x, w):
        traces.append(x.shape)
        return jax.value_and_grad(lambda w: jnp.sum(binjax.pixel_matmul(x, w)))(w)

    rng = np.random.default_rng(6)
    for _ in range(3):
        step(images(rng, (4, 30)), weights(rng, (30, 8)))
    assert len(traces) == 1
    w = jnp.asarray(weights(rng, (30, 8)), jnp.bfloat16)
    y, pullback = jax.vjp(lambda w: binjax.pixel_matmul(images(rng, (4, 30)), w), w)
    assert (y.dtype, pullback(y)[0].dtype) == (jnp.float32, jnp.bfloat16)
    shape = jax.eval_shape(
        binjax.pixel_conv, np.zeros((2, 8, 8, 3), np.uint8), np.ones((3, 3, 3, 9))
    )
    assert (shape.shape, shape.dtype) == ((2, 8, 8, 9), jnp.float32)
    with jax.disable_jit():
        x = images(rng, (4, 30))
        expected = scaled(centered(x) @ signs(w.astype(jnp.float32)))
        np.testing.assert_array_equal(binjax.pixel_matmul(x, w), expected)


@each_backend()
def test_export_for_any_batch(backend):
    rng = np.random.default_rng(8)
    (batch,) = export.symbolic_shape("batch")
    accepted = [export.DisabledSafetyCheck.custom_call(name) for name in xnor.CUSTOM_CALLS]
    matmul = (xnor.pixel_matmul, (27,), weights(rng, (27, 8)))
    conv = (xnor.pixel_conv, (6, 5, 3), weights(rng, (3, 3, 3, 8)))
    for function, shape, w in (matmul, conv):
        x = images(rng, (5, *shape))
        product = jax.jit(functools.partial(function, backend=backend))
        symbolic = jax.ShapeDtypeStruct((batch, *shape), jnp.uint8)
        exported = export.export(product, disabled_checks=accepted)(symbolic, w)
        np.testing.assert_array_equal(exported.call(x, w), product(x, w))


def test_lowering_for_cuda():
    x, w = np.ones((2, 6, 6, 3), np.uint8), np.ones((3, 3, 3, 8), np.float32)
    lowered = jax.jit(xnor.pixel_conv).trace(x, w).lower(lowering_platforms=("cuda",))
    assert "binjax_pixel" not in lowered.as_text()


@each_backend()
@pytest.mark.parametrize(("m", "n"), [(0, 5), (5, 0), (0, 0)])
def test_empty_results(backend, m, n):
    x, w = np.ones((m, 40), np.uint8), np.ones((40, n), np.float32)
    assert xnor.pixel_matmul(x, w, backend=backend).shape == (m, n)
    assert not np.any(jax.grad(lambda w: jnp.sum(xnor.pixel_matmul(x, w, backend=backend)))(w))
    x, w = np.ones((m, 4, 4, 3), np.uint8), np.ones((3, 3, 3, n), np.float32)
    convolve = functools.partial(xnor.pixel_conv, padding="VALID", backend=backend)
    assert convolve(x, w).shape == (m, 2, 2, n)
    assert not np.any(jax.grad(lambda w: jnp.sum(convolve(x, w)))(w))
    small = np.ones((2, 2, 2, 3), np.uint8)
    assert convolve(small, w).shape == (2, 0, 0, n)


def test_refusals():
    x, w = np.ones((2, 3), np.uint8), np.ones((3, 4), np.float32)
    for other in (x.astype(np.float32), x.astype(np.int8), x.astype(int), x > 0, [[1, 2, 3]]):
        with pytest.raises(TypeError, match=r"x has dtype .*; pass images as uint8, .* in floats"):
            xnor.pixel_matmul(other, w)
        with pytest.raises(TypeError, match="pass images as uint8"):
            xnor.pixel_conv(other, w)
    with pytest.raises(ValueError, match=r"x has shape \(2, 3\) and w \(4, 3\); expected \[..., K"):
        xnor.pixel_matmul(x, w.T)
    with pytest.raises(ValueError, match=r"expected \[n, h, w, C\] and \[kh, kw, C, N\]"):
        xnor.pixel_conv(np.ones((1, 4, 4, 3), np.uint8), np.ones((3, 3, 2, 4), np.float32))
    with pytest.raises(TypeError, match="w has dtype int64; it must be floating"):
        xnor.pixel_matmul(x, w.astype(int))
    with pytest.raises(ValueError, match=r"w is NaN at \(0, 0\)"):
        xnor.pixel_matmul(x, w * np.float32(np.nan))
    with pytest.raises(ValueError, match="k is 0"):
        xnor.pixel_matmul(x[:, :0], w[:0])
    long = (
        jax.ShapeDtypeStruct((1, 65794), jnp.uint8),
        jax.ShapeDtypeStruct((65794, 1), jnp.float32),
    )
    with pytest.raises(ValueError, match=r"k is 65794; .* exact in float32 up to 65793 elements"):
        jax.eval_shape(xnor.pixel_matmul, *long)
    deep = jax.ShapeDtypeStruct((1, 9, 9, 8000), jnp.uint8)
    kernel = jax.ShapeDtypeStruct((3, 3, 8000, 1), jnp.float32)
    with pytest.raises(ValueError, match="k is 72000"):
        jax.eval_shape(xnor.pixel_conv, deep, kernel)
    with pytest.raises(ValueError, match="padding is 'FULL'"):
        xnor.pixel_conv(x[None, ..., None], w[..., None, None], padding="FULL")
    with pytest.raises(ValueError, match="backend is 'cuda'; choose"):
        xnor.pixel_matmul(x, w, backend="cuda")
    with pytest.raises(TypeError, match="no second derivatives"):
        jax.hessian(lambda w: jnp.sum(xnor.pixel_matmul(x, w)))(w)
    with pytest.raises(TypeError, match="uint8"):
        jax.grad(lambda x: jnp.sum(xnor.pixel_matmul(x, w)))(x)


@pytest.fixture(scope="module")
def mesh():
    return two_devices()


@pytest.mark.parametrize("backend", [None, "xla"])
def test_sharded(mesh, backend):
    rng = np.random.default_rng(7)
    matmul = (xnor.pixel_matmul, images(rng, (6, 100)), weights(rng, (100, 64)))
    conv = (xnor.pixel_conv, images(rng, (4, 6, 5, 3)), weights(rng, (3, 3, 3, 64)))
    for function, x, w in (matmul, conv):
        product = functools.partial(function, backend=backend)
        last = (None,) * (w.ndim - 1)
        expected = np.asarray(product(x, w))
        for specs, spec in (((P("d"), P()), ("d",)), ((P(), P(*last, "d")), (*last, "d"))):
            out, found, used = run(mesh, product, (x, w), specs)
            np.testing.assert_array_equal(out, expected)
            assert (found, used) == (spec, set())
        out, _, _ = run(mesh, product, (x, w), (P(None, "d"), P()))
        np.testing.assert_array_equal(out, expected)

        def gradient(w, x, product=product):
            return jax.grad(lambda w: jnp.sum(jnp.round(product(x, w))))(w)

        out, _, used = run(mesh, gradient, (w, x), (P(), P("d")))
        np.testing.assert_array_equal(out, gradient(w, x))
        assert used <= {"all-reduce"}

        mapped = jax.shard_map(product, mesh=mesh, in_specs=(P("d"), P()), out_specs=P("d"))
        np.testing.assert_array_equal(jax.jit(mapped)(x, w), expected)
        found = jax.jit(functools.partial(gradient, product=mapped))(w, x)
        np.testing.assert_array_equal(found, gradient(w, x))
