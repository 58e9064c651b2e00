"""Products of ±1 matrices on every back end, against integers in numpy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from binary_reference import (
    LENGTHS,
    SIZES,
    affine,
    each_backend,
    packed,
    random_signs,
    signs,
    thresholds,
)

import binjax
from binjax import xnor

pytestmark = [
    pytest.mark.filterwarnings("ignore::binjax.xnor.SlowerBackendWarning"),
    pytest.mark.usefixtures("strict_promotion"),
]


def case(m: int, k: int, n: int, seed: int = 0):
    """Packed operands, their dot products, and operands of the epilogues."""
    rng = np.random.default_rng(seed)
    x, w = random_signs(rng, (m, k)), random_signs(rng, (n, k))
    dot = (x.astype(np.float64) @ w.T.astype(np.float64)).astype(np.int64)
    return packed(x > 0), packed(w > 0), dot, thresholds(rng, dot, k), affine(rng, n)


@functools.partial(jax.jit, static_argnames=("k", "backend"))
def all_epilogues(xp, wp, threshold, flip, scale, bias, *, k, backend):
    return (
        xnor.packed_matmul(xp, wp, k, backend=backend),
        xnor.packed_matmul_threshold(xp, wp, k, threshold, flip, backend=backend),
        xnor.packed_matmul_affine(xp, wp, k, scale, bias, backend=backend),
    )


def check(m, k, n, backend):
    xp, wp, dot, (threshold, flip), (scale, bias) = case(m, k, n)
    found = all_epilogues(xp, wp, threshold, flip, scale, bias, k=k, backend=backend)
    assert [a.dtype for a in found] == [jnp.int32, jnp.uint32, jnp.float32]
    np.testing.assert_array_equal(found[0], dot)
    np.testing.assert_array_equal(found[1], packed((dot >= threshold) ^ flip))
    np.testing.assert_array_equal(found[2], (dot * scale.astype(np.float64) + bias))


@each_backend()
@pytest.mark.parametrize("k", LENGTHS)
def test_grid(backend, k):
    for m, n in SIZES:
        check(m, k, n, backend)


@each_backend()
@pytest.mark.parametrize(
    ("m", "k", "n"),
    [
        (3, 64, 513),  # three panels of the XLA form, the last one not full
        (300, 1025, 11),  # fewer columns than vector lanes: the XLA form swaps the operands
        (2099, 1100, 271),  # more rows than it takes at once: blocks of rows, none of them full
    ],
)
def test_blocks(backend, m, k, n):
    check(m, k, n, backend)


@each_backend()
def test_eager_and_default_backend(backend):
    xp, wp, dot, (threshold, flip), _ = case(5, 77, 34)
    np.testing.assert_array_equal(xnor.packed_matmul(xp, wp, 77, backend=backend), dot)
    np.testing.assert_array_equal(binjax.packed_matmul(xp, wp, 77), dot)
    found = binjax.packed_matmul_threshold(xp, wp, 77, threshold, flip)
    np.testing.assert_array_equal(found, packed((dot >= threshold) ^ flip))
    with jax.disable_jit():
        np.testing.assert_array_equal(xnor.packed_matmul(xp, wp, 77, backend=backend), dot)


@each_backend()
def test_any_threshold_under_jit(backend):
    xp, wp, dot, (_, flip), _ = case(4, 33, 40)
    low, high = np.iinfo(np.int32).min, np.iinfo(np.int32).max
    threshold = np.resize(np.asarray([low, low + 1, -34, 35, high], np.int32), 40)
    found = jax.jit(lambda t: xnor.packed_matmul_threshold(xp, wp, 33, t, flip, backend=backend))(
        threshold
    )
    np.testing.assert_array_equal(found, packed((dot >= threshold) ^ flip))


@each_backend()
def test_result_in_donated_memory(backend):
    xp, wp, dot, _, _ = case(65, 100, 130)

    @functools.partial(jax.jit, donate_argnums=0)
    def product(out, xp, wp):
        return xnor.packed_matmul(xp, wp, 100, backend=backend, out=out)

    spare = jnp.full((65, 130), 7, jnp.int32)
    found = product(spare, xp, wp)
    np.testing.assert_array_equal(found, dot)
    memory = found.unsafe_buffer_pointer()
    again = product(found, xp, wp)
    np.testing.assert_array_equal(again, dot)
    assert backend != "native" or again.unsafe_buffer_pointer() == memory
    kept = jnp.zeros((65, 130), jnp.int32)
    np.testing.assert_array_equal(xnor.packed_matmul(xp, wp, 100, backend=backend, out=kept), dot)
    np.testing.assert_array_equal(jax.jit(product)(kept, xp, wp), dot)
    assert not kept.any()


@each_backend()
@pytest.mark.parametrize("n", [64, 37])  # whole words and not: bits fold in the first case only
def test_vmap_over_every_choice_of_axes(backend, n):
    b, m, k = 3, 5, 70
    rng = np.random.default_rng(1)
    xs, ws = random_signs(rng, (b, m, k)), random_signs(rng, (b, n, k))
    dots = np.einsum("bmk,cnk->bcmn", xs, ws)
    threshold = rng.integers(-9, 9, (b, n)).astype(np.int32)
    flip = rng.random((b, n)) < 0.5
    batches = packed(xs > 0), packed(ws > 0), threshold, flip

    @functools.partial(jax.jit, static_argnums=0)
    def both(axes, xp, wp, t, f):
        def one(xp, wp, t, f):
            bits = xnor.packed_matmul_threshold(xp, wp, k, t, f, backend=backend)
            return xnor.packed_matmul(xp, wp, k, backend=backend), bits

        return jax.vmap(one, axes, (1, 0))(xp, wp, t, f)

    choices = [(0, None, None, None), (None, 0, 0, 0), (None, 0, None, None), (0, 0, None, None)]
    for choice in [*choices, (None, None, 0, 0), (0, None, 0, None), (0, 0, 0, 0)]:
        operands = [v if axis == 0 else v[0] for v, axis in zip(batches, choice, strict=True)]
        found, bits = both(choice, *operands)
        for i in range(b):
            at = [i if axis == 0 else 0 for axis in choice]
            dot = dots[at[0], at[1]]
            np.testing.assert_array_equal(found[:, i], dot, err_msg=str(choice))
            expected = packed((dot >= threshold[at[2]]) ^ flip[at[3]])
            np.testing.assert_array_equal(bits[i], expected, err_msg=str(choice))


@each_backend()
def test_vmap_other_axes_and_twice(backend):
    rng = np.random.default_rng(2)
    x, w = rng.normal(size=(2, 3, 4, 40)), rng.normal(size=(3, 40, 6))
    x, w = x.astype(np.float32), w.astype(np.float32)
    product = functools.partial(xnor.xnor_matmul, backend=backend)
    expected = np.einsum("abmk,bkn->abmn", signs(x), signs(w))
    np.testing.assert_array_equal(jax.vmap(jax.vmap(product), (0, None))(x, w), expected)
    moved = jax.vmap(product, (1, 0), 2)(x, w)
    np.testing.assert_array_equal(moved, expected.transpose(0, 2, 1, 3))
    found = jax.vmap(lambda w: product(x, w), 2, 1)(np.moveaxis(w, 0, 2))
    np.testing.assert_array_equal(found, np.einsum("abmk,ckn->acbmn", signs(x), signs(w)))


def edge_values(rng, shape):
    """Normal values with the edges of the gradient's mask strewn in."""
    x = rng.normal(size=shape).astype(np.float32)
    edges = np.asarray([0.0, -0.0, 1, -1, np.nextafter(np.float32(1), 2), -1.5, 1e-45], np.float32)
    at = rng.random(shape) < 0.3
    return np.where(at, rng.choice(edges, shape), x)


