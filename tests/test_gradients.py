"""Gradients of binary products on every back end, against float64 in numpy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from binary_reference import each_backend, packed
from gradient_reference import DENSE, assert_near, dense_gradients, gradients, latent

from binjax import xnor
from binjax.xnor import gradient_ops
from binjax.xnor.geometry import Geometry, check_geometry

pytestmark = [
    pytest.mark.filterwarnings("ignore::binjax.xnor.SlowerBackendWarning"),
    pytest.mark.usefixtures("strict_promotion"),
]

# (rows, K, N): rows around the 60 of a chunk and the 5 of a table, and too few for tables; K and N
# around words, vectors and fours, and more than one task takes.
MATRICES = [
    (1, 33, 7),
    (7, 40, 9),
    (8, 1, 1),
    (9, 31, 65),
    (34, 130, 3),
    (59, 64, 16),
    (60, 32, 32),
    (61, 65, 17),
    (65, 129, 130),
    (119, 5, 31),
    (120, 96, 4),
    (121, 33, 64),
    (130, 127, 66),
    (64, 1290, 70),
]
# (batch, image, channels in and out, kernel, groups, strides, dilation, padding)
CONVOLUTIONS = [
    (1, (5, 6), (1, 1), (3, 3), 1, (1, 1), (1, 1), "SAME"),
    (3, (7, 9), (33, 5), (3, 3), 1, (1, 1), (1, 1), "SAME"),
    (61, (3, 4), (31, 17), (2, 3), 1, (1, 1), (1, 1), "SAME"),
    (121, (2, 3), (64, 33), (2, 2), 1, (1, 1), (1, 1), "VALID"),
    (66, (4, 4), (20, 12), (3, 3), 1, (2, 2), (1, 1), "SAME"),
    (2, (9, 13), (130, 34), (3, 3), 1, (2, 1), (1, 2), "SAME"),
    (2, (11, 10), (5, 130), (5, 5), 1, (1, 1), (1, 1), "SAME"),
    (4, (9, 9), (40, 8), (5, 4), 1, (3, 2), (1, 1), "VALID"),
    (3, (9, 11), (17, 9), (3, 2), 1, (1, 2), (3, 2), "SAME"),
    (5, (5, 4), (96, 66), (1, 1), 1, (1, 1), (1, 1), "VALID"),
    (5, (7, 7), (32, 65), (1, 1), 1, (2, 2), (1, 1), "VALID"),
    (2, (5, 5), (33, 4), (1, 1), 1, (1, 1), (1, 1), ((1, 0), (0, 2))),
    (2, (6, 5), (8, 16), (3, 3), 1, (1, 1), (1, 1), ((0, 4), (3, 1))),
    (2, (4, 4), (3, 5), (4, 4), 1, (2, 3), (2, 2), ((5, 6), (7, 4))),
    (9, (6, 5), (64, 64), (3, 3), 2, (1, 1), (1, 1), "SAME"),
    (3, (5, 6), (99, 21), (2, 3), 3, (2, 1), (1, 1), "SAME"),
    (3, (6, 7), (20, 20), (3, 3), 20, (1, 1), (1, 1), "SAME"),
    (65, (3, 3), (34, 68), (3, 3), 34, (1, 1), (1, 1), "SAME"),
    (10, (4, 4), (70, 6), (1, 1), 2, (1, 1), (1, 1), "VALID"),
    (1, (24, 37), (36, 40), (3, 3), 1, (1, 1), (1, 1), "SAME"),
]


def words_of(x, w, groups):
    """Signs and masks of images and kernels as the products keep them, packed by numpy."""
    by_group = x.reshape(*x.shape[:3], groups, -1)
    return (
        packed(by_group >= 0),
        packed(w.transpose(3, 0, 1, 2) >= 0),
        packed(np.abs(by_group) <= 1),
        packed(np.abs(w) <= 1),
    )


@functools.partial(jax.jit, static_argnames=("geometries", "image", "kernel", "groups", "backend"))
def both(g, words, *, geometries, image, kernel, groups, backend):
    """Without masks and with them: the gradient of images, and of kernels for every border."""
    xp, wp, inside_x, inside_w = words
    images = functools.partial(
        gradient_ops.input_gradient,
        geometry=geometries[0],
        image=image,
        groups=groups,
        backend=backend,
    )
    kernels = functools.partial(gradient_ops.kernel_gradient, kernel=kernel, backend=backend)
    return (
        (images(g, wp), images(g, wp, inside_x)),
        [(kernels(g, xp, geometry=v), kernels(g, xp, inside_w, geometry=v)) for v in geometries],
    )


@each_backend()
@pytest.mark.parametrize("shape", MATRICES)
def test_gradient_kernels_dense(backend, shape):
    m, k, n = shape
    rng = np.random.default_rng(m + k + n)
    x, w = latent(rng, (m, 1, 1, k)), latent(rng, (1, 1, k, n))
    g = rng.normal(size=(m, 1, 1, n)).astype(np.float32)
    geometry = Geometry(k, (1, 1), (1, 1), (0, 0, 0, 0), 0)
    images, ((plain, masked),) = both(
        g,
        words_of(x, w, 1),
        geometries=(geometry,),
        image=(1, 1),
        kernel=(1, 1),
        groups=1,
        backend=backend,
    )
    gx, gw = gradients(x, w, g, **DENSE)
    assert_near(images[0], gx)
    assert_near(images[1], gx * (np.abs(x) <= 1))
    assert_near(plain, gw)
    assert_near(masked, gw * (np.abs(w) <= 1))
    assert {a.dtype for a in (*images, plain, masked)} == {np.dtype(np.float32)}


@each_backend()
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_gradient_kernels_conv(backend, case):
    batch, image, (n_in, n_out), kernel, groups, strides, dilation, padding = case
    channels = n_in // groups
    rng = np.random.default_rng(n_in + n_out)
    x, w = latent(rng, (batch, *image, n_in)), latent(rng, (*kernel, channels, n_out))
    geometries = tuple(
        check_geometry(image, kernel, channels, strides, padding, value, dilation)
        for value in (-1, 0, 1)
    )
    g = rng.normal(size=(batch, *geometries[0].output(image, kernel), n_out)).astype(np.float32)
    images, kernels = both(
        g,
        words_of(x, w, groups),
        geometries=geometries,
        image=image,
        kernel=kernel,
        groups=groups,
        backend=backend,
    )
    options = {"strides": strides, "padding": padding, "dilation": dilation, "groups": groups}
    for value, (plain, masked) in zip((-1, 0, 1), kernels, strict=True):
        gx, gw = gradients(x, w, g, **options, pad_value=value)
        assert_near(plain, gw)
        assert_near(masked, gw * (np.abs(w) <= 1))
    assert_near(images[0], gx)
    assert_near(images[1], gx * (np.abs(x) <= 1))


@pytest.mark.slow
@each_backend()
def test_gradient_kernels_random(backend):
    """Shapes by chance; every one of them is compiled."""
    rng = np.random.default_rng(5)
    for _ in range(40):
        groups = int(rng.choice([1, 1, 1, 2, 5]))
        kernel = tuple(int(v) for v in rng.integers(1, 6, 2))
        image = tuple(int(v) for v in rng.integers(5, 14, 2))
        n_in, n_out = (groups * int(v) for v in rng.integers(1, 131 // groups, 2))
        strides = tuple(int(v) for v in rng.integers(1, 4, 2))
        padding = [[int(v) for v in rng.integers(0, 4, 2)] for _ in range(2)]
        padding = tuple(map(tuple, padding)) if rng.random() < 0.5 else "SAME"
        batch = int(rng.choice([1, 2, 7, 60, 67]))
        channels = (n_in, n_out)
        case = (batch, image, channels, kernel, groups, strides, (1, 1), padding)
        test_gradient_kernels_conv(backend, case)


@each_backend()
@pytest.mark.parametrize("shape", [(5, 33, 7), (70, 65, 34)])
def test_of_matrix_products(backend, shape):
    m, k, n = shape
    rng = np.random.default_rng(1)
    x, w = latent(rng, (2, m, k)), latent(rng, (k, n))
    g = rng.normal(size=(2, m, n)).astype(np.float32)
    gx, gw = dense_gradients(x.reshape(-1, k), w, g.reshape(-1, n))
    gx = gx.reshape(x.shape)
    for function, masked in ((xnor.xnor_matmul, True), (xnor.binary_matmul, False)):
        inside_x, inside_w = (np.abs(a) <= 1 if masked else 1 for a in (x, w))

        @jax.jit
        def gradient(x, w, function=function):
            return jax.grad(lambda x, w: jnp.vdot(g, function(x, w, backend=backend)), (0, 1))(x, w)

        found = gradient(x, w)
        assert_near(found[0], gx * inside_x)
        assert_near(found[1], gw * inside_w)


@each_backend()
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("pad_value", [-1, 0, 1])
def test_of_convolutions(backend, groups, pad_value):
    rng = np.random.default_rng(2)
    x, w = latent(rng, (9, 6, 7, 36)), latent(rng, (3, 3, 36 // groups, 10))
    g = rng.normal(size=(9, 6, 7, 10)).astype(np.float32)
    options = {"groups": groups, "pad_value": pad_value}
    gx, gw = gradients(x, w, g, **options)
    for function, masked in ((xnor.xnor_conv, True), (xnor.binary_conv, False)):
        inside_x, inside_w = (np.abs(a) <= 1 if masked else 1 for a in (x, w))
        convolve = functools.partial(function, backend=backend, **options)

        @jax.jit
        def gradient(x, w, convolve=convolve):
            return jax.grad(lambda x, w: jnp.vdot(g, convolve(x, w)), (0, 1))(x, w)

        found = gradient(x, w)
        assert_near(found[0], gx * inside_x)
        assert_near(found[1], gw * inside_w)


@each_backend()
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_operands(backend, dtype):
    """Summed in float32, rounded once."""
    rng = np.random.default_rng(3)
    x, w = (jnp.asarray(latent(rng, shape), dtype) for shape in ((40, 70), (70, 33)))
    g = jnp.asarray(rng.normal(size=(40, 33)), dtype)

    @jax.jit
    def pull(x, w, g):
        return jax.vjp(functools.partial(xnor.xnor_matmul, backend=backend), x, w)[1](g)

    found = pull(x, w, g)
    wide = pull(*(a.astype(jnp.float32) for a in (x, w, g)))
    for ours, theirs in zip(found, wide, strict=True):
        assert ours.dtype == dtype
        np.testing.assert_array_equal(ours, theirs.astype(dtype))
    gx, gw = pull(x, w.astype(jnp.float32), g)
    assert (gx.dtype, gw.dtype) == (dtype, jnp.float32)
    np.testing.assert_array_equal(gw, wide[1])


@each_backend()
def test_wide_operands(backend, x64):
    rng = np.random.default_rng(4)
    x, w = latent(rng, (9, 5, 6, 35), np.float64), latent(rng, (3, 3, 35, 6), np.float64)
    g = rng.normal(size=(9, 5, 6, 6))
    _, pull = jax.vjp(functools.partial(xnor.xnor_conv, backend=backend), x, w)
    for found, a, expected in zip(pull(g), (x, w), gradients(x, w, g), strict=True):
        assert found.dtype == np.float64
        assert_near(found, expected * (np.abs(a) <= 1), 1e-14)
    rows, matrix, g = x.reshape(-1, 35), w[0, 0], g.reshape(-1, 6)
    _, pull = jax.vjp(functools.partial(xnor.binary_matmul, backend=backend), rows, matrix)
    for found, expected in zip(pull(g), dense_gradients(rows, matrix, g), strict=True):
        assert found.dtype == np.float64
        assert_near(found, expected, 1e-14)


@each_backend()
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_where_it_belongs(backend, bad):
    rng = np.random.default_rng(6)
    x, w = latent(rng, (70, 40)), latent(rng, (40, 21))
    g = rng.normal(size=(70, 21)).astype(np.float32)
    g[66, 17] = bad
    _, pull = jax.vjp(functools.partial(xnor.binary_matmul, backend=backend), x, w)
    gx, gw = (np.asarray(a) for a in pull(g))
    np.testing.assert_array_equal(gx[66], np.where(w[:, 17] >= 0, bad, -bad))
    np.testing.assert_array_equal(gw[:, 17], np.where(x[66] >= 0, bad, -bad))
    assert np.isfinite(np.delete(gx, 66, 0)).all()
    assert np.isfinite(np.delete(gw, 17, 1)).all()
    # Where the straight-through gradient is zero it stays zero.
    _, pull = jax.vjp(functools.partial(xnor.xnor_matmul, backend=backend), x, w)
    gx, gw = (np.asarray(a) for a in pull(g))
    np.testing.assert_array_equal(np.isfinite(gx[66]), np.abs(x[66]) > 1)
    assert not gx[66][np.abs(x[66]) > 1].any()
    np.testing.assert_array_equal(np.isfinite(gw[:, 17]), np.abs(w[:, 17]) > 1)


@each_backend()
def test_of_a_convolution_with_a_pixel_that_is_not_finite(backend):
    rng = np.random.default_rng(7)
    x, w = latent(rng, (3, 6, 8, 33)), latent(rng, (3, 3, 33, 19))
    g = rng.normal(size=(3, 6, 8, 19)).astype(np.float32)
    g[1, 2, 7, 18] = np.nan
    _, pull = jax.vjp(functools.partial(xnor.binary_conv, backend=backend), x, w)
    gx, gw = (np.isnan(a) for a in pull(g))
    expected = np.zeros(gx.shape, bool)
    expected[1, 1:4, 6:8] = True
    np.testing.assert_array_equal(gx, expected)
    assert gw[:, :2, :, 18].all() and not gw[..., :18].any()  # the third column: a border of 0
