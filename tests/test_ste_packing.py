"""Signs and straight-through masks packed in one pass, and gradients batched and sharded."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from binary_reference import each_backend, packed
from gradient_reference import assert_near, dense_gradients, gradients, latent
from jax.sharding import PartitionSpec as P
from sharding import run, trimmed, two_devices

from binjax import xnor
from binjax.xnor import ste_ops

pytestmark = [
    pytest.mark.filterwarnings("ignore::binjax.xnor.SlowerBackendWarning"),
    pytest.mark.usefixtures("strict_promotion"),
]

SIZES = (1, 17, 31, 32, 33, 64, 130, 515)


def values(rng, shape, dtype):
    """Normal values, many of them where a sign or a mask changes."""
    one, zero = np.ones((), dtype), np.zeros((), dtype)
    tiny = np.nextafter(zero, one)
    edges = [zero, -zero, one, -one, tiny, -tiny, dtype(np.nan), -dtype(np.nan)]
    edges += [s * np.nextafter(one, dtype(v)) for s in (one, -one) for v in (0, 2)]
    edges += [dtype(np.inf), dtype(-np.inf), dtype(2), dtype(-2)]
    edges = np.asarray(edges, dtype)
    x = np.where(rng.random(shape) < 0.6, rng.choice(edges, shape), rng.normal(size=shape))
    return x.astype(dtype)


def positive(x):
    """NaN goes by its sign bit; minus zero is positive, the negative number next to it is not."""
    return ~np.signbit(x) | (x == 0)


def inside(x):
    return np.abs(x.astype(np.float64)) <= 1


DTYPES = [jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64]


@each_backend()
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows(backend, dtype, x64):
    dtype = np.dtype(dtype).type
    rng = np.random.default_rng(0)
    pack = jax.jit(functools.partial(ste_ops.pack_last_axis, backend=backend))
    for n in SIZES:
        x = values(rng, (5, n), dtype)
        signs, mask = pack(x)
        assert signs.dtype == mask.dtype == jnp.uint32
        np.testing.assert_array_equal(signs, packed(positive(x)), err_msg=str(n))
        np.testing.assert_array_equal(mask, packed(inside(x)), err_msg=str(n))
        known = np.where(np.isnan(x.astype(np.float64)), dtype(1), x)
        np.testing.assert_array_equal(pack(known)[0], xnor.pack_bits(known, backend=backend))
    x = values(rng, (2, 3, 4, 40), dtype)
    signs, mask = pack(x)
    np.testing.assert_array_equal(signs, packed(positive(x)))
    np.testing.assert_array_equal(mask, packed(inside(x)))


@each_backend()
@pytest.mark.parametrize("dtype", DTYPES)
def test_columns(backend, dtype, x64):
    dtype = np.dtype(dtype).type
    rng = np.random.default_rng(1)
    pack = jax.jit(functools.partial(ste_ops.pack_middle_axis, backend=backend))
    shapes = [(1, k, n) for k, n in zip(SIZES, reversed(SIZES), strict=True)]
    for taps, k, n in (*shapes, (9, 40, 70), (4, 3, 33)):
        w = values(rng, (taps, k, n), dtype)
        signs, mask = pack(w)
        np.testing.assert_array_equal(signs, packed(positive(w).transpose(2, 0, 1)))
        np.testing.assert_array_equal(mask, packed(inside(w)))


@each_backend()
def test_a_few_million_values(backend):
    """Enough for several threads."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(1100, 2050)).astype(np.float32)
    signs, mask = ste_ops.pack_last_axis(x, backend=backend)
    columns, inside_w = ste_ops.pack_middle_axis(x[None], backend=backend)
    np.testing.assert_array_equal(signs, quickly_packed(x >= 0))
    np.testing.assert_array_equal(mask, quickly_packed(np.abs(x) <= 1))
    np.testing.assert_array_equal(inside_w[0], mask)
    np.testing.assert_array_equal(columns[:, 0], quickly_packed(x.T >= 0))


def quickly_packed(bits):
    bits = np.ascontiguousarray(np.pad(bits, ((0, 0), (0, -bits.shape[1] % 32))))
    return np.packbits(bits, 1, "little").view("<u4")