@each_backend()
def test_real_operands_and_gradients(backend):
    rng = np.random.default_rng(3)
    for leading, k, n in (((7,), 77, 33), ((2, 3), 40, 10), ((), 31, 5)):
        x, w = edge_values(rng, (*leading, k)), edge_values(rng, (k, n))
        g = rng.integers(-3, 4, (*leading, n)).astype(np.float32)
        gx = g @ signs(w).T
        gw = signs(x).reshape(-1, k).T @ g.reshape(-1, n)
        for function, mask in ((xnor.xnor_matmul, True), (xnor.binary_matmul, False)):
            y, pullback = jax.vjp(functools.partial(function, backend=backend), x, w)
            assert y.dtype == x.dtype
            np.testing.assert_array_equal(y, signs(x) @ signs(w))
            found = pullback(jnp.asarray(g))
            np.testing.assert_array_equal(found[0], gx * (np.abs(x) <= 1) if mask else gx)
            np.testing.assert_array_equal(found[1], gw * (np.abs(w) <= 1) if mask else gw)


def test_equals_the_product_of_ste_signs():
    rng = np.random.default_rng(4)
    x, w = edge_values(rng, (5, 50)), edge_values(rng, (50, 8))

    def loss(product, x, w):
        return jnp.sum(product(x, w) ** 2)

    def floats(x, w):
        return binjax.ste_sign(x) @ binjax.ste_sign(w)

    def bits(x, w):
        return binjax.binary_matmul(binjax.ste_sign(x), binjax.ste_sign(w))

    expected = jax.grad(functools.partial(loss, floats), (0, 1))(x, w)
    for product in (binjax.xnor_matmul, bits):
        found = jax.jit(jax.grad(functools.partial(loss, product), (0, 1)))(x, w)
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])


