"""Optax transforms for binarized networks: shift-based AdaMax, Glorot scale, latent clipping.

Each is an ordinary ``optax.GradientTransformation``; a full optimizer for latent weights is a
chain that ends in :func:`clip_latent`::

    optax.chain(shift_adamax(2**-10), scale_by_glorot(mask), clip_latent(mask=mask))
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.typing import ArrayLike

from binjax.shift import ap2

Variant = Literal["paper", "torch"]


class ShiftAdaMaxState(NamedTuple):
    """Step count and the two moments, of the parameters' shapes and dtypes."""

    count: jax.Array  # type: ignore[assignment]  # int32 [], optax's name
    mu: Any
    nu: Any


def scale_by_shift_adamax(
    b1: float = 0.875,
    b2: float = 1 - 2**-10,
    eps: float = 2**-27,
    variant: Variant = "paper",
) -> optax.GradientTransformation:
    r"""Rescale gradients by the shift-based AdaMax rule, whose divisions are bit shifts.

    With :math:`m \leftarrow \beta_1 m + (1-\beta_1) g` the result is

    * ``"paper"``: :math:`v \leftarrow \max(\beta_2 v, |g| + \epsilon)`,
      :math:`m \,/\, AP2(v) \,/\, AP2(1-\beta_1^t)`. With AP2 replaced by the identity this is
      ``optax.adamax``. (The paper prints the bias correction as a product; AdaMax and the
      authors' Torch code divide, and so do we.)
    * ``"torch"``: :math:`v \leftarrow AP2(\max(\beta_2 v, |g|)) + \epsilon`, *rounded in the
      state* as in the Torch code, so that no decay below a factor :math:`\sqrt2` a step ever
      takes effect; the result is :math:`m / v`, and the bias correction belongs to the step size
      (see :func:`shift_adamax`).

    Args:
        b1: decay of the first moment, in [0, 1).
        b2: decay of the infinity norm, in [0, 1).
        eps: added to the infinity norm, > 0; at least the dtype's smallest normal number.
        variant: ``"paper"`` or ``"torch"``.

    Returns:
        A gradient transformation with state :class:`ShiftAdaMaxState`.

    Raises:
        ValueError: unknown variant.

    References:
        Courbariaux, Hubara et al. 2016, algorithm 4; itayhubara/BinaryNet,
        ``adaMax_binary_clip_shift.lua``.
    """
    if variant not in ("paper", "torch"):
        raise ValueError(f'shift-AdaMax variant is "paper" or "torch", not {variant!r}')

    def init(params: optax.Params) -> ShiftAdaMaxState:
        # Two trees: one shared by both moments could not be donated.
        mu, nu = (jax.tree.map(jnp.zeros_like, params) for _ in range(2))
        return ShiftAdaMaxState(jnp.zeros([], jnp.int32), mu, nu)

    def first_moment(m: jax.Array, g: jax.Array) -> jax.Array:
        return _unfused(b1 * m) + _unfused((1 - b1) * g)

    def representable(value: ArrayLike, like: jax.Array) -> jax.Array:
        # 2^-27 is 0 in float16.
        tiny = jnp.finfo(like.dtype).tiny  # type: ignore[no-untyped-call]
        return jnp.maximum(jnp.asarray(value, like.dtype), jnp.asarray(tiny, like.dtype))

    def paper_norm(v: jax.Array, g: jax.Array) -> jax.Array:
        return jnp.maximum(b2 * v, jnp.abs(g) + representable(eps, g))

    def torch_norm(v: jax.Array, g: jax.Array) -> jax.Array:
        return ap2(jnp.maximum(b2 * v, jnp.abs(g))) + representable(eps, g)

    def update(
        updates: optax.Updates, state: ShiftAdaMaxState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, ShiftAdaMaxState]:
        del params
        count = optax.safe_increment(state.count)
        mu = jax.tree.map(first_moment, state.mu, updates)
        if variant == "torch":
            nu = jax.tree.map(torch_norm, state.nu, updates)
            direction = jax.tree.map(lambda m, v: m / v, mu, nu)
        else:
            nu = jax.tree.map(paper_norm, state.nu, updates)
            correction = ap2(_bias_correction(b1, count))
            direction = jax.tree.map(lambda m, v: m / ap2(v) / correction.astype(m.dtype), mu, nu)
        return direction, ShiftAdaMaxState(count, mu, nu)

    return optax.GradientTransformation(init, update)


