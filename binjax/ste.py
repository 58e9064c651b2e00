"""Binarization as pure functions with straight-through gradients.

Every quantizer computes an exact forward value and a *declared* derivative in place of the true
one, which is zero almost everywhere (Bengio et al. 2013; Courbariaux, Hubara et al. 2016, §1.3).
They work under ``jit``, ``vmap``, ``grad`` and ``grad`` of ``grad`` for any floating dtype and
return the dtype they were given. Forward mode (``jvp``, ``jacfwd``, ``hessian``) needs
``autodiff="jvp"``; both modes give the same numbers. Names, arguments and defaults are Larq's.

Convention: ``sign(0) = sign(-0.0) = +1``; NaN stays NaN.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, Protocol, TypeVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

Autodiff = Literal["vjp", "jvp"]


Function = TypeVar("Function", bound=Callable[..., Any])
Quantizer = Callable[..., jax.Array]


@dataclass(frozen=True)
class Stochastic:
    """A quantizer that draws: ``training(key, x)`` while training, ``evaluation(x)`` after.

    ``bits`` is the precision of its values, as in :func:`declare`.
    """

    training: Callable[[jax.Array, jax.Array], jax.Array]
    evaluation: Quantizer
    bits: int | None = None


class StraightThrough(Protocol):
    """What :func:`straight_through` returns: ``f(x, *params, autodiff="vjp")``."""

    def __call__(self, x: ArrayLike, *params: Any, autodiff: Autodiff = "vjp") -> jax.Array:
        """Value and declared derivative at x."""


def declare(bits: int) -> Callable[[Function], Function]:
    """Decorator that says of a quantizer how many bits its values have: 1 for ±1, 32 for real.

    Layers and summaries ask :func:`precision`. A function that declares nothing works too, but
    counts as real-valued.
    """

    def mark(function: Function) -> Function:
        vars(function)["bits"] = bits
        return function

    return mark


def precision(quantizer: Quantizer | Stochastic | None) -> int | None:
    """Declared bits of a quantizer's values, 32 for None (no quantizer); None if undeclared."""
    if quantizer is None:
        return 32
    if isinstance(quantizer, functools.partial):
        return precision(quantizer.func)
    bits: int | None = getattr(quantizer, "bits", None)
    return bits


@declare(bits=1)
def sign(x: ArrayLike) -> jax.Array:
    """+1 where ``x >= 0`` (so also at -0.0), -1 below, NaN at NaN. Any shape, any float dtype.

    Read off the bits, so that a negative subnormal gives -1 on devices that take it for zero too.
    Its derivative is zero; use :func:`ste_sign` to train.
    """
    x = jax.lax.stop_gradient(_floating("sign", x))
    bits = jnp.finfo(x.dtype).bits  # type: ignore[no-untyped-call]
    unsigned = jnp.dtype(f"uint{bits}")
    minus_zero = jnp.asarray(1 << (bits - 1), unsigned)
    ones = jnp.ones_like(x)
    value = jnp.where(jax.lax.bitcast_convert_type(x, unsigned) > minus_zero, -ones, ones)
    return jnp.where(jnp.isnan(x), x, value)


def straight_through(
    forward: Callable[..., jax.Array], derivative: Callable[..., jax.Array]
) -> StraightThrough:
    """A function with the value of ``forward`` and the derivative you declare.

    Args:
        forward: ``forward(x, *params)``, elementwise in ``x``, same shape and dtype.
        derivative: ``derivative(x, *params)``, used for dy/dx element by element.

    Returns:
        ``f(x, *params, autodiff="vjp")``. ``params`` are numbers or arrays (they may be traced,
        for annealed surrogates); no gradient flows to them.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> triangle = straight_through(sign, lambda x: jnp.maximum(0.0, 1.0 - jnp.abs(x)))
        >>> triangle = declare(bits=1)(triangle)
        >>> float(jax.grad(triangle)(0.25))
        0.75
    """
    return _elementwise(
        forward,
        residual=lambda x, *params: (x, *params),
        pullback=lambda kept, g: g * derivative(*kept).astype(g.dtype),
    )


