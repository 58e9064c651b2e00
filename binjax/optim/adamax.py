"""Shift-based AdaMax."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
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