def test_gradients_under_vmap_scan_and_checkpoint():
    rng = np.random.default_rng(5)
    xs, w = edge_values(rng, (3, 5, 40)), edge_values(rng, (40, 40)) / 2

    def loss(x, w):
        return jnp.sum(jnp.sin(binjax.xnor_matmul(x, w)))

    gradient = jax.grad(loss, (0, 1))
    singly = [gradient(x, w) for x in xs]
    together = jax.vmap(gradient, (0, None))(xs, w)
    for i in range(3):
        np.testing.assert_allclose(together[0][i], singly[i][0], rtol=1e-6, atol=1e-5)
        np.testing.assert_allclose(together[1][i], singly[i][1], rtol=1e-6, atol=1e-5)

    def chain(step, w):
        return jnp.sum(jax.lax.scan(lambda x, _: (step(x, w), None), xs[0], length=3)[0] ** 2)

    def step(x, w):
        return binjax.xnor_matmul(x, w) / 7

    plain, rematerialized = (
        jax.jit(jax.grad(functools.partial(chain, f)))(w) for f in (step, jax.checkpoint(step))
    )
    np.testing.assert_array_equal(plain, rematerialized)


def test_half_precision_keeps_its_dtypes():
    rng = np.random.default_rng(6)
    x = jnp.asarray(rng.normal(size=(4, 33)), jnp.bfloat16)
    w = jnp.asarray(rng.normal(size=(33, 6)), jnp.float32)
    y, pullback = jax.vjp(binjax.xnor_matmul, x, w)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(y, np.float32), signs(x) @ signs(w))
    gx, gw = pullback(jnp.ones_like(y))
    assert (gx.dtype, gw.dtype) == (jnp.bfloat16, jnp.float32)


@each_backend()
def test_gradients_of_the_affine_epilogue(backend):
    xp, wp, dot, _, (scale, bias) = case(6, 77, 20)

    def loss(scale, bias):
        y = xnor.packed_matmul_affine(xp, wp, 77, scale, bias, backend=backend)
        return jnp.sum(y * jnp.asarray(dot, jnp.float32))

    found = jax.grad(loss, (0, 1))(scale, bias)
    np.testing.assert_array_equal(found[0], (dot * dot).sum(0))
    np.testing.assert_array_equal(found[1], dot.sum(0))


def test_second_derivatives_are_refused():
    x, w = np.full((2, 3), 0.5, np.float32), np.full((3, 2), 0.5, np.float32)

    def loss(x, w):
        return jnp.sum(binjax.xnor_matmul(x, w))

    with pytest.raises(TypeError, match=r"no second derivatives.*multiply in floats"):
        jax.grad(lambda w: jnp.sum(jax.grad(loss)(x, w)))(w)
    with pytest.raises(TypeError, match="no second derivatives"):
        jax.hessian(loss)(x, w)


def test_shapes_without_computing_and_no_second_trace():
    traces = []

    @jax.jit
    def product(x, w):
        traces.append(x.shape)
        return binjax.xnor_matmul(x, w)

    x, w = np.ones((3, 40), np.float32), np.ones((40, 5), np.float32)
    assert jax.eval_shape(binjax.xnor_matmul, x, w).shape == (3, 5)
    xp, wp = jax.ShapeDtypeStruct((3, 2), jnp.uint32), jax.ShapeDtypeStruct((70, 2), jnp.uint32)
    bits = jax.eval_shape(
        lambda *a: binjax.packed_matmul_threshold(*a[:2], 64, *a[2:]),
        xp,
        wp,
        jax.ShapeDtypeStruct((70,), jnp.int32),
        jax.ShapeDtypeStruct((70,), jnp.bool_),
    )
    assert (bits.shape, bits.dtype) == ((3, 3), jnp.uint32)
    product(x, w)
    product(-x, -w)
    assert len(traces) == 1


