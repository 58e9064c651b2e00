"""Evaluation of batch norm: one rounding after each operation, wherever it is compiled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from binjax.layers import BatchNorm
from binjax.rounding import apart

SHAPES = [(1, 7), (5, 7), (33, 7), (64, 8), (100, 10), (3, 5, 13), (2, 3, 3, 129)]


@pytest.mark.parametrize("shape", SHAPES)
def test_batch_norm_is_rounded_alike_in_every_place(shape):
    rng = np.random.default_rng(0)
    n = shape[-1]
    norm = BatchNorm(n, running="inverse_std")
    values = {name: rng.normal(size=n).astype(np.float32) for name in ("scale", "bias", "mean")}
    for name, value in values.items():
        getattr(norm, name)[...] = jnp.asarray(value)
    norm.spread[...] = jnp.asarray(rng.uniform(0.1, 3, n).astype(np.float32))
    x = rng.integers(-4000, 4000, shape).astype(np.float32)
    factor = np.asarray(norm.spread[...]) * values["scale"]
    wanted = (x - values["mean"]) * factor + values["bias"]

    variables = (jnp.asarray(v) for v in (*values.values(), np.asarray(norm.spread[...])))
    found = jax.jit(lambda x, *v: _evaluate(x, *v, n=n))(x, *variables)
    np.testing.assert_array_equal(found, wanted)


def _evaluate(x, scale, bias, mean, spread, *, n):
    norm = BatchNorm(n, running="inverse_std")
    for variable, value in (
        (norm.scale, scale),
        (norm.bias, bias),
        (norm.mean, mean),
        (norm.spread, spread),
    ):
        variable[...] = value
    return norm(x)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_apart(dtype):
    x = jnp.asarray([0.0, -0.0, 1.5, -2.25, 1e-7, jnp.nan], dtype)
    found = jax.jit(apart)(x)
    assert found.dtype == dtype
    np.testing.assert_array_equal(np.asarray(found, np.float32), np.asarray(x, np.float32))
    assert np.signbit(np.asarray(found, np.float32)[1])
    a, b, c = (np.random.default_rng(1).normal(size=4001).astype(np.float32) for _ in range(3))
    product = jax.jit(lambda a, b, c: apart(a * b) + c)(a, b, c)
    np.testing.assert_array_equal(product, a * b + c)