@each_backend()
def test_vmap(backend):
    rng = np.random.default_rng(3)
    x = values(rng, (2, 3, 4, 5, 37), np.float32)
    pack = functools.partial(ste_ops.pack_last_axis, backend=backend)
    for first, *second in ((0,), (2,), (0, 1), (3, 0)):
        function, rows = pack, np.moveaxis(x, first, 0)
        for axis in second:
            function, rows = jax.vmap(function, axis), np.moveaxis(rows, axis + 1, 1)
        signs, mask = jax.vmap(function, first)(x)
        np.testing.assert_array_equal(signs, packed(positive(rows)))
        np.testing.assert_array_equal(mask, packed(inside(rows)))
    w = values(rng, (2, 3, 4, 9, 35), np.float32)
    pack = functools.partial(ste_ops.pack_middle_axis, backend=backend)
    for function, shape in ((jax.vmap(pack), w[0]), (jax.vmap(jax.vmap(pack)), w)):
        signs, mask = function(shape)
        last = range(shape.ndim - 3)
        turned = shape.transpose(*last, shape.ndim - 1, shape.ndim - 3, shape.ndim - 2)
        np.testing.assert_array_equal(signs, packed(positive(turned)))
        np.testing.assert_array_equal(mask, packed(inside(shape)))


@each_backend()
@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0)])
def test_vmap_of_gradients(backend, axes):
    rng = np.random.default_rng(4)
    dense = xnor.xnor_matmul, latent(rng, (3, 20, 40)), latent(rng, (3, 40, 9)), dense_gradients
    conv = xnor.xnor_conv, latent(rng, (3, 2, 5, 4, 33)), latent(rng, (3, 3, 2, 33, 5)), gradients
    for function, xs, ws, reference in (dense, conv):
        product = functools.partial(function, backend=backend)
        xs = xs if axes[0] == 0 else xs[0]
        ws = ws if axes[1] == 0 else ws[0]
        shape = jax.eval_shape(jax.vmap(product, axes), xs, ws).shape
        gs = rng.normal(size=shape).astype(np.float32)
        pull = jax.vmap(lambda x, w, g: jax.vjp(product, x, w)[1](g), (*axes, 0))  # noqa: B023
        gx, gw = jax.jit(pull)(xs, ws, gs)
        for i in range(3):
            x, w = xs if axes[0] is None else xs[i], ws if axes[1] is None else ws[i]
            expected = reference(x, w, gs[i])
            assert_near(gx[i], expected[0] * inside(x))
            assert_near(gw[i], expected[1] * inside(w))


@pytest.fixture(scope="module")
def mesh():
    return two_devices()


@each_backend()
def test_sharded_packing(mesh, backend):
    rng = np.random.default_rng(5)
    x, w = latent(rng, (4, 3, 128)), latent(rng, (2, 64, 128))
    rows = functools.partial(ste_ops.pack_last_axis, backend=backend)
    expected = packed(x >= 0), packed(np.abs(x) <= 1)
    for spec in (P("d"), P(None, None, "d")):
        out, specs, used = run(mesh, rows, (x,), (spec,))
        np.testing.assert_array_equal(out[0], expected[0])
        np.testing.assert_array_equal(out[1], expected[1])
        assert (specs, used) == ([trimmed(spec)] * 2, set())
    columns = functools.partial(ste_ops.pack_middle_axis, backend=backend)
    expected = packed(w.transpose(2, 0, 1) >= 0), packed(np.abs(w) <= 1)
    for spec, turned in ((P("d"), (None, "d")), (P(None, None, "d"), ("d",))):
        out, specs, used = run(mesh, columns, (w,), (spec,))
        np.testing.assert_array_equal(out[0], expected[0])
        np.testing.assert_array_equal(out[1], expected[1])
        assert (specs, used) == ([turned, trimmed(spec)], set())


@each_backend()
def test_sharded_gradients_of_a_convolution(mesh, backend):
    """Images over devices: the gradient of the kernel is summed, nothing is gathered."""
    rng = np.random.default_rng(6)
    x, w = latent(rng, (4, 6, 5, 40)), latent(rng, (3, 3, 40, 64))
    g = rng.normal(size=(4, 6, 5, 64)).astype(np.float32)

    def pull(x, w, g):
        return jax.vjp(functools.partial(xnor.xnor_conv, backend=backend), x, w)[1](g)

    out, specs, used = run(mesh, pull, (x, w, g), (P("d"), P(), P("d")))
    expected = gradients(x, w, g)
    assert_near(out[0], expected[0] * inside(x))
    assert_near(out[1], expected[1] * inside(w))
    assert (specs[0], used) == (("d",), {"all-reduce"})
    last = P(None, None, None, "d")  # split along features: gathered, and right
    out, _, _ = run(mesh, pull, (x, w, g), (P(), last, last))
    assert_near(out[0], expected[0] * inside(x))
    assert_near(out[1], expected[1] * inside(w))