@each_backend()
@pytest.mark.parametrize(("m", "n"), [(0, 5), (5, 0), (0, 0)])
def test_empty_results(backend, m, n):
    xp, wp = np.zeros((m, 2), np.uint32), np.zeros((n, 2), np.uint32)
    assert xnor.packed_matmul(xp, wp, 40, backend=backend).shape == (m, n)
    bits = xnor.packed_matmul_threshold(
        xp, wp, 40, np.zeros(n, np.int32), np.zeros(n, bool), backend=backend
    )
    assert (bits.shape, bits.dtype) == ((m, -(-n // 32)), jnp.uint32)
    x, w = np.ones((m, 40), np.float32), np.ones((40, n), np.float32)
    gx, gw = jax.grad(lambda x, w: jnp.sum(xnor.xnor_matmul(x, w, backend=backend)), (0, 1))(x, w)
    assert not np.any(gw) if m == 0 else not np.any(gx)


WORDS = np.zeros((3, 2), np.uint32)
FLAGS = np.zeros(3, bool)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((WORDS, WORDS, 0), ValueError, r"k is 0; binary products take from 1 to 2\*\*30 - 1"),
        ((WORDS, WORDS, 1 << 30), ValueError, "k is 1073741824; binary products take"),
        ((WORDS, WORDS, 64.0), TypeError, "k is 64.0; it must be an integer"),
        ((WORDS, WORDS, 65), ValueError, r"xp has shape \(3, 2\); 65 packed elements take 3 words"),
        ((WORDS, WORDS[:, :1], 64), ValueError, r"wp has shape \(3, 1\); 64 packed elements take"),
        ((WORDS[0], WORDS, 64), ValueError, r"xp has shape \(2,\); expected \[rows, 2\] words"),
        ((WORDS.astype(int), WORDS, 64), TypeError, "xp has dtype int64, packed words are uint32"),
        (([[1, 2]], WORDS, 64), TypeError, "xp has dtype int32, packed words are uint32"),
    ],
)
def test_refused_operands(arguments, error, message):
    with pytest.raises(error, match=message):
        xnor.packed_matmul(*arguments)


@pytest.mark.parametrize(
    ("threshold", "flip", "error", "message"),
    [
        (np.full(3, 66), FLAGS, TypeError, "threshold has dtype int64; it must be int32"),
        (np.full(3, 66, np.int32), FLAGS, ValueError, r"value 66; .* need thresholds in \[-64, 65"),
        (np.full(3, -65, np.int32), FLAGS, ValueError, "threshold has the value -65"),
        (np.zeros(4, np.int32), FLAGS, ValueError, r"threshold has shape \(4,\); expected \(3,\)"),
        (np.zeros(3, np.int32), FLAGS * 1, TypeError, "flip has dtype int64; it must be bool"),
    ],
)
def test_refused_thresholds(threshold, flip, error, message):
    with pytest.raises(error, match=message):
        xnor.packed_matmul_threshold(WORDS, WORDS, 64, threshold, flip)


def test_other_refusals():
    x, w = np.ones((2, 3), np.float32), np.ones((3, 4), np.float32)
    with pytest.raises(ValueError, match=r"x has shape \(2, 3\) and w \(4, 3\); expected"):
        xnor.xnor_matmul(x, w.T)
    with pytest.raises(TypeError, match="xb has dtype int8; it must be floating"):
        xnor.binary_matmul(x.astype(np.int8), w)
    with pytest.raises(ValueError, match="k is 0"):
        xnor.xnor_matmul(x[:, :0], w[:0])
    with pytest.raises(ValueError, match=r"w is NaN at \(0, 0\)"):
        xnor.xnor_matmul(x, w * np.float32(np.nan))
    with pytest.raises(TypeError, match="scale has dtype float64; it must be float32"):
        xnor.packed_matmul_affine(WORDS, WORDS, 64, np.ones(3), np.ones(3))
    with pytest.raises(ValueError, match=r"out has shape \(3, 2\); expected \(3, 3\)"):
        xnor.packed_matmul(WORDS, WORDS, 64, out=jnp.zeros((3, 2), jnp.int32))
    with pytest.raises(TypeError, match="k is a traced value; it must be a static"):
        jax.jit(lambda k: xnor.packed_matmul(WORDS, WORDS, k))(64)