def shift_adamax(
    learning_rate: optax.ScalarOrSchedule,
    b1: float = 0.875,
    b2: float = 1 - 2**-10,
    eps: float = 2**-27,
    variant: Variant = "paper",
) -> optax.GradientTransformation:
    """Shift-based AdaMax: a complete optimizer, its update carries the minus sign.

    Args:
        learning_rate: step size or schedule; a power of two keeps the rule free of
            multiplications (the paper: 2^-10). ``"torch"`` rounds
            ``learning_rate / (1 - b1^t)`` to a power of two; its mains use 2^-6 and 2^-7.
        b1, b2, eps, variant: see :func:`scale_by_shift_adamax`. Torch's own decays are
            0.9 and 0.999.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from binjax.optim import shift_adamax
        >>> tx = shift_adamax(2**-10)
        >>> params = jnp.ones(3)
        >>> updates, _ = tx.update(jnp.ones(3), tx.init(params), params)
        >>> float(updates[0]) == -(2**-10)
        True
    """
    rule = scale_by_shift_adamax(b1, b2, eps, variant)
    if variant == "torch":
        return optax.chain(rule, _scale_by_shifted_rate(learning_rate, b1))
    return optax.chain(rule, optax.scale_by_learning_rate(learning_rate))


def _scale_by_shifted_rate(
    learning_rate: optax.ScalarOrSchedule, b1: float
) -> optax.GradientTransformation:
    """Multiply by ``-AP2(learning_rate / (1 - b1^t))``, Torch's step size."""

    def rate(count: jax.Array) -> jax.Array:
        alpha = learning_rate(count) if callable(learning_rate) else learning_rate
        return -ap2(jnp.asarray(alpha / _bias_correction(b1, count + 1), jnp.float32))

    return optax.scale_by_schedule(rate)


def _bias_correction(b1: ArrayLike, count: jax.Array) -> jax.Array:
    # 1 - b1^t by way of the logarithm: b1 rounded to float32 before the power costs 1e-5 of it.
    log_b1 = math.log(b1) if isinstance(b1, float) and b1 > 0 else jnp.log(b1)
    return -jnp.expm1(count.astype(jnp.float32) * log_b1)


def _unfused(product: jax.Array) -> jax.Array:
    """Keep XLA's CPU back end from contracting ``a*b + c`` into one rounding.

    No reference rounds so. An optimization barrier or ``reduce_precision`` does not stop it
    (seen in jax 0.10.2); a select between product and sum does.
    """
    return jnp.where(product == product, product, jnp.nan)


def scale_by_glorot(
    mask: Any | None = None, *, power_of_two: bool = False
) -> optax.GradientTransformation:
    """Multiply each update by ``1/sqrt(1.5/(fan_in + fan_out))``, BinaryNet's "Glorot" scale.

    Args:
        mask: pytree of bools over the parameters (see :func:`variable_mask`); None scales all.
        power_of_two: round each factor with AP2, as the Torch code does for CIFAR and SVHN.

    Raises:
        ValueError: on a parameter with fewer than two axes (dense ``(in, out)``, conv ``HWIO``).
    """

    def scaled(path: Any, update: jax.Array) -> jax.Array:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return update * glorot_scale(update.shape, power_of_two=power_of_two, name=name)

    def update(
        updates: optax.Updates, state: optax.EmptyState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.EmptyState]:
        del params
        return jax.tree_util.tree_map_with_path(scaled, updates), state

    return _masked(optax.GradientTransformation(optax.init_empty_state, update), mask)


