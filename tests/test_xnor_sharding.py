"""Products over two devices: the automatic partitioner and shard_map."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from binary_reference import packed, random_signs, signs
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from sharding import run, trimmed, two_devices

from binjax import xnor

pytestmark = pytest.mark.filterwarnings("ignore::binjax.xnor.SlowerBackendWarning")


@pytest.fixture(scope="module")
def mesh():
    return two_devices()


M, K, N = 6, 128, 128
rng = np.random.default_rng(0)
X, W = random_signs(rng, (M, K)), random_signs(rng, (N, K))
DOT = X @ W.T
THRESHOLD, FLIP = rng.integers(-9, 9, N).astype(np.int32), rng.random(N) < 0.5
SCALE, BIAS = np.exp2(rng.integers(-2, 2, N)).astype(np.float32), np.ones(N, np.float32)
ROWS, COLUMNS = packed(X > 0), packed(W > 0)

EPILOGUES = {
    "int32": (lambda x, w: xnor.packed_matmul(x, w, K), (), DOT),
    "affine": (
        lambda x, w, s, b: xnor.packed_matmul_affine(x, w, K, s, b),
        (SCALE, BIAS),
        DOT * SCALE + BIAS,
    ),
    "threshold": (
        lambda x, w, t, f: xnor.packed_matmul_threshold(x, w, K, t, f),
        (THRESHOLD, FLIP),
        packed((DOT >= THRESHOLD) ^ FLIP),
    ),
}


@pytest.mark.parametrize("epilogue", EPILOGUES)
def test_matmul(mesh, epilogue):
    function, rest, expected = EPILOGUES[epilogue]
    for axis, specs, spec, collectives in (
        ("rows", (P("d"), P(), P()), ("d",), set()),
        ("columns", (P(), P("d"), P("d")), (None, "d"), set()),
        ("words", (P(None, "d"), P(None, "d"), P()), (), {"all-reduce"}),
        ("words of one operand", (P(None, "d"), P(), P()), (), {"all-reduce"}),
    ):
        placed = [*specs[:2], *[specs[2]] * len(rest)]
        out, found, used = run(mesh, function, (ROWS, COLUMNS, *rest), placed)
        np.testing.assert_array_equal(out, expected, err_msg=axis)
        assert trimmed(found) == spec, axis
        assert used == collectives, axis


def test_bits_that_do_not_fill_words_are_gathered(mesh):
    wp, t, f = COLUMNS[:96], THRESHOLD[:96], FLIP[:96]  # three words for two devices
    function, _, _ = EPILOGUES["threshold"]
    out, _, _ = run(mesh, function, (ROWS, wp, t, f), (P(), P("d"), P("d"), P("d")))
    np.testing.assert_array_equal(out, packed((DOT[:, :96] >= t) ^ f))
    wp, t, f = wp[:70], t[:70], f[:70]
    out, _, _ = run(mesh, function, (ROWS, wp, t, f), (P(), P("d"), P("d"), P("d")))
    np.testing.assert_array_equal(out, packed((DOT[:, :70] >= t) ^ f))


def test_packing(mesh):
    out, spec, used = run(mesh, xnor.pack_bits, (X,), (P(None, "d"),))
    np.testing.assert_array_equal(out, ROWS)
    assert (trimmed(spec), used) == ((None, "d"), set())
    out, spec, used = run(mesh, xnor.pack_bits, (X[:, :70],), (P("d"),))
    np.testing.assert_array_equal(out, packed(X[:, :70] > 0))
    assert (trimmed(spec), used) == (("d",), set())
    out, _, _ = run(mesh, xnor.pack_bits, (X[:, :70],), (P(None, "d"),))
    np.testing.assert_array_equal(out, packed(X[:, :70] > 0))


def test_real_operands_and_gradients(mesh):
    x, w = rng.normal(size=(M, K)).astype(np.float32), rng.normal(size=(K, N)).astype(np.float32)

    def loss(x, w):
        return jnp.sum(xnor.xnor_matmul(x, w) ** 2)

    expected = jax.grad(loss, (0, 1))(x, w)
    for specs, spec, used in (
        ((P("d"), P()), ("d",), set()),
        ((P(), P(None, "d")), (None, "d"), set()),
        ((P(None, "d"), P("d")), (), {"all-reduce"}),
    ):
        out, found, collectives = run(mesh, xnor.xnor_matmul, (x, w), specs)
        np.testing.assert_array_equal(out, signs(x) @ signs(w))
        assert (trimmed(found), collectives) == (spec, used)
        gx, _, _ = run(mesh, jax.grad(loss), (x, w), specs)
        np.testing.assert_allclose(gx, expected[0], rtol=1e-5, atol=1e-4)
        gw, _, _ = run(mesh, jax.grad(loss, 1), (x, w), specs)
        np.testing.assert_array_equal(gw, expected[1])


@pytest.mark.parametrize(
    ("groups", "n_out"), [(1, 128), (1, 40), (2, 128), (2, 64), (4, 8), (64, 64)]
)
def test_conv(mesh, groups, n_out):
    channels = 64 // groups
    x = random_signs(rng, (4, 6, 5, 64))
    w = random_signs(rng, (3, 3, channels, n_out))
    convolve = functools.partial(xnor.binary_conv, groups=groups)
    expected = np.asarray(convolve(x, w))
    images = (P("d"), P())
    features = (P(None, None, None, "d" if groups > 1 else None), P(None, None, None, "d"))
    for specs, spec in ((images, ("d",)), (features, (None, None, None, "d"))):
        out, found, used = run(mesh, convolve, (x, w), specs)
        np.testing.assert_array_equal(out, expected)
        assert (trimmed(found), used) == (spec, set())
    for specs in ((P(None, "d"), P()), (P(None, None, None, "d"), P())):
        out, _, _ = run(mesh, convolve, (x, w), specs)
        np.testing.assert_array_equal(out, expected)

    k = 9 * channels
    xp, wp = xnor.pack_conv_input(x, groups), xnor.pack_conv_kernel(w)
    threshold = rng.integers(-k // 3, k // 3, n_out).astype(np.int32)
    flip = rng.random(n_out) < 0.5

    def bits(xp, wp, threshold, flip):
        return xnor.packed_conv_threshold(xp, wp, channels, threshold, flip)

    expected = packed((expected >= threshold) ^ flip)
    for spec in (P(), P("d")):
        operands = (xp, wp, threshold, flip)
        out, found, used = run(mesh, bits, operands, (P("d"), spec, spec, spec))
        np.testing.assert_array_equal(out, expected)
    out, found, used = run(mesh, bits, operands, (P("d"), P(), P(), P()))
    np.testing.assert_array_equal(out, expected)
    assert (trimmed(found), used) == (("d",), set())


@pytest.mark.parametrize("backend", [None, "xla"])
def test_shard_map(mesh, backend):
    # Long enough for the loop over chunks of words in the XLA form, whose carry has to vary
    x, w = rng.normal(size=(4, 1300)).astype(np.float32), rng.normal(size=(1300, 6))
    w = w.astype(np.float32)
    product = functools.partial(xnor.xnor_matmul, backend=backend)

    def loss(product, x, w):
        return jnp.sum(product(x, w) ** 2)

    expected = jax.grad(functools.partial(loss, product), (0, 1))(x, w)
    for specs in (((P("d"), P()), P("d")), ((P(), P(None, "d")), P(None, "d"))):
        mapped = jax.shard_map(product, mesh=mesh, in_specs=specs[0], out_specs=specs[1])
        lowered = jax.jit(mapped).lower(x, w)
        assert "CustomSPMDPartitioning" not in lowered.as_text()
        np.testing.assert_array_equal(jax.jit(mapped)(x, w), signs(x) @ signs(w))
        found = jax.jit(jax.grad(functools.partial(loss, mapped), (0, 1)))(x, w)
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])

    def summed(xp, wp):
        return jax.lax.psum(xnor.packed_matmul(xp, wp, K // 2, backend=backend), "d")

    mapped = jax.shard_map(summed, mesh=mesh, in_specs=(P(None, "d"), P(None, "d")), out_specs=P())
    np.testing.assert_array_equal(jax.jit(mapped)(ROWS, COLUMNS), DOT)


@pytest.mark.parametrize("backend", [None, "xla"])
def test_shard_map_over_part_of_a_mesh(mesh, backend):
    devices = np.asarray(jax.devices()[:2])
    for shape in ((2, 1), (1, 2)):
        both = jax.sharding.Mesh(
            devices.reshape(shape), ("d", "e"), axis_types=(AxisType.Auto,) * 2
        )
        mapped = jax.shard_map(
            lambda x, w: xnor.packed_matmul(x, w, K, backend=backend),
            mesh=both,
            in_specs=(P("d"), P()),
            out_specs=P("d"),
            axis_names={"d"},
        )
        wp = jax.device_put(COLUMNS, NamedSharding(both, P("e")))
        np.testing.assert_array_equal(jax.jit(mapped)(ROWS, wp), DOT)


def test_conv_and_affine_under_shard_map(mesh):
    x, w = rng.normal(size=(2, 5, 5, 40)), rng.normal(size=(3, 3, 40, 6))
    x, w = x.astype(np.float32), w.astype(np.float32)
    convolve = functools.partial(xnor.xnor_conv, backend="xla")
    mapped = jax.shard_map(convolve, mesh=mesh, in_specs=(P("d"), P()), out_specs=P("d"))

    def loss(convolve, x, w):
        return jnp.sum(convolve(x, w) ** 2)

    np.testing.assert_array_equal(jax.jit(mapped)(x, w), convolve(x, w))
    expected = jax.grad(functools.partial(loss, convolve), 1)(x, w)
    found = jax.jit(jax.grad(functools.partial(loss, mapped), 1))(x, w)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)

    affine = jax.shard_map(
        EPILOGUES["affine"][0], mesh=mesh, in_specs=(P("d"), P(), P(), P()), out_specs=P("d")
    )
    gradient = jax.jit(jax.grad(lambda s, b: jnp.sum(affine(ROWS, COLUMNS, s, b))))(SCALE, BIAS)
    np.testing.assert_array_equal(gradient, DOT.sum(0))
