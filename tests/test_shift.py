"""AP2 against exact arithmetic: every 16-bit pattern, and the hard ones of 32 and 64 bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from binjax.shift import ap2


def bits(x: jax.typing.ArrayLike) -> np.ndarray:
    x = np.asarray(x)
    return x.view(f"u{x.dtype.itemsize}")


def check(x: np.ndarray) -> None:
    """Bit equality (so also of zeros' signs), NaN for NaN."""
    with np.errstate(invalid="ignore"):  # numpy's float16, ml_dtypes' bfloat16: signalling NaNs
        nan = np.isnan(x)
    for function in (ap2, jax.jit(ap2)):
        y = np.asarray(function(x))
        assert y.dtype == x.dtype and y.shape == x.shape
        assert np.isnan(y[nan]).all()
        np.testing.assert_array_equal(bits(y[~nan]), bits(reference.ap2(x[~nan])))


def hard_patterns(dtype: jax.typing.DTypeLike) -> np.ndarray:
    """All exponents and signs by the mantissas around the switch point and the ends."""
    info = jnp.finfo(dtype)
    unsigned = np.dtype(f"u{info.bits // 8}")
    n = info.nmant
    switch = int((np.sqrt(np.longdouble(2)) - 1) * np.longdouble(2) ** n)
    ends = [0, 1, 2, (1 << n) - 2, (1 << n) - 1]
    fields = np.array(ends + [switch + d for d in range(-3, 5)], unsigned)
    # Subnormals have their own switch points, below every leading one.
    fields = np.append(fields, [(1 << k) for k in range(n)])
    for k in range(1, n):
        fields = np.append(fields, [((1 << n) + switch + d >> k) for d in (-2, -1, 0, 1, 2)])
    exponents = np.arange(1 << (info.bits - 1 - n), dtype=unsigned) << unsigned.type(n)
    words = np.unique(exponents[:, None] + np.unique(fields.astype(unsigned))[None])
    sign = unsigned.type(1) << unsigned.type(info.bits - 1)
    return np.concatenate([words, words | sign]).view(np.dtype(dtype))


def test_golden_values() -> None:
    x = [0.7, 0.71, 1.41, 1.42, 1.5, -3, 2.9, 2.8, 100, 1e-6]
    expected = [0.5, 1, 1, 2, 2, -4, 4, 2, 128, 2**-20]
    np.testing.assert_array_equal(ap2(jnp.array(x)), expected)
    np.testing.assert_array_equal(reference.ap2(np.array(x)), expected)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_every_16_bit_pattern(dtype: jax.typing.DTypeLike) -> None:
    check(np.arange(1 << 16, dtype=np.uint16).view(np.dtype(dtype)))


def test_float32() -> None:
    check(hard_patterns(jnp.float32))
    rng = np.random.default_rng(0)
    check(rng.integers(0, 1 << 32, 200_000, dtype=np.uint32).view(np.float32))
    check(rng.integers(0, 1 << 23, 20_000, dtype=np.uint32).view(np.float32))  # subnormals


def test_float64(x64: None) -> None:
    check(hard_patterns(jnp.float64))
    rng = np.random.default_rng(0)
    check(rng.integers(0, 1 << 64, 100_000, dtype=np.uint64).view(np.float64))
    check(rng.integers(0, 1 << 52, 20_000, dtype=np.uint64).view(np.float64))  # subnormals


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_zero_signs_infinities_and_overflow(dtype: jax.typing.DTypeLike) -> None:
    top = jnp.finfo(dtype).max
    x = np.array([0.0, -0.0, np.inf, -np.inf, top, -top], np.dtype(dtype))
    y = np.asarray(ap2(x)).astype(np.float64)
    np.testing.assert_array_equal(y, [0, 0, np.inf, -np.inf, np.inf, -np.inf])
    np.testing.assert_array_equal(np.signbit(y), np.signbit(x.astype(np.float64)))


@pytest.mark.parametrize("x", [0.0, -0.0, 1.0, -1.5, 1e-40, np.inf, -np.inf, np.nan])
def test_derivative_is_zero(x: float) -> None:
    assert jax.grad(ap2)(x) == 0
    assert jax.jvp(ap2, (jnp.float32(x),), (jnp.float32(1),))[1] == 0


def test_batching_and_shapes() -> None:
    x = jnp.linspace(-9, 9, 60).reshape(3, 4, 5)
    np.testing.assert_array_equal(jax.vmap(jax.vmap(ap2))(x), ap2(x))
    assert ap2(jnp.zeros((0, 2))).shape == (0, 2)
    assert ap2(3.0).shape == ()


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_no_implicit_promotion(dtype: jax.typing.DTypeLike, strict_promotion: None) -> None:
    assert ap2(jnp.ones(3, dtype)).dtype == dtype


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.uint8, bool, jnp.complex64, jnp.float8_e4m3fn])
def test_other_dtypes_are_refused(dtype: jax.typing.DTypeLike) -> None:
    with pytest.raises(TypeError, match=np.dtype(dtype).name):
        ap2(jnp.ones(3, dtype))
