"""Optimizers: what every one of them must do, and each rule against its reference."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from flax import nnx

from binjax import optim
from binjax.layers import BatchNorm, BinaryDense, BinaryWeight

Factory = Callable[..., optax.GradientTransformation]


def chained(learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    return optax.chain(
        optim.shift_adamax(learning_rate), optim.scale_by_glorot(), optim.clip_latent()
    )


def adam_clipped(learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    return optax.chain(
        optax.adam(learning_rate), optim.scale_by_glorot(power_of_two=True), optim.clip_latent()
    )


def torch(learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    return optim.shift_adamax(learning_rate, 0.9, 0.999, variant="torch")


def rule_then_rate(learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    return optax.chain(optim.scale_by_shift_adamax(), optax.scale_by_learning_rate(learning_rate))


OPTIMIZERS: dict[str, Factory] = {
    "shift_adamax": optim.shift_adamax,
    "shift_adamax torch": torch,
    "scale_by_shift_adamax": rule_then_rate,
    "shift_adamax, glorot, clip": chained,
    "adam, glorot, clip": adam_clipped,
}
every = pytest.mark.parametrize("factory", OPTIMIZERS.values(), ids=OPTIMIZERS)

PARAMS = {
    "dense": {"kernel": jnp.linspace(-0.9, 0.9, 12).reshape(4, 3)},
    "conv": {"kernel": jnp.linspace(-0.5, 0.5, 8).reshape(1, 2, 2, 2)},
}
GRADIENTS = jax.tree.map(lambda p: jnp.cos(9 * p), PARAMS)


def close(a: Any, b: Any, rtol: float = 0) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for ours, theirs in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=rtol * 1e-2)


def after(
    tx: optax.GradientTransformation, params: Any, gradients: Any, steps: int = 3, **extra: Any
) -> Any:
    """Parameters after some jitted steps with the same gradients."""
    tx = optax.with_extra_args_support(tx)
    state = tx.init(params)
    update = jax.jit(tx.update)
    for _ in range(steps):
        updates, state = update(gradients, state, params, **extra)
        params = optax.apply_updates(params, updates)
    return params


# What every optimizer must do


@every
def test_extra_arguments_are_accepted(factory: Factory) -> None:
    plain = after(factory(2**-6), PARAMS, GRADIENTS)
    close(after(factory(2**-6), PARAMS, GRADIENTS, value=jnp.float32(1)), plain, rtol=1e-6)


@every
@pytest.mark.parametrize("scheduled", [False, True])
def test_one_trace_and_donated_state(factory: Factory, scheduled: bool) -> None:
    tx = factory(optim.shift_decay(2**-6, 2) if scheduled else 2**-6)
    traces = 0

    def step(params: Any, state: Any) -> tuple[Any, Any]:
        nonlocal traces
        traces += 1
        updates, state = tx.update(GRADIENTS, state, params)
        return optax.apply_updates(params, updates), state

    step = jax.jit(step, donate_argnums=(0, 1))
    params = jax.tree.map(jnp.copy, PARAMS)
    state = tx.init(params)
    for _ in range(4):
        params, state = step(params, state)
    assert traces == 1


@every
def test_state_survives_tree_mapping_and_flattening(factory: Factory) -> None:
    tx = factory(2**-6)
    state = tx.init(PARAMS)
    update = jax.jit(tx.update)
    _, state = update(GRADIENTS, state, PARAMS)
    leaves, structure = jax.tree.flatten(state)
    expected, _ = update(GRADIENTS, state, PARAMS)
    for same in (jax.tree.map(lambda x: x, state), jax.tree.unflatten(structure, leaves)):
        close(update(GRADIENTS, same, PARAMS)[0], expected)
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)


@every
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_dtypes_are_kept(factory: Factory, dtype: jax.typing.DTypeLike) -> None:
    tx = factory(2**-6)
    params, gradients = jax.tree.map(lambda p: p.astype(dtype), (PARAMS, GRADIENTS))
    state = jax.eval_shape(tx.init, params)
    updates, new_state = jax.eval_shape(tx.update, gradients, state, params)
    same = lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype)  # noqa: E731
    assert jax.tree.all(jax.tree.map(same, updates, params))
    assert jax.tree.all(jax.tree.map(same, new_state, state))


@every
def test_converges_on_a_quadratic(factory: Factory) -> None:
    target = jnp.array([[0.3, -0.7], [0.9, -0.1]])
    tx = factory(optim.shift_decay(2**-5, 100))

    def step(carry: Any, _: None) -> tuple[Any, None]:
        params, state = carry
        updates, state = tx.update(params - target, state, params)
        return (optax.apply_updates(params, updates), state), None

    start = jnp.zeros((2, 2))
    (params, _), _ = jax.lax.scan(step, (start, tx.init(start)), length=800)
    np.testing.assert_allclose(params, target, atol=5e-3)


@every
def test_learns_a_logistic_regression(factory: Factory) -> None:
    x = jax.random.normal(jax.random.key(0), (64, 5))
    labels = x @ jnp.array([0.9, -0.8, 0.5, -0.3, 0.1]) > 0
    tx = factory(2**-6)

    def loss(w: jax.Array) -> jax.Array:
        return jnp.mean(optax.losses.sigmoid_binary_cross_entropy(4 * (x @ w)[:, 0], labels))

    def step(carry: Any, _: None) -> tuple[Any, jax.Array]:
        w, state = carry
        value, gradient = jax.value_and_grad(loss)(w)
        updates, state = tx.update(gradient, state, w)
        return (optax.apply_updates(w, updates), state), value

    start = jnp.zeros((5, 1))
    (w, _), values = jax.lax.scan(step, (start, tx.init(start)), length=300)
    assert values[-1] < 0.35 * values[0]
    assert jnp.mean(((x @ w)[:, 0] > 0) == labels) > 0.95


@every
def test_inside_a_chain(factory: Factory) -> None:
    expected = after(factory(2**-6), PARAMS, jax.tree.map(lambda g: -2 * g, GRADIENTS))
    found = after(optax.chain(optax.scale(-2.0), factory(2**-6)), PARAMS, GRADIENTS)
    close(found, expected, rtol=1e-6)


@every
def test_inside_multi_transform_and_masked(factory: Factory) -> None:
    whole = after(factory(2**-6), PARAMS, GRADIENTS)
    labels = {"dense": "ours", "conv": "frozen"}
    parts = {"ours": factory(2**-6), "frozen": optax.set_to_zero()}
    mixed = after(optax.multi_transform(parts, labels), PARAMS, GRADIENTS)
    close(mixed, {"dense": whole["dense"], "conv": PARAMS["conv"]}, rtol=1e-6)
    # masked hands the other gradients through as updates.
    mask = {"dense": True, "conv": False}
    masked = after(optax.masked(factory(2**-6), mask), PARAMS, GRADIENTS, steps=1)
    once = after(factory(2**-6), PARAMS, GRADIENTS, steps=1)
    expected = {"dense": once["dense"], "conv": optax.tree.add(PARAMS, GRADIENTS)["conv"]}
    close(masked, expected, rtol=1e-6)


@every
def test_with_injected_hyperparameters(factory: Factory) -> None:
    def of_rate(learning_rate: Any) -> optax.GradientTransformation:
        return factory(learning_rate)

    tx = optax.inject_hyperparams(of_rate)(learning_rate=2**-6)
    update, state = jax.jit(tx.update), tx.init(PARAMS)
    for rate in (2**-6, 2**-8):  # a new rate written into the state takes effect
        state.hyperparams["learning_rate"] = jnp.float32(rate)
        found = optax.apply_updates(PARAMS, update(GRADIENTS, state, PARAMS)[0])
        close(found, after(factory(rate), PARAMS, GRADIENTS, steps=1), rtol=1e-6)


@pytest.mark.parametrize("variant", ["paper", "torch"])
def test_all_hyperparameters_may_be_injected(variant: optim.Variant) -> None:
    injected = optax.inject_hyperparams(optim.shift_adamax)
    tx = injected(2**-6, b1=0.875, b2=0.999, eps=2**-27, variant=variant)
    plain = optim.shift_adamax(2**-6, b1=0.875, b2=0.999, variant=variant)
    close(after(tx, PARAMS, GRADIENTS), after(plain, PARAMS, GRADIENTS), rtol=1e-6)


# Shift-based AdaMax


def gradient_stream(steps: int, n: int = 64) -> np.ndarray:
    """Float32 gradients over many magnitudes, with zeros among them."""
    rng = np.random.default_rng(0)
    g = rng.normal(size=(steps, n)) * 10.0 ** rng.uniform(-8, 2, (1, n))
    g[rng.uniform(size=g.shape) < 0.1] = 0
    g[:, 0] = 0
    return g.astype(np.float32)


def test_paper_variant_without_rounding_is_adamax(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("binjax.optim.adamax.ap2", lambda x: x)
    ours = optim.shift_adamax(0.002, b1=0.9, b2=0.999, eps=1e-8)
    theirs = optax.adamax(0.002, b1=0.9, b2=0.999, eps=1e-8)
    params = jnp.zeros(64)
    a, b = ours.init(params), theirs.init(params)
    ours_update, theirs_update = jax.jit(ours.update), jax.jit(theirs.update)
    for g in gradient_stream(50):
        x, a = ours_update(g, a)
        y, b = theirs_update(g, b)
        np.testing.assert_allclose(x, y, rtol=2e-6, atol=1e-9)


@pytest.mark.parametrize(("b1", "b2"), [(0.875, 1 - 2**-10), (0.9, 0.999)])
def test_paper_variant_against_numpy(b1: float, b2: float) -> None:
    tx = optim.shift_adamax(2**-10, b1, b2)
    # Magnitudes at which eps = 2^-27 is lost in rounding: the paper has none.
    stream = [np.where(np.abs(g) < 0.5, 0.5, g).astype(np.float32) for g in gradient_stream(60)]
    state, old = tx.init(jnp.zeros(64)), reference.no_moments(stream[0])
    update = jax.jit(tx.update)
    for t, g in enumerate(stream, 1):
        updates, state = update(g, state)
        expected, old = reference.shift_adamax_paper(g, old, t, 2**-10, b1, b2)
        np.testing.assert_allclose(updates, expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(
    ("rate", "b1", "b2", "jitted"),
    [
        (2**-6, 0.9, 0.999, False),
        (2**-6, 0.9, 0.999, True),
        (0.002, 0.9, 0.999, True),
        (2**-7, 0.875, 0.99, True),
    ],
)
def test_torch_variant_bit_for_bit(rate: float, b1: float, b2: float, jitted: bool) -> None:
    tx = optim.shift_adamax(rate, b1, b2, variant="torch")

    def step(x: jax.Array, state: Any, g: jax.Array) -> tuple[jax.Array, Any]:
        updates, state = tx.update(g, state, x)
        return optax.apply_updates(x, updates), state

    step = jax.jit(step) if jitted else step
    stream = gradient_stream(200)
    x = np.linspace(-1, 1, 64, dtype=np.float32)
    ours, state, old = jnp.asarray(x), tx.init(jnp.asarray(x)), reference.no_moments(x)
    for t, g in enumerate(stream, 1):
        ours, state = step(ours, state, g)
        update, old = reference.shift_adamax_torch(g, old, t, rate, b1, b2)
        x = x + update
        np.testing.assert_array_equal(state[0].mu, old.m, err_msg=f"m at step {t}")
        np.testing.assert_array_equal(state[0].nu, old.v, err_msg=f"v at step {t}")
        np.testing.assert_array_equal(ours, x, err_msg=f"x at step {t}")


@pytest.mark.parametrize("b1", [0.5, 0.875, 0.9, 0.95, 0.99, 0.999])
def test_torch_step_sizes(b1: float) -> None:
    # The rounded rate/(1 - b1^t) over the whole warm-up, against doubles as in Lua.
    rates = np.array([2**-6, 2**-7, 0.002, 0.001, 0.01])
    rule = optim.scale_by_shift_adamax(b1, 0.999, variant="torch")

    def scaled(rate: jax.Array) -> tuple[jax.Array, jax.Array]:
        whole = optim.shift_adamax(lambda count: rate, b1, 0.999, variant="torch")

        def step(states: Any, _: None) -> tuple[Any, tuple[jax.Array, jax.Array]]:
            direction, inner = rule.update(jnp.ones([]), states[0])
            update, outer = whole.update(jnp.ones([]), states[1])
            return (inner, outer), (update, direction)

        zero = jnp.zeros([])
        return jax.lax.scan(step, (rule.init(zero), whole.init(zero)), length=2000)[1]

    update, direction = jax.vmap(scaled)(jnp.asarray(rates, jnp.float32))
    ours = -np.asarray(update) / np.asarray(direction)  # exact: a power of two
    steps = np.arange(1, 2001)
    expected = reference.ap2(rates[:, None] / (1 - b1**steps))
    np.testing.assert_array_equal(ours, expected)


def test_torch_norm_never_decays_and_the_papers_does() -> None:
    stream = jnp.concatenate([jnp.ones(1), jnp.full(2000, 1e-3)])
    last = {}
    for variant in ("torch", "paper"):
        tx = optim.scale_by_shift_adamax(0.9, 0.999, variant=variant)
        state, _ = jax.lax.scan(
            lambda s, g, tx=tx: (tx.update(g, s)[1], None), tx.init(jnp.zeros([])), stream
        )
        last[variant] = float(state.nu)
    assert last["torch"] == 1.0
    assert last["paper"] == pytest.approx(0.999**2000, rel=1e-3)


def test_zero_gradients_do_not_move_or_break() -> None:
    zeros = optax.tree.zeros_like(PARAMS)
    for variant in ("paper", "torch"):
        close(after(optim.shift_adamax(1.0, variant=variant), PARAMS, zeros), PARAMS)


def test_first_step_is_the_learning_rate() -> None:
    # m/(1 - b1) = g and v = g: the update is ±rate up to the roundings to powers of two.
    tx = optim.shift_adamax(2**-10)
    updates, _ = tx.update(jnp.array([1.0, -4.0, 0.25]), tx.init(jnp.zeros(3)))
    np.testing.assert_array_equal(updates, [-(2**-10), 2**-10, -(2**-10)])


def test_unknown_variant_is_refused() -> None:
    for factory in (optim.shift_adamax, optim.scale_by_shift_adamax):
        with pytest.raises(ValueError, match="'lua'"):
            factory(0.5, variant="lua")  # type: ignore[arg-type]


# Glorot scale


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((784, 4096), 57.038), ((4096, 4096), 73.901), ((4096, 10), 52.320)],
)
def test_glorot_of_the_mnist_network(shape: tuple[int, ...], expected: float) -> None:
    assert optim.glorot_scale(shape) == pytest.approx(expected, abs=5e-4)
    assert reference.glorot_scale(shape) == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize("shape", [(3, 5), (3, 3, 16, 32), (1, 1, 2, 2), (2, 7, 1)], ids=str)
@pytest.mark.parametrize("power_of_two", [False, True])
def test_glorot_scales_updates(shape: tuple[int, ...], power_of_two: bool) -> None:
    tx = optim.scale_by_glorot(power_of_two=power_of_two)
    update = np.linspace(-1, 1, math.prod(shape), dtype=np.float32).reshape(shape)
    scaled, _ = tx.update({"kernel": jnp.asarray(update)}, tx.init({"kernel": update}))
    expected = update * np.float32(reference.glorot_scale(shape, power_of_two))
    np.testing.assert_allclose(scaled["kernel"], expected, rtol=1e-6 * (not power_of_two))


@pytest.mark.parametrize("k", range(8))
def test_glorot_rounds_ties_up(k: int) -> None:
    # fan_in + fan_out = 3·4^k makes the scale sqrt(2)·2^k exactly: half away from zero.
    shape = (1, 3 * 4**k - 1)
    assert reference.glorot_scale(shape, power_of_two=True) == 2 ** (k + 1)
    tx = optim.scale_by_glorot(power_of_two=True)
    scaled, _ = tx.update(jnp.ones(shape), tx.init(jnp.ones(shape)))
    np.testing.assert_array_equal(scaled, np.full(shape, 2 ** (k + 1)))


def test_glorot_mask_and_refusal() -> None:
    params = {"kernel": jnp.ones((2, 4)), "bias": jnp.ones(4)}
    with pytest.raises(ValueError, match=r"bias.*\(4,\).*mask"):
        tx = optim.scale_by_glorot()
        tx.update(params, tx.init(params))
    tx = optim.scale_by_glorot({"kernel": True, "bias": False})
    scaled, _ = tx.update(params, tx.init(params))
    np.testing.assert_allclose(scaled["kernel"], 2, rtol=1e-6)
    np.testing.assert_array_equal(scaled["bias"], params["bias"])


# Clipping

LIMITS = [1.0, math.sqrt(1.5 / (784 + 4096)), 0.3, 1.7]


def clip_cases(limit: float, dtype: jax.typing.DTypeLike) -> tuple[jax.Array, jax.Array]:
    """Parameters in the range, updates from far below an ulp to far above the range."""
    rng = np.random.default_rng(0)
    n = 40_000
    bound = np.float64(np.asarray(limit).astype(np.dtype(dtype)))
    params = bound * np.concatenate(
        [rng.uniform(-1, 1, n), 1 - 2.0 ** rng.uniform(-30, 0, n), 2.0 ** rng.uniform(-30, 0, n)]
    )
    updates = rng.choice([-1.0, 1.0], 3 * n) * 2.0 ** rng.uniform(-30, 3, 3 * n)
    updates[::50] = 0
    edge = np.array([-bound, -0.0, 0.0, bound])
    edge_params, edge_updates = np.meshgrid(edge, np.append(edge, [2 * bound, -2 * bound]))
    params = np.concatenate([params, edge_params.ravel()])
    updates = np.concatenate([updates, edge_updates.ravel()])
    return jnp.asarray(params, dtype), jnp.asarray(updates, dtype)


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
@pytest.mark.parametrize(
    ("rate", "jitted"), [(None, False), (0.37, True)], ids=["eager", "jit, learning rate"]
)
def test_clipped_weights_stay_in_range(
    dtype: jax.typing.DTypeLike, limit: float, jitted: bool, rate: float | None
) -> None:
    # Compiled behind a learning rate, param + rate·g may be contracted into one rounding where
    # the range is checked and not where the update is applied.
    params, updates = clip_cases(limit, dtype)
    rule = optax.identity() if rate is None else optax.scale(-rate)
    tx = optax.chain(rule, optim.clip_latent(limit))

    def step(params: jax.Array, updates: jax.Array) -> jax.Array:
        clipped, _ = tx.update(updates, tx.init(params), params)
        return optax.apply_updates(params, clipped)

    step = jax.jit(step) if jitted else step
    new = step(params, updates)
    assert new.dtype == dtype
    bound = np.asarray(limit).astype(np.dtype(dtype))
    below = np.nextafter(bound, bound * 0)
    target = np.asarray(params + (updates if rate is None else updates * -jnp.asarray(rate, dtype)))
    # Not all differences are representable: a cut step may land one ulp short of the limit,
    # never beyond; where nothing is cut the update is untouched.
    magnitude = np.abs(np.asarray(new))
    assert (magnitude <= bound).all()
    outside = np.abs(target) > bound * (1 + 4 * float(jnp.finfo(dtype).eps))
    assert (magnitude[outside] >= below).all()
    assert (np.signbit(new) == np.signbit(target))[outside].all()
    inside = np.abs(target) < below
    if not jitted:
        np.testing.assert_array_equal(np.asarray(new)[inside], target[inside])
    # A weight that is pushed on arrives: telemetry can count saturated weights exactly.
    again = np.abs(np.asarray(step(new, updates)))
    np.testing.assert_array_equal(again[outside].astype(np.float64), np.float64(bound))


@pytest.mark.parametrize("limit", LIMITS)
def test_clipping_brings_stray_weights_back(limit: float) -> None:
    stray = limit * jnp.linspace(-9, 9, 1001)
    tx = optim.clip_latent(limit)
    params = np.asarray(after(tx, stray, jnp.zeros_like(stray), steps=2))
    bound = np.float32(limit)
    assert np.abs(params).max() <= bound
    np.testing.assert_allclose(params, np.clip(stray, -bound, bound), rtol=2e-6)


def test_clipping_needs_parameters_and_keeps_nan() -> None:
    tx = optim.clip_latent()
    with pytest.raises(ValueError, match="needs the parameters"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)))
    updates, _ = tx.update(jnp.array([jnp.nan, jnp.inf]), tx.init(jnp.ones(2)), jnp.zeros(2))
    np.testing.assert_array_equal(updates, [np.nan, 1])


def test_clipping_mask() -> None:
    params = {"latent": jnp.ones(2), "free": jnp.ones(2)}
    tx = optim.clip_latent(mask={"latent": True, "free": False})
    updates, _ = tx.update(params, tx.init(params), params)
    close(optax.apply_updates(params, updates), {"latent": jnp.ones(2), "free": 2 * jnp.ones(2)})


# Masks by variable type, and schedules


def test_variable_mask() -> None:
    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.binary = BinaryDense(3, 4, use_bias=True, rngs=rngs)
            self.norm = BatchNorm(4)
            self.real = BinaryDense(4, 2, kernel_quantizer=None, rngs=rngs)

    model = Net(nnx.Rngs(0))
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    mask = optim.variable_mask(model, BinaryWeight)
    assert jax.tree.structure(mask) == jax.tree.structure(params)
    assert mask == {
        "binary": {"kernel": True, "bias": False},
        "norm": {"scale": False, "bias": False},
        "real": {"kernel": False},
    }
    tx = optax.chain(optax.sgd(9.0), optim.scale_by_glorot(mask), optim.clip_latent(mask=mask))
    new = after(tx, params, jax.tree.map(jnp.ones_like, params), steps=1)
    np.testing.assert_allclose(new["binary"]["kernel"], -np.ones((3, 4)), rtol=1e-7)
    np.testing.assert_array_equal(new["norm"]["scale"], np.full(4, -8))


def test_shift_decay() -> None:
    schedule = optim.shift_decay(2**-6, 20)
    values = [float(schedule(t)) for t in (0, 19, 20, 39, 40, 200)]
    assert values == [2**-6, 2**-6, 2**-7, 2**-7, 2**-8, 2**-16]
    assert float(jax.jit(schedule)(jnp.int32(41))) == 2**-8
    assert float(optim.shift_decay(0.003, 1)(3)) == pytest.approx(0.003 / 8)
    with pytest.raises(ValueError, match="every is 0"):
        optim.shift_decay(1.0, 0)


def test_exponential_epoch_decay() -> None:
    schedule = optim.exponential_epoch_decay(0.003, 3e-7, epochs=1000, steps_per_epoch=500)
    factor = (3e-7 / 0.003) ** (1 / 1000)
    assert float(schedule(499)) == pytest.approx(0.003)
    assert float(schedule(500)) == pytest.approx(0.003 * factor)
    assert float(schedule(500 * 1000)) == pytest.approx(3e-7, rel=1e-4)
