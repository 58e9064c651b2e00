"""Signs with straight-through gradients, deterministic and stochastic."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from binjax.ste.core import Autodiff, declare, elementwise, floating, straight_through, where_inside


@declare(bits=1)
def sign(x: ArrayLike) -> jax.Array:
    """+1 where ``x >= 0`` (so also at -0.0), -1 below, NaN at NaN. Any shape, any float dtype.

    Read off the bits, so that a negative subnormal gives -1 on devices that take it for zero too.
    Its derivative is zero; use :func:`ste_sign` to train.
    """
    x = jax.lax.stop_gradient(floating("sign", x))
    bits = jnp.finfo(x.dtype).bits  # type: ignore[no-untyped-call]
    unsigned = jnp.dtype(f"uint{bits}")
    minus_zero = jnp.asarray(1 << (bits - 1), unsigned)
    ones = jnp.ones_like(x)
    value = jnp.where(jax.lax.bitcast_convert_type(x, unsigned) > minus_zero, -ones, ones)
    return jnp.where(jnp.isnan(x), x, value)


_saturated = elementwise(
    lambda x, clip: sign(x), residual=lambda x, clip: jnp.abs(x) <= clip, pullback=where_inside
)
_pass_through = elementwise(sign, residual=lambda x: (), pullback=lambda kept, g: g)
_clamp = elementwise(
    lambda x: jnp.clip(x, -1, 1), residual=lambda x: jnp.abs(x) <= 1, pullback=where_inside
)


def _approx_derivative(x: jax.Array) -> jax.Array:
    return jnp.where(jnp.abs(x) <= 1, 2 * (1 - jnp.abs(x)), jnp.zeros_like(x))


def _swish_derivative(x: jax.Array, beta: jax.Array) -> jax.Array:
    # Written with sech² so that it decays to 0 where 1 + cosh(beta x) would overflow.
    half = beta * x / 2
    decay = jnp.exp(-jnp.abs(half))
    sech = 2 * decay / (1 + decay * decay)
    # |half| is bounded before it meets sech: inf * 0 is NaN, and sech² is 0 well before 400.
    bounded = jnp.clip(half, -400, 400)
    return beta * (1 - bounded * jnp.tanh(bounded)) * sech * sech


_approx = straight_through(sign, _approx_derivative)
_swish = straight_through(lambda x, beta: sign(x), _swish_derivative)


@declare(bits=1)
def ste_sign(
    x: ArrayLike, clip_value: float | None = 1.0, *, autodiff: Autodiff = "vjp"
) -> jax.Array:
    """Sign with the saturated straight-through gradient ``g·1[|x| <= clip_value]``.

    The boundary is inclusive, as in the paper (eq. 4) and BinaryNet's Theano code;
    ``clip_value=None`` passes every gradient. What is kept for the backward pass is one boolean
    per element.
    """
    if clip_value is None:
        return _pass_through(x, autodiff=autodiff)
    return _saturated(x, clip_value, autodiff=autodiff)


@declare(bits=1)
def approx_sign(x: ArrayLike, *, autodiff: Autodiff = "vjp") -> jax.Array:
    """Sign with the gradient ``g·2(1 - |x|)`` for ``|x| <= 1``, else 0 (Bi-Real Net, 2018)."""
    return _approx(x, autodiff=autodiff)


@declare(bits=1)
def swish_sign(x: ArrayLike, beta: float = 5.0, *, autodiff: Autodiff = "vjp") -> jax.Array:
    """Sign with the gradient of SignSwish (BNN+, 2018).

    ``g·beta(2 - beta x·tanh(beta x/2)) / (1 + cosh(beta x))``; 0, not NaN, for huge ``|x|``.
    """
    return _swish(x, beta, autodiff=autodiff)


def hard_tanh(x: ArrayLike, *, autodiff: Autodiff = "vjp") -> jax.Array:
    """``clip(x, -1, 1)`` with derivative 1 for ``|x| <= 1``, boundary included, else 0."""
    return _clamp(x, autodiff=autodiff)


def hard_sigmoid(x: ArrayLike, *, autodiff: Autodiff = "vjp") -> jax.Array:
    """``clip((x + 1)/2, 0, 1)`` with derivative 1/2 for ``|x| <= 1``, else 0 (paper, eq. 3)."""
    return (hard_tanh(x, autodiff=autodiff) + 1) / 2


def _draw(x: jax.Array, noise: jax.Array) -> jax.Array:
    ones = jnp.ones_like(x)
    wide = x.astype(noise.dtype)
    return jnp.where(wide > noise, ones, jnp.where(wide <= noise, -ones, x))


_stochastic = elementwise(_draw, residual=lambda x, noise: jnp.abs(x) <= 1, pullback=where_inside)


def stochastic_sign(key: jax.Array, x: ArrayLike, *, autodiff: Autodiff = "vjp") -> jax.Array:
    """+1 with probability ``hard_sigmoid(x)``, else -1; saturated gradient (paper, eq. 2).

    Args:
        key: a JAX random key; the same key gives the same signs.
        x: any shape, floating. The comparison is made in float32 at least, since bfloat16
            noise would have steps of 1/128.

    Returns:
        ±1 of x's shape and dtype, NaN where x is NaN. At ``|x| >= 1`` it equals ``sign(x)``.
    """
    x = floating("stochastic_sign", x)
    bits = jnp.finfo(x.dtype).bits  # type: ignore[no-untyped-call]
    wide = x.dtype if bits >= 32 else jnp.float32
    noise = jax.random.uniform(key, x.shape, wide, minval=-1, maxval=1)
    return _stochastic(x, noise, autodiff=autodiff)


@declare(bits=32)
def noop(x: ArrayLike) -> jax.Array:
    """Return x itself: no quantization."""
    return jnp.asarray(x)
