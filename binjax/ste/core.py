"""What a quantizer is: an exact value with a declared derivative and a declared precision."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from binjax.ste.arguments import number

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


class Factors(NamedTuple):
    """A quantizer's values as ±1 times a scale, so that ±1 can be multiplied on packed bits.

    Attributes:
        signs: ±1, of the latent weights' shape.
        scale: one factor per output channel, ``[n_out]``, or a scalar.
    """

    signs: jax.Array
    scale: jax.Array


class StraightThrough(Protocol):
    """What :func:`straight_through` returns: ``f(x, *params, autodiff="vjp")``."""

    def __call__(self, x: ArrayLike, *params: Any, autodiff: Autodiff = "vjp") -> jax.Array:
        """Value and declared derivative at x."""


def declare(
    bits: int | Callable[..., int],
    factors: Callable[..., Factors] | None = None,
    *,
    signs: bool | None = None,
    sign_input: Callable[..., jax.Array] | None = None,
) -> Callable[[Function], Function]:
    """Decorator that says of a quantizer how many bits its values have: 1 for ±1, 32 for real.

    Layers and summaries ask :func:`precision` and :func:`is_sign`. A function that declares
    nothing works too, but counts as real-valued. NNX modules that quantize have an attribute
    ``bits`` and, if their values are scaled, a method ``factors``; ``signs = False`` if their
    single bit is not ±1; a method ``sign_input`` if their sign is not that of what they are given.

    Args:
        bits: of the values, or a function of the quantizer's keyword arguments that says so.
        factors: for ±1 times a scale per output channel: a function of the quantizer's own
            arguments whose two results multiply to the quantizer's value, with its gradients.
        signs: whether values are ±1, or that times a scale; by default if ``bits`` is 1.
        sign_input: a function of the quantizer's own arguments: what it takes the sign of, if that
            is not the first of them.
    """

    def mark(function: Function) -> Function:
        vars(function).update(bits=bits, factors=factors, signs=signs, sign_input=sign_input)
        return function

    return mark


def precision(quantizer: Quantizer | Stochastic | None) -> int | None:
    """Declared bits of a quantizer's values, 32 for None (no quantizer); None if undeclared."""
    if quantizer is None:
        return 32
    given = dict(quantizer.keywords) if isinstance(quantizer, functools.partial) else {}
    given.pop("autodiff", None)
    inner = quantizer.func if isinstance(quantizer, functools.partial) else quantizer
    bits: int | Callable[..., int] | None = getattr(inner, "bits", None)
    return bits(**given) if callable(bits) else bits


def is_sign(quantizer: Quantizer | Stochastic | None) -> bool:
    """Whether a quantizer's values are declared to be ±1, or that times a scale."""
    inner = quantizer.func if isinstance(quantizer, functools.partial) else quantizer
    return precision(quantizer) == 1 and getattr(inner, "signs", None) is not False


def factors_of(quantizer: Quantizer | Stochastic | None) -> Callable[..., Factors] | None:
    """The quantizer's values as signs and scale; None if they are not scaled."""
    return _declared(quantizer, "factors")


def sign_input_of(
    quantizer: Quantizer | Stochastic | None,
) -> Callable[[jax.Array], jax.Array] | None:
    """What the quantizer takes the sign of, such as ``x + bias``; None if of x, or of nothing."""
    return _declared(quantizer, "sign_input")


def _declared(quantizer: Quantizer | Stochastic | None, name: str) -> Callable[..., Any] | None:
    if isinstance(quantizer, functools.partial):
        inner = _declared(quantizer.func, name)
        if inner is None:
            return None
        return functools.partial(inner, *quantizer.args, **quantizer.keywords)
    found: Callable[..., Any] | None = getattr(quantizer, name, None)
    return found


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
    return elementwise(
        forward,
        residual=lambda x, *params: (x, *params),
        pullback=lambda kept, g: g * derivative(*kept).astype(g.dtype),
    )


def elementwise(
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
        x = floating("a quantizer", x)
        params = tuple(jnp.asarray(p, x.dtype) if isinstance(p, int | float) else p for p in params)
        return (reverse if check_autodiff(autodiff) == "vjp" else both)(x, *params)

    return quantizer


def check_autodiff(autodiff: Autodiff) -> Autodiff:
    """``autodiff`` itself, if it is one of the two."""
    if autodiff not in ("vjp", "jvp"):
        raise ValueError(f'autodiff is {autodiff!r}; choose "vjp" or "jvp"')
    return autodiff


def floating(name: str, x: ArrayLike) -> jax.Array:
    """The array x; TypeError if it is not floating."""
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"{name} needs a floating dtype, got {x.dtype}; convert x first")
    return x


def limit_of(name: str, clip_value: float | None) -> float:
    """The largest ``|x|`` whose gradient passes; infinity for None.

    Raises:
        ValueError: a number below 0, NaN, no number.
    """
    if clip_value is None or (isinstance(clip_value, float) and clip_value == math.inf):
        return math.inf
    limit: float = number(f"{name}: clip_value", clip_value, least=0)
    return limit


def where_inside(inside: jax.Array, g: jax.Array) -> jax.Array:
    """The gradient where the mask is set, else 0: the pullback of saturated gradients."""
    return jnp.where(inside, g, jnp.zeros_like(g))
