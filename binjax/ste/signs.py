"""Signs with straight-through gradients, deterministic and stochastic."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from binjax.ste.arguments import integer, number
from binjax.ste.core import (
    Autodiff,
    check_autodiff,
    declare,
    elementwise,
    floating,
    limit_of,
    straight_through,
    where_inside,
)


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


def positive(x: jax.Array) -> jax.Array:
    """Where ``x > 0``, subnormal numbers included, which comparisons may take for 0."""
    return sign(-x) < 0


def _step(x: jax.Array, clip: jax.Array) -> jax.Array:
    return jnp.where(jnp.isnan(x), x, positive(x).astype(x.dtype))


def _fourier_derivative(x: jax.Array, terms: jax.Array, omega: jax.Array) -> jax.Array:
    inside = jnp.abs(x) <= 1
    # Outside, x may be infinite, and the cosine NaN.
    angle = omega * jnp.where(inside, x, 0)
    # cos((2i + 1) a) from the two before it: one cosine for all terms.
    term = jnp.cos(angle)
    twice = 4 * jnp.square(term) - 2  # twice the cosine of 2 a
    before, total = term, term
    for _ in range(terms.size - 1):
        before, term = term, twice * term - before
        total = total + term
    return jnp.where(inside, 4 * omega / math.pi * total, jnp.zeros_like(x))


_bounded = elementwise(
    lambda x, bound: sign(x),
    residual=lambda x, bound: (jnp.abs(x) <= bound, bound),
    pullback=lambda kept, g: where_inside(kept[0], g * (2 / kept[1]).astype(g.dtype)),
)
_heaviside = elementwise(_step, residual=lambda x, clip: jnp.abs(x) <= clip, pullback=where_inside)
_fourier = straight_through(lambda x, terms, omega: sign(x), _fourier_derivative)
_ede = straight_through(
    lambda x, t, k: sign(x), lambda x, t, k: k * t * (1 - jnp.square(jnp.tanh(t * x)))
)
_rbnn = straight_through(
    lambda x, t, k: sign(x),
    lambda x, t, k: k * jnp.maximum(0, math.sqrt(2) * t - jnp.square(t) * jnp.abs(x)),
)


_progressive = straight_through(
    lambda x, t: jnp.where(t > 0, jnp.clip(x / jnp.where(t > 0, t, 1), -1, 1), sign(x)),
    lambda x, t: jnp.ones_like(x),
)


@declare(bits=1)
def ste_sign(
    x: ArrayLike, clip_value: float | None = 1.0, *, autodiff: Autodiff = "vjp"
) -> jax.Array:
    """Sign with the saturated straight-through gradient ``g·1[|x| <= clip_value]``.

    The boundary is inclusive, as in the paper (eq. 4) and BinaryNet's Theano code;
    ``clip_value=None`` passes every gradient. What is kept for the backward pass is one boolean
    per element.

    Raises:
        ValueError: a negative clip_value.
    """
    limit = limit_of("ste_sign", clip_value)
    if clip_value is None:
        return _pass_through(x, autodiff=autodiff)
    return _saturated(x, limit, autodiff=autodiff)


@declare(bits=1)
def bounded_sign(x: ArrayLike, bound: float = 3.0, *, autodiff: Autodiff = "vjp") -> jax.Array:
    """Sign with the gradient ``g·(2/bound)·1[|x| <= bound]``.

    The one-bit quantizer with levels ``±bound/2`` and gradient 1, divided by ``bound/2``: PokeBNN's
    activations, in front of a norm (Zhang et al. 2022, §3.1, bound 3).

    Raises:
        ValueError: a bound that is not positive.
    """
    return _bounded(x, number("bounded_sign: bound", bound), autodiff=autodiff)


@declare(bits=1)
def approx_sign(x: ArrayLike, *, autodiff: Autodiff = "vjp") -> jax.Array:
    """Sign with the gradient ``g·2(1 - |x|)`` for ``|x| <= 1``, else 0 (Bi-Real Net, 2018)."""
    return _approx(x, autodiff=autodiff)


@declare(bits=1)
def swish_sign(x: ArrayLike, beta: float = 5.0, *, autodiff: Autodiff = "vjp") -> jax.Array:
    """Sign with the gradient of SignSwish (BNN+, 2018).

    ``g·beta(2 - beta x·tanh(beta x/2)) / (1 + cosh(beta x))``; 0, not NaN, for huge ``|x|``.

    Raises:
        ValueError: a beta that is not positive.
    """
    return _swish(x, number("swish_sign: beta", beta), autodiff=autodiff)


@declare(bits=1, signs=False)
def ste_heaviside(
    x: ArrayLike, clip_value: float | None = 1.0, *, autodiff: Autodiff = "vjp"
) -> jax.Array:
    """1 where ``x > 0``, else 0 (NaN at NaN), with the gradient ``g·1[|x| <= clip_value]``.

    Larq's ``ste_heaviside`` ("AND-Net"). ``clip_value=None`` passes every gradient.

    Raises:
        ValueError: a negative clip_value.
    """
    return _heaviside(x, limit_of("ste_heaviside", clip_value), autodiff=autodiff)


@declare(bits=1)
def fourier(
    x: ArrayLike, terms: int = 10, omega: float = math.pi / 2, *, autodiff: Autodiff = "vjp"
) -> jax.Array:
    """Sign with the derivative of its Fourier series, for ``|x| <= 1``.

    ``g·(4 omega/pi)·sum_i cos((2i + 1) omega x)`` over ``terms`` terms (Xu et al. 2021, FDA-BNN,
    eq. 8). With omega = pi/2, a default of ours, the derivative ends continuously at ``|x| = 1``.

    Raises:
        ValueError: fewer than one term, omega not positive.
    """
    count = integer("fourier: terms", terms)
    return _fourier(x, jnp.arange(count), number("fourier: omega", omega), autodiff=autodiff)


@declare(bits=1)
def ede(x: ArrayLike, t: ArrayLike, k: ArrayLike, *, autodiff: Autodiff = "vjp") -> jax.Array:
    """Sign with the gradient ``g·k·t·(1 - tanh^2(t x))`` (Qin et al. 2020, IR-Net, eq. 15).

    Args:
        x: any shape.
        t, k: numbers; they may be traced. IR-Net anneals ``t = 0.1·100^(epoch/epochs)`` and
            ``k = max(1/t, 1)``, see :class:`binjax.layers.EDE`.
    """
    t, k = number("ede: t", t, least=0), number("ede: k", k, least=0)
    return _ede(x, t, k, autodiff=autodiff)


@declare(bits=1)
def rbnn(x: ArrayLike, t: ArrayLike, k: ArrayLike, *, autodiff: Autodiff = "vjp") -> jax.Array:
    """Sign with the gradient ``g·k·max(0, sqrt(2) t - t^2 |x|)`` (Lin et al. 2020, RBNN, eq. 17).

    Args:
        x: any shape.
        t, k: numbers; they may be traced, see :class:`binjax.layers.RBNN`.
    """
    t, k = number("rbnn: t", t, least=0), number("rbnn: k", k, least=0)
    return _rbnn(x, t, k, autodiff=autodiff)


@declare(bits=1, signs=False, sign_input=lambda x, temperature, **_: x)
def progressive_sign(
    x: ArrayLike, temperature: ArrayLike, *, autodiff: Autodiff = "vjp"
) -> jax.Array:
    """``clip(x/temperature, -1, 1)``, the sign where the temperature is 0; gradient ``g``.

    Guo et al. 2022, BNext ``src/bnext.py``.

    Args:
        x: any shape.
        temperature: a number, not negative; it may be traced, see
            :class:`binjax.layers.ProgressiveSign`.
    """
    x = floating("progressive_sign", x)
    t = jnp.asarray(number("progressive_sign: temperature", temperature, least=0), x.dtype)
    return _progressive(x, t, autodiff=autodiff)


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


def _noop_bits(precision: int = 32) -> int:
    return precision


@declare(bits=_noop_bits, signs=False)
def noop(x: ArrayLike, precision: int = 32, *, autodiff: Autodiff = "vjp") -> jax.Array:
    """Return x itself, counted as so many bits: no quantization.

    Raises:
        ValueError: a precision that is no integer above 0.
    """
    integer("noop: precision", precision)
    check_autodiff(autodiff)
    return jnp.asarray(x)
