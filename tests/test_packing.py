"""Bits and words."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from binary_reference import each_backend, packed, signs

import binjax
from binjax.packing import check_words, unpack_bits
from binjax.xnor import pack_bits
from binjax.xnor.pack import pack_middle_axis

pytestmark = [
    pytest.mark.filterwarnings("ignore::binjax.xnor.SlowerBackendWarning"),
    pytest.mark.usefixtures("strict_promotion"),
]
FLOATS = (np.float32, np.float16, jnp.bfloat16)
# One bit, a word less and more one, vector widths of the native kernel and one past them
LENGTHS = (1, 31, 32, 33, 64, 77, 512, 513)


def edges(dtype) -> np.ndarray:
    """0, -0.0, the smallest subnormals, ±1 and their neighbours, the largest, infinities."""
    info = jnp.finfo(dtype)
    tiny, eps = float(info.smallest_subnormal), float(info.eps)
    values = [0.0, -0.0, tiny, -tiny, 1, -1, 1 + eps, -1 - eps, float(info.max), np.inf, -np.inf]
    return np.asarray(values).astype(dtype)


@each_backend()
@pytest.mark.parametrize("dtype", FLOATS)
def test_packs_signs(backend, dtype):
    rng = np.random.default_rng(0)
    for n in LENGTHS:
        x = rng.normal(size=(3, n)).astype(dtype)
        found = pack_bits(x, backend=backend)
        assert found.dtype == jnp.uint32
        np.testing.assert_array_equal(found, packed(signs(x) > 0))
    x = edges(dtype)
    np.testing.assert_array_equal(pack_bits(x, backend=backend), packed(signs(x) > 0))


@each_backend()
def test_packs_float64(backend, x64):
    x = np.concatenate([edges(np.float64), np.random.default_rng(0).normal(size=90)])
    np.testing.assert_array_equal(pack_bits(x, backend=backend), packed(signs(x) > 0))


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32])
def test_packs_integers_and_booleans(dtype):
    x = np.random.default_rng(0).integers(-2, 3, (2, 3, 45)).astype(dtype)
    np.testing.assert_array_equal(pack_bits(x), packed(x >= 0))
    np.testing.assert_array_equal(pack_bits(x > 0), packed(x > 0))


def test_packs_eight_bit_floats():
    for dtype in (jnp.float8_e4m3fn, jnp.float8_e5m2, jnp.float8_e4m3fnuz):
        x = np.asarray([0.0, -0.0, 1.0, -1.0, -0.25, 96.0]).astype(dtype)
        np.testing.assert_array_equal(pack_bits(jnp.asarray(x)), packed(signs(x) > 0))


@each_backend()
def test_packs_columns(backend):
    rng = np.random.default_rng(0)
    for taps, k, n in ((1, 1, 1), (1, 77, 33), (9, 40, 65), (2, 129, 7)):
        w = rng.normal(size=(taps, k, n)).astype(np.float32)
        found = pack_middle_axis(jnp.asarray(w), backend)
        np.testing.assert_array_equal(found, packed(signs(w).transpose(2, 0, 1) > 0))


@each_backend()
def test_any_leading_shape_and_nothing(backend):
    rng = np.random.default_rng(0)
    for shape in ((33,), (2, 3, 4, 5), (0, 40), (4, 0), (1, 1, 1)):
        x = rng.normal(size=shape).astype(np.float32)
        np.testing.assert_array_equal(pack_bits(x, backend=backend), packed(signs(x) > 0))


@each_backend()
def test_under_transformations(backend):
    x = np.random.default_rng(0).normal(size=(4, 3, 5, 70)).astype(np.float32)
    expected = packed(signs(x) > 0)

    def pack(x):
        return pack_bits(x, backend=backend)

    np.testing.assert_array_equal(jax.jit(pack)(x), expected)
    for axis in (0, 1, 2):
        np.testing.assert_array_equal(
            jax.vmap(pack, axis, axis)(x), expected, err_msg=f"axis {axis}"
        )
    np.testing.assert_array_equal(jax.vmap(jax.vmap(pack))(x), expected)
    assert jax.eval_shape(pack, x).shape == expected.shape
    total = jax.grad(lambda x: jnp.sum(unpack_bits(pack(x), 70) * x))(x)
    np.testing.assert_array_equal(total, signs(x))


@each_backend()
def test_columns_under_vmap(backend):
    w = np.random.default_rng(0).normal(size=(3, 2, 40, 5)).astype(np.float32)
    found = jax.vmap(lambda w: pack_middle_axis(w, backend))(w)
    np.testing.assert_array_equal(found, packed(signs(w).transpose(0, 3, 1, 2) > 0))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, jnp.bfloat16, np.int8, np.int32])
def test_unpack_is_the_inverse(dtype):
    x = np.random.default_rng(0).integers(0, 2, (2, 3, 77)) * 2 - 1
    words = packed(x > 0)
    found = unpack_bits(words, 77, dtype)
    assert found.dtype == dtype
    np.testing.assert_array_equal(np.asarray(found).astype(np.int64), x)
    np.testing.assert_array_equal(unpack_bits(words, 77, bool), x > 0)
    np.testing.assert_array_equal(binjax.pack_bits(unpack_bits(words, 77)), words)


def test_nan_is_refused_where_it_can_be_seen():
    x = np.asarray([[1.0, 2.0], [3.0, np.nan]], np.float32)
    with pytest.raises(ValueError, match=r"x is NaN at \(1, 1\)"):
        pack_bits(x)
    with pytest.raises(ValueError, match="x is NaN at"):
        pack_bits(jnp.asarray(x))
    assert jax.jit(pack_bits)(np.asarray([np.nan, -np.nan], np.float32)).tolist() == [1]


def test_refusals():
    with pytest.raises(TypeError, match="x to pack has dtype uint32; packing takes floating"):
        pack_bits(np.ones(3, np.uint32))
    with pytest.raises(TypeError, match="x to pack has dtype complex64"):
        pack_bits(np.ones(3, np.complex64))
    with pytest.raises(ValueError, match="x is a scalar"):
        pack_bits(1.0)
    with pytest.raises(TypeError, match="words has dtype int32, packed words are uint32"):
        unpack_bits(np.ones(3, np.int32), 70)
    with pytest.raises(TypeError, match="dtype uint8 cannot hold ±1"):
        unpack_bits(np.ones(3, np.uint32), 70, jnp.uint8)
    with pytest.raises(ValueError, match=r"xp has shape \(2, 2\); 77 packed elements take 3 words"):
        check_words(jnp.ones((2, 2), jnp.uint32), 77, "xp")


def test_wide_numpy_numbers_keep_their_sign():
    # JAX without 64-bit types would wrap or flush them to zero first.
    integers = np.asarray([2**31, -(2**32), -1, 0, 2**63 - 1])
    floats = np.asarray([-1e-300, 1e-300, -0.0, -5e-324, 1e300])
    np.testing.assert_array_equal(pack_bits(integers), [0b11001])
    np.testing.assert_array_equal(pack_bits(floats), [0b10110])
