"""Quantizers: values at the edges, declared gradients, both differentiation modes, residuals."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from binjax import ste

DTYPES = [jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64]
TOLERANCES = {"float16": 4e-3, "bfloat16": 4e-2, "float32": 2e-6, "float64": 1e-13}


class Case(NamedTuple):
    """A quantizer with its value and derivative in numpy."""

    function: Callable[..., jax.Array]
    value: Callable[[np.ndarray], np.ndarray]
    derivative: Callable[[np.ndarray], np.ndarray]


triangle = ste.straight_through(ste.sign, lambda x: jnp.maximum(0.0, 1.0 - jnp.abs(x)))

CASES = {
    "ste_sign": Case(ste.ste_sign, reference.sign, reference.saturated_derivative),
    "ste_sign 1.5": Case(
        lambda x, **mode: ste.ste_sign(x, 1.5, **mode),
        reference.sign,
        lambda x: reference.saturated_derivative(x, 1.5),
    ),
    "ste_sign None": Case(
        lambda x, **mode: ste.ste_sign(x, None, **mode), reference.sign, np.ones_like
    ),
    "approx_sign": Case(ste.approx_sign, reference.sign, reference.approx_sign_derivative),
    "swish_sign": Case(ste.swish_sign, reference.sign, reference.swish_sign_derivative),
    "swish_sign 2": Case(
        lambda x, **mode: ste.swish_sign(x, 2.0, **mode),
        reference.sign,
        lambda x: reference.swish_sign_derivative(x, 2.0),
    ),
    "hard_tanh": Case(ste.hard_tanh, reference.hard_tanh, reference.saturated_derivative),
    "hard_sigmoid": Case(
        ste.hard_sigmoid,
        reference.hard_sigmoid,
        lambda x: reference.saturated_derivative(x) / 2,
    ),
    "straight_through": Case(triangle, reference.sign, lambda x: np.maximum(0, 1 - np.abs(x))),
}
all_cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
KINDS = {name: case for name, case in CASES.items() if len(name.split()) == 1}
kinds = pytest.mark.parametrize("case", KINDS.values(), ids=KINDS)  # without the variations
all_dtypes = pytest.mark.parametrize("dtype", DTYPES)


def edges(dtype: jax.typing.DTypeLike) -> np.ndarray:
    """Where a comparison or a formula can go wrong, and both signs of it. No subnormals."""
    dtype = np.dtype(dtype)
    info = jnp.finfo(dtype)
    one, far = dtype.type(1), dtype.type(2)
    positive = [
        dtype.type(0),
        info.smallest_normal,
        dtype.type(1e-3),
        dtype.type(0.5),
        np.nextafter(one, dtype.type(0)),
        one,
        np.nextafter(one, far),
        dtype.type(1.5),
        far,
        dtype.type(10),
        dtype.type(1000),
        info.max,
        dtype.type(np.inf),
    ]
    values = np.array(positive, dtype)
    return np.concatenate([values, -values, np.array([np.nan], dtype)])


def in_dtype(value: np.ndarray, dtype: jax.typing.DTypeLike) -> np.ndarray:
    return np.asarray(value).astype(np.dtype(dtype)).astype(np.float64)


def wide(x: jax.typing.ArrayLike) -> np.ndarray:
    return np.asarray(x).astype(np.float64)


@pytest.fixture(autouse=True)
def _wide_types_for_float64(request: pytest.FixtureRequest) -> None:
    parameters = getattr(request.node, "callspec", None)
    if parameters is not None and parameters.params.get("dtype") is jnp.float64:
        request.getfixturevalue("x64")


@all_dtypes
@all_cases
def test_values_at_the_edges(case: Case, dtype: jax.typing.DTypeLike) -> None:
    x = edges(dtype)
    y = case.function(x)
    assert y.dtype == dtype and y.shape == x.shape
    # One rounding of a sum is allowed to hard_sigmoid; the signs are exact in any case.
    tolerance = TOLERANCES[np.dtype(dtype).name] if case.value is reference.hard_sigmoid else 0
    np.testing.assert_allclose(wide(y), in_dtype(case.value(wide(x)), dtype), rtol=tolerance)
    np.testing.assert_array_equal(wide(jax.jit(case.function)(x)), wide(y))


@all_dtypes
def test_sign_alone(dtype: jax.typing.DTypeLike) -> None:
    x = edges(dtype)
    np.testing.assert_array_equal(wide(ste.sign(x)), reference.sign(wide(x)))
    finite = jnp.asarray(x[np.isfinite(wide(x))])
    assert not jax.grad(lambda z: ste.sign(z).sum())(finite).any()


@pytest.mark.parametrize("function", [ste.sign, ste.ste_sign, ste.approx_sign, ste.swish_sign])
@all_dtypes
def test_sign_of_subnormals(
    function: Callable[..., jax.Array], dtype: jax.typing.DTypeLike
) -> None:
    # XLA's CPU code treats subnormals as zero in comparisons, other devices don't: the sign of a
    # tiny negative number must not depend on that, nor differ from what a packed kernel sees.
    tiny = jnp.finfo(dtype).smallest_subnormal
    x = np.array([tiny, -tiny], np.dtype(dtype))
    np.testing.assert_array_equal(wide(jax.jit(function)(x)), [1, -1])


@all_dtypes
@all_cases
def test_gradients_at_the_edges(case: Case, dtype: jax.typing.DTypeLike) -> None:
    x = edges(dtype)
    g = np.linspace(0.5, 2, x.size).astype(x.dtype)
    (gx,) = jax.vjp(case.function, x)[1](g)
    assert gx.dtype == dtype
    tolerance = TOLERANCES[np.dtype(dtype).name]
    expected = wide(g) * case.derivative(wide(x))
    np.testing.assert_allclose(wide(gx), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("clip_value", [0.3, 1.0, 1.3])
def test_saturated_mask_is_exact(dtype: jax.typing.DTypeLike, clip_value: float) -> None:
    limit = np.dtype(dtype).type(clip_value)  # the boundary in the dtype of the input
    x = np.array([np.nextafter(limit, limit * 0), limit, np.nextafter(limit, limit * 2)])
    x = np.concatenate([x, -x])
    gx = jax.grad(lambda z: ste.ste_sign(z, clip_value).sum())(jnp.asarray(x))
    np.testing.assert_array_equal(wide(gx), [1, 1, 0, 1, 1, 0])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@all_cases
def test_forward_mode_gives_the_same_numbers(case: Case, dtype: jax.typing.DTypeLike) -> None:
    x = jnp.asarray(edges(dtype))
    g = jnp.linspace(0.5, 2, x.size, dtype=dtype)

    def other(z: jax.Array) -> jax.Array:
        return case.function(z, autodiff="jvp")

    y, pullback = jax.vjp(case.function, x)
    tangent_y, tangent = jax.jvp(other, (x,), (g,))
    np.testing.assert_array_equal(wide(tangent_y), wide(y))
    np.testing.assert_array_equal(wide(tangent), wide(pullback(g)[0]))
    np.testing.assert_array_equal(wide(jax.vjp(other, x)[1](g)[0]), wide(tangent))


@kinds
def test_jacobian_and_hessian_need_the_jvp_form(case: Case) -> None:
    x = jnp.array([-1.25, -0.75, 0.25, 0.5])

    def other(z: jax.Array) -> jax.Array:
        return case.function(z, autodiff="jvp")

    expected = np.diag(case.derivative(wide(x)))
    np.testing.assert_allclose(jax.jit(jax.jacfwd(other))(x), expected, rtol=2e-6, atol=1e-7)
    twice = jax.jit(jax.vmap(jax.grad(jax.grad(case.function))))(x)
    hessian = jax.jit(jax.hessian(lambda z: other(z).sum()))(x)
    np.testing.assert_allclose(hessian, np.diag(twice), rtol=1e-5, atol=1e-5)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(case.function, (x,), (x,))


@pytest.mark.parametrize("autodiff", ["vjp", "jvp"])
@kinds
def test_second_derivative_is_that_of_the_declared_first(
    case: Case, autodiff: ste.Autodiff, x64: None
) -> None:
    x = np.array([-2.0, -1.2, -0.7, -0.1, 0.3, 0.9, 1.1, 3.0])  # away from the kinks
    h = 1e-6
    expected = (case.derivative(x + h) - case.derivative(x - h)) / (2 * h)
    once = jax.grad(lambda z: case.function(z, autodiff=autodiff))
    twice = jax.jit(jax.vmap(jax.grad(once)))
    np.testing.assert_allclose(twice(x), expected, rtol=1e-6, atol=1e-6)


def test_second_derivative_of_approx_sign() -> None:
    twice = jax.vmap(jax.grad(jax.grad(ste.approx_sign)))
    np.testing.assert_array_equal(twice(jnp.array([-1.5, -0.5, 0.5, 1.5])), [0, 2, -2, 0])


@kinds
def test_vmap_and_jit_of_gradients(case: Case) -> None:
    x = jnp.linspace(-1.5, 1.5, 12).reshape(3, 4)
    whole = jax.grad(lambda z: case.function(z).sum())
    batched = jax.vmap(jax.vmap(jax.grad(case.function)))
    np.testing.assert_array_equal(jax.vmap(case.function)(x), case.function(x))
    np.testing.assert_allclose(jax.jit(batched)(x), whole(x), rtol=1e-5)


@pytest.mark.parametrize(
    "shape",
    [(), (0,), (1,), (2, 0, 3)],
    ids=str,
)
@kinds
def test_scalars_and_empty_arrays(case: Case, shape: tuple[int, ...]) -> None:
    x = jnp.full(shape, 0.5)
    assert case.function(x).shape == shape
    gradient = jax.grad(lambda z: case.function(z).sum())
    assert jax.eval_shape(gradient, x).shape == shape


@all_dtypes
@kinds
def test_no_implicit_promotion(
    case: Case, dtype: jax.typing.DTypeLike, strict_promotion: None
) -> None:
    x = jax.ShapeDtypeStruct((2,), dtype)
    tangent = lambda z: jax.jvp(lambda z: case.function(z, autodiff="jvp"), (z,), (z,))[1]  # noqa: E731
    for function in (case.function, jax.grad(lambda z: case.function(z).sum()), tangent):
        assert jax.eval_shape(function, x).dtype == dtype


def residuals(function: Callable[..., jax.Array], x: jax.Array) -> list[jax.Array]:
    return jax.tree.leaves(jax.vjp(function, x)[1])


def test_saturated_gradient_keeps_one_boolean_per_element() -> None:
    x = jnp.linspace(-2, 2, 35).reshape(5, 7)
    draw = lambda z: ste.stochastic_sign(jax.random.key(0), z)  # noqa: E731
    for function in (ste.ste_sign, ste.hard_tanh, draw):
        (kept,) = residuals(function, x)
        assert kept.dtype == bool and kept.shape == x.shape
    assert residuals(lambda z: ste.ste_sign(z, None), x) == []
    # approx_sign's derivative depends on x, which is therefore kept.
    assert any(kept.dtype == x.dtype for kept in residuals(ste.approx_sign, x))


annealed = ste.straight_through(
    lambda x, t: ste.sign(x), lambda x, t: t * (1 - jnp.square(jnp.tanh(t * x)))
)


@pytest.mark.parametrize("autodiff", ["vjp", "jvp"])
def test_parameters_of_a_surrogate_may_be_traced(autodiff: ste.Autodiff) -> None:
    traces = 0

    @jax.jit
    def gradients(x: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        nonlocal traces
        traces += 1
        loss = lambda x, t: annealed(x, t, autodiff=autodiff).sum()  # noqa: E731
        return jax.grad(loss, (0, 1))(x, t)

    x = jnp.array([-0.5, 0.0, 2.0])
    for t in (0.5, 1.0, 10.0):
        gx, gt = gradients(x, jnp.float32(t))
        np.testing.assert_allclose(gx, t * (1 - np.tanh(t * np.asarray(x)) ** 2), atol=2e-5)
        assert gt == 0
    assert traces == 1
    np.testing.assert_allclose(
        jax.grad(lambda z: annealed(z, 0.5, autodiff=autodiff).sum())(x), gradients(x, 0.5)[0]
    )


@pytest.mark.parametrize("autodiff", ["vjp", "jvp"])
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_float32_parameters_of_a_surrogate_on_narrow_inputs(
    dtype: jax.typing.DTypeLike, autodiff: ste.Autodiff
) -> None:
    # A schedule yields float32 arrays; the activations may be bfloat16.
    x = jnp.asarray([-0.5, 2.0], dtype)
    gx = jax.grad(lambda z: annealed(z, jnp.float32(2), autodiff=autodiff).sum())(x)
    assert gx.dtype == dtype
    np.testing.assert_allclose(wide(gx), 2 * (1 - np.tanh(2 * wide(x)) ** 2), atol=0.05)


def test_parameters_of_a_surrogate_may_be_arrays() -> None:
    thresholds = jnp.array([0.5, 1.0, 2.0])
    gated = ste.straight_through(
        lambda x, t: ste.sign(x), lambda x, t: (jnp.abs(x) <= t).astype(x.dtype)
    )
    gx = jax.grad(lambda z: gated(z, thresholds).sum())(jnp.full(3, 0.75))
    np.testing.assert_array_equal(gx, [0, 1, 1])


@pytest.mark.parametrize(
    "function",
    [
        ste.sign,
        ste.hard_sigmoid,
        lambda x: ste.stochastic_sign(jax.random.key(0), x),
        *(case.function for case in CASES.values()),
    ],
)
@pytest.mark.parametrize("dtype", [jnp.int32, jnp.uint8, bool])
def test_integers_are_refused(
    function: Callable[..., jax.Array], dtype: jax.typing.DTypeLike
) -> None:
    with pytest.raises(TypeError, match=f"floating dtype, got {np.dtype(dtype).name}"):
        function(jnp.ones(3, dtype))


def test_unknown_mode_is_refused() -> None:
    for function in (ste.ste_sign, ste.noop, ste.absmax, ste.absmax_int8, ste.absmean_ternary):
        with pytest.raises(ValueError, match="'reverse'"):
            function(jnp.ones(3), autodiff="reverse")


# Stochastic sign


@all_dtypes
def test_stochastic_sign_is_sign_outside(dtype: jax.typing.DTypeLike) -> None:
    x = edges(dtype)
    outside = x[~(np.abs(wide(x)) < 1)]  # NaN included
    many = jnp.asarray(np.repeat(outside[:, None], 4096, 1))
    y = ste.stochastic_sign(jax.random.key(1), many)
    assert y.dtype == dtype
    np.testing.assert_array_equal(wide(y), wide(ste.sign(many)))


@all_dtypes
def test_stochastic_sign_gradient(dtype: jax.typing.DTypeLike) -> None:
    x = edges(dtype)
    key = jax.random.key(2)
    y, pullback = jax.vjp(lambda z: ste.stochastic_sign(key, z), x)
    finite = ~np.isnan(wide(x))
    assert set(wide(y)[finite]) == {-1.0, 1.0}
    (gx,) = pullback(jnp.full(x.shape, 3, dtype))
    np.testing.assert_array_equal(wide(gx), 3 * reference.saturated_derivative(wide(x)))
    other = lambda z: ste.stochastic_sign(key, z, autodiff="jvp")  # noqa: E731
    np.testing.assert_array_equal(
        wide(jax.jvp(other, (x,), (jnp.full(x.shape, 3, dtype),))[1]), wide(gx)
    )


@pytest.mark.parametrize("p", [0.0, 0.01, 0.25, 0.5, 0.9, 1.0])
def test_stochastic_sign_frequency(p: float) -> None:
    n = 1 << 16
    x = jnp.full(n, 2 * p - 1)
    expected = float(reference.hard_sigmoid(wide(x[0])))
    frequency = float(jnp.mean(ste.stochastic_sign(jax.random.key(3), x) > 0))
    assert abs(frequency - expected) <= 5 * np.sqrt(expected * (1 - expected) / n) + 1e-9


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_narrow_inputs_do_not_quantize_the_probability(dtype: jax.typing.DTypeLike) -> None:
    # x = 1/256 is exact in bfloat16 and stands for p = 1/2 + 1/512. Noise drawn in bfloat16 has
    # steps of 1/64 and would give 65/128, twelve sigma off.
    n = 1 << 20
    y = ste.stochastic_sign(jax.random.key(4), jnp.full(n, 1 / 256, dtype))
    frequency = float(jnp.mean((y > 0).astype(jnp.float32)))
    assert abs(frequency - (0.5 + 1 / 512)) < 5 * 0.5 / np.sqrt(n)


def test_stochastic_sign_repeats_with_its_key() -> None:
    x = jnp.zeros((64, 8))
    first, second = jax.random.split(jax.random.key(5))
    drawn = ste.stochastic_sign(first, x)
    np.testing.assert_array_equal(ste.stochastic_sign(first, x), drawn)
    np.testing.assert_array_equal(jax.jit(ste.stochastic_sign)(first, x), drawn)
    assert (ste.stochastic_sign(second, x) != drawn).any()
    keys = jax.random.split(first, 3)
    batched = jax.vmap(ste.stochastic_sign)(keys, jnp.zeros((3, 50)))
    for key, row in zip(keys, batched, strict=True):
        np.testing.assert_array_equal(ste.stochastic_sign(key, jnp.zeros(50)), row)


@all_dtypes
def test_stochastic_sign_without_promotion(
    dtype: jax.typing.DTypeLike, strict_promotion: None
) -> None:
    x = jax.ShapeDtypeStruct((2,), dtype)
    draw = partial(ste.stochastic_sign, jax.random.key(0))
    for function in (draw, jax.grad(lambda z: draw(z).sum())):
        assert jax.eval_shape(function, x).dtype == dtype


# Names


def test_registry() -> None:
    assert {"ste_sign", "approx_sign", "swish_sign", "stochastic_sign", "noop"} <= set(
        ste.QUANTIZERS
    )
    x = jnp.array([-0.5, 0.0, 0.5])
    for name, quantizer in ste.QUANTIZERS.items():
        if isinstance(quantizer, ste.Stochastic):
            assert quantizer.training(jax.random.key(0), x).shape == x.shape
            np.testing.assert_array_equal(quantizer.evaluation(x), ste.sign(x))
        else:
            assert quantizer(x).shape == x.shape, name
    with pytest.raises(TypeError):
        ste.QUANTIZERS["mine"] = ste.sign  # type: ignore[index]


def test_noop_is_transparent() -> None:
    x = jnp.array([-3.0, 0.0, jnp.inf])
    np.testing.assert_array_equal(ste.noop(x), x)
    np.testing.assert_array_equal(jax.grad(lambda z: ste.noop(z).sum())(x), np.ones(3))