def glorot_scale(
    shape: tuple[int, ...], *, power_of_two: bool = False, name: str = "parameter"
) -> float:
    """``1/sqrt(1.5/(fan_in + fan_out))`` of a kernel shape ``(in, out)`` or ``(..., in, out)``.

    With ``power_of_two`` rounded in log space, half upwards.

    Raises:
        ValueError: fewer than two axes; the message calls the parameter ``name``.
    """
    if len(shape) < 2:
        raise ValueError(
            f"{name} of shape {shape} has no fan-in and fan-out; mask it out of the Glorot scale"
        )
    square = math.prod(shape[:-2]) * (shape[-2] + shape[-1]) / 1.5
    if power_of_two:
        return 2.0 ** math.floor((math.log2(square) + 1) / 2)
    return math.sqrt(square)


def clip_latent(limit: float = 1.0, mask: Any | None = None) -> optax.GradientTransformation:
    """Keep latent weights in ``[-limit, limit]``. Must be the last transform of the chain.

    Weights that start in the range never leave it; where a step is cut they land on ``±limit``
    or, since an update is added in floating point, one ulp inside of it.

    Args:
        limit: > 0; beyond 1, ``ste_sign`` passes no gradient to a weight.
        mask: pytree of bools over the parameters (see :func:`variable_mask`); None clips all.

    Raises:
        ValueError: ``update`` is called without the parameters.
    """

    def clipped(update: jax.Array, param: jax.Array) -> jax.Array:
        bound = jnp.asarray(limit, param.dtype)
        target = param + update
        step = jnp.clip(target, -bound, bound) - param
        # The rounded difference can overshoot by an ulp: one ulp of the step back inside.
        integer = jnp.dtype(f"int{8 * param.dtype.itemsize}")
        beyond = (jnp.abs(param + step) > bound).astype(integer)
        bits = jax.lax.bitcast_convert_type(step, integer) - beyond
        step = jax.lax.bitcast_convert_type(bits, param.dtype)
        return jnp.where(jnp.abs(target) <= bound, update, step)

    def update(
        updates: optax.Updates, state: optax.EmptyState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.EmptyState]:
        if params is None:
            raise ValueError("clip_latent needs the parameters: tx.update(updates, state, params)")
        return jax.tree.map(clipped, updates, params), state

    return _masked(optax.GradientTransformation(optax.init_empty_state, update), mask)


def _masked(transform: optax.GradientTransformation, mask: Any) -> optax.GradientTransformation:
    return transform if mask is None else optax.masked(transform, mask)


def variable_mask(model: nnx.Module, kind: type[nnx.Variable[Any]]) -> dict[str, Any]:
    """Which parameters of ``model`` are of a variable type: a plain dict of bools.

    It has the structure of ``nnx.to_pure_dict(nnx.state(model, nnx.Param))``, as the ``mask`` of
    :func:`clip_latent`, :func:`scale_by_glorot` and ``optax.masked`` want it.
    """
    params = nnx.state(model, nnx.Param)
    flags = jax.tree.map(
        lambda v: isinstance(v, kind), params, is_leaf=lambda v: isinstance(v, nnx.Variable)
    )
    return nnx.to_pure_dict(flags)


def shift_decay(init_value: float, every: int) -> optax.Schedule:
    """``init_value`` halved after every ``every`` steps: the "right shift" of the Torch code.

    Raises:
        ValueError: ``every`` < 1.
    """
    if every < 1:
        raise ValueError(f"shift_decay: every is {every}, must be at least 1 step")

    def schedule(count: ArrayLike) -> jax.Array:
        return jnp.ldexp(jnp.asarray(init_value, jnp.float32), -(jnp.asarray(count) // every))

    return schedule


def exponential_epoch_decay(
    init_value: float, end_value: float, epochs: int, steps_per_epoch: int
) -> optax.Schedule:
    """From ``init_value`` to ``end_value`` by a constant factor at each epoch's end (Theano)."""
    rate = (end_value / init_value) ** (1 / epochs)
    return optax.exponential_decay(init_value, steps_per_epoch, rate, staircase=True)
