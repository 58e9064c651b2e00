"""Binary products in a training graph: what is computed, kept as bits, and pulled back.

A :class:`Product` says how two real operands become words, words a result, and a gradient of the
result gradients of the operands. :func:`multiply` makes a differentiable function of it that keeps
the words and nothing else; :func:`multiply_then` does so for the product and what follows it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from binjax.xnor import ste_ops
from binjax.xnor.derivative import only_once_differentiable, varying_alike
from binjax.xnor.pack import pack_last_axis, pack_middle_axis

Keep = Literal["int16", "lean"]


class Words(NamedTuple):
    """What a product keeps for its gradients.

    Attributes:
        x, w: packed signs of the operands.
        inside_x, inside_w: where the straight-through gradient passes, as words along the
            operand's last axis; None if the operand was ±1 already.
    """

    x: jax.Array
    w: jax.Array
    inside_x: jax.Array | None
    inside_w: jax.Array | None


def pack_operand(
    x: jax.Array, ste: bool, backend: str | None
) -> tuple[jax.Array, jax.Array | None]:
    """Signs along the last axis and, if asked for, where the gradient passes."""
    if ste:
        return ste_ops.pack_last_axis(x, backend=backend)
    return pack_last_axis(x, backend), None


def pack_weights(
    w: jax.Array, ste: bool, backend: str | None
) -> tuple[jax.Array, jax.Array | None]:
    """Signs of ``[T, K, N]`` along K and, if asked for, where the gradient passes, along N."""
    if ste:
        return ste_ops.pack_middle_axis(w, backend=backend)
    return pack_middle_axis(w, backend), None


def masks(words: Words) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
    """The masks of x and w as operands: one or none each."""
    x, w = words.inside_x, words.inside_w
    return () if x is None else (x,), () if w is None else (w,)


class Product(Protocol):
    """A product of two arrays taken as ±1. Immutable and hashable."""

    def pack(self, x: jax.Array, w: jax.Array) -> Any:
        """What is kept of the operands: a pytree of words."""

    def result(self, words: Any) -> jax.Array:
        """The integers, in the dtype of the result."""

    def pullback(self, words: Any, g: jax.Array) -> tuple[jax.Array | None, jax.Array]:
        """Gradients of the operands; None of an integer one."""

    def largest(self) -> int | None:
        """Largest absolute value of a result; None if results are no integers."""


Tail = Callable[..., Any]


def multiply(product: Product, x: jax.Array, w: jax.Array) -> jax.Array:
    """The product's result; kept for its gradients are the words. No second derivatives.

    Args:
        product: static.
        x, w: the operands, floating.
    """
    return _multiply(product, *varying_alike(x, w))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _multiply(product: Product, x: jax.Array, w: jax.Array) -> jax.Array:
    return product.result(product.pack(x, w))


def _multiply_fwd(product: Product, x: jax.Array, w: jax.Array) -> tuple[jax.Array, Any]:
    words = product.pack(*_once(x, w))
    return product.result(words), words


def _multiply_bwd(product: Product, words: Any, g: jax.Array) -> tuple[jax.Array | None, jax.Array]:
    return product.pullback(words, g)


_multiply.defvjp(_multiply_fwd, _multiply_bwd)


def multiply_then(
    product: Product, tail: Tail, keep: Keep, x: jax.Array, w: jax.Array, rest: Any
) -> Any:
    """``tail(product(x, w), rest)`` with the gradients it has, in less memory.

    Kept for the backward pass are the product's words, ``rest``, and the result of the product as
    16-bit integers (``keep="int16"``) or not at all (``"lean"``: it is multiplied again when its
    gradient arrives). What ``tail`` computes is computed again.

    Args:
        product, keep: static.
        tail: static, pure: ``tail(result, rest)``, any pytree of arrays.
        x, w: the operands, floating.
        rest: pytree of what else the tail needs; floating leaves get gradients.

    Raises:
        ValueError: ``keep="int16"`` for a product whose sums can be larger than 32767.
    """
    _check_range(product, keep)
    return _multiply_then(product, tail, keep, *varying_alike(x, w), rest)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _multiply_then(
    product: Product, tail: Tail, keep: Keep, x: jax.Array, w: jax.Array, rest: Any
) -> Any:
    return tail(product.result(product.pack(x, w)), rest)


def _then_fwd(
    product: Product, tail: Tail, keep: Keep, x: jax.Array, w: jax.Array, rest: Any
) -> tuple[Any, Any]:
    words = product.pack(*_once(x, w))
    result = product.result(words)
    sums = result.astype(jnp.int16) if keep == "int16" else None
    return tail(result, rest), (words, sums, jnp.zeros(0, result.dtype), rest)


def _then_bwd(
    product: Product, tail: Tail, keep: Keep, kept: Any, g: Any
) -> tuple[jax.Array | None, jax.Array, Any]:
    words, sums, like, rest = kept
    again = sums is None
    result = product.result(_after(g, words)) if again else sums.astype(like.dtype)
    _, pull = jax.vjp(tail, result, rest)
    gradient, rest_gradient = pull(g)
    return (*product.pullback(words, gradient), rest_gradient)


def _once(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    floating = (jnp.issubdtype(a.dtype, jnp.floating) for a in arrays)
    return tuple(
        only_once_differentiable(a) if real else a for a, real in zip(arrays, floating, strict=True)
    )


def _after(g: Any, words: Any) -> Any:
    """The words, as if they depended on the gradient.

    An optimization barrier is not enough on CPUs: it is gone before the compiler looks for common
    subexpressions, finds the product of the forward pass and keeps its result after all. A zero
    that is made of the gradient (and not known to be one: 0 times infinity is NaN) also makes it
    wait with multiplying again until the gradient is there.
    """
    leaf = max(jax.tree.leaves(g), key=lambda leaf: leaf.size)
    zero = leaf.reshape(-1)[0] * 0
    return jax.tree.map(lambda w: w ^ zero.astype(w.dtype), words)


_multiply_then.defvjp(_then_fwd, _then_bwd)


def _check_range(product: Product, keep: Keep) -> None:
    largest = product.largest()
    if keep == "int16" and (largest is None or largest > 2**15 - 1):
        has = "Results that are no integers" if largest is None else f"Sums of {largest} products"
        raise ValueError(f'{has} do not fit 16 bits (32767); keep "lean", or multiply alone')