def _elementwise(
    forward: Callable[..., jax.Array],
    residual: Callable[..., Any],
    pullback: Callable[[Any, jax.Array], jax.Array],
) -> StraightThrough:
    """``forward`` with gradient ``pullback(residual(x, *params), g)``, linear in ``g``.

    ``residual`` chooses what is kept for the backward pass: a boolean mask where that is enough.
    Both rules call the differentiable function again for the value, so that a second
    differentiation sees the declared derivative too and not the true one.
    """

    @jax.custom_vjp
    def reverse(x: jax.Array, *params: Any) -> jax.Array:
        return forward(x, *params)

    def reverse_fwd(x: jax.Array, *params: Any) -> tuple[jax.Array, Any]:
        no_gradients = (None,) * len(params)
        return reverse(x, *params), (residual(x, *params), no_gradients)

    def reverse_bwd(kept: Any, g: jax.Array) -> tuple[Any, ...]:
        kept, no_gradients = kept
        return (pullback(kept, g), *no_gradients)

    @jax.custom_jvp
    def both(x: jax.Array, *params: Any) -> jax.Array:
        return forward(x, *params)

    def both_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
        return both(*primals), pullback(residual(*primals), tangents[0])

    reverse.defvjp(reverse_fwd, reverse_bwd)
    both.defjvp(both_jvp)

    def quantizer(x: ArrayLike, *params: Any, autodiff: Autodiff = "vjp") -> jax.Array:
        x = _floating("a quantizer", x)
        params = tuple(jnp.asarray(p, x.dtype) if isinstance(p, int | float) else p for p in params)
        if autodiff == "vjp":
            return reverse(x, *params)
        if autodiff == "jvp":
            return both(x, *params)
        raise ValueError(f'autodiff is "vjp" or "jvp", not {autodiff!r}')

    return quantizer


def _floating(name: str, x: ArrayLike) -> jax.Array:
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"{name} needs a floating dtype, got {x.dtype}; convert x first")
    return x


def _where_inside(inside: jax.Array, g: jax.Array) -> jax.Array:
    return jnp.where(inside, g, jnp.zeros_like(g))


_saturated = _elementwise(
    lambda x, clip: sign(x), residual=lambda x, clip: jnp.abs(x) <= clip, pullback=_where_inside
)
_pass_through = _elementwise(sign, residual=lambda x: (), pullback=lambda kept, g: g)
_clamp = _elementwise(
    lambda x: jnp.clip(x, -1, 1), residual=lambda x: jnp.abs(x) <= 1, pullback=_where_inside
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


_stochastic = _elementwise(_draw, residual=lambda x, noise: jnp.abs(x) <= 1, pullback=_where_inside)


def stochastic_sign(key: jax.Array, x: ArrayLike, *, autodiff: Autodiff = "vjp") -> jax.Array:
    """+1 with probability ``hard_sigmoid(x)``, else -1; saturated gradient (paper, eq. 2).

    Args:
        key: a JAX random key; the same key gives the same signs.
        x: any shape, floating. The comparison is made in float32 at least, since bfloat16
            noise would have steps of 1/128.

    Returns:
        ±1 of x's shape and dtype, NaN where x is NaN. At ``|x| >= 1`` it equals ``sign(x)``.
    """
    x = _floating("stochastic_sign", x)
    bits = jnp.finfo(x.dtype).bits  # type: ignore[no-untyped-call]
    wide = x.dtype if bits >= 32 else jnp.float32
    noise = jax.random.uniform(key, x.shape, wide, minval=-1, maxval=1)
    return _stochastic(x, noise, autodiff=autodiff)


@declare(bits=32)
def noop(x: ArrayLike) -> jax.Array:
    """Return x itself: no quantization."""
    return jnp.asarray(x)


QUANTIZERS: Mapping[str, Quantizer | Stochastic] = MappingProxyType(
    {
        "ste_sign": ste_sign,
        "approx_sign": approx_sign,
        "swish_sign": swish_sign,
        "stochastic_sign": Stochastic(training=stochastic_sign, evaluation=ste_sign, bits=1),
        "noop": noop,
    }
)
"""Quantizers by the name a config uses."""
