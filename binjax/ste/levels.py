"""Quantizers with more than two values: ternary, k-bit, 8-bit. Gradients are straight-through."""

from __future__ import annotations

from typing import Literal, get_args

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
    where_inside,
)
from binjax.ste.signs import positive, sign

Mode = Literal["activations", "weights"]
Per = Literal["tensor", "image", "channel", "token"]
_LARGEST_K = 16


def _ternary(x: jax.Array, threshold: jax.Array, clip: jax.Array) -> jax.Array:
    some = threshold > 0
    up = jnp.where(some, x >= threshold, positive(x))
    down = jnp.where(some, x <= -threshold, positive(-x))
    return jnp.where(jnp.isnan(x), x, up.astype(x.dtype) - down.astype(x.dtype))


_ste_tern = elementwise(
    _ternary, residual=lambda x, threshold, clip: jnp.abs(x) <= clip, pullback=where_inside
)


@declare(bits=2)
def ste_tern(
    x: ArrayLike,
    threshold_value: float = 0.05,
    ternary_weight_networks: bool = False,
    clip_value: float | None = 1.0,
    *,
    autodiff: Autodiff = "vjp",
) -> jax.Array:
    """-1, 0 or +1: the sign where ``|x|`` reaches a threshold; gradient ``g·1[|x| <= clip_value]``.

    Args:
        x: any shape.
        threshold_value: at exactly this ``|x|`` the value is ±1 (except at 0, which stays 0).
        ternary_weight_networks: take ``0.7·mean(|x|)`` in its place (Li et al. 2016, eq. 6).
        clip_value: None passes every gradient.

    Raises:
        ValueError: a negative clip_value, a threshold that is negative or not finite.
    """
    x = floating("ste_tern", x)
    threshold = jnp.asarray(number("ste_tern: threshold_value", threshold_value, least=0), x.dtype)
    if ternary_weight_networks:
        wide = jnp.mean(jnp.abs(x), dtype=jnp.promote_types(x.dtype, jnp.float32))
        threshold = jax.lax.stop_gradient(0.7 * wide).astype(x.dtype)
    bound = limit_of("ste_tern", clip_value)
    return _ste_tern(x, threshold, bound, autodiff=autodiff)


def _to_levels(x: jax.Array, n: jax.Array, high: jax.Array, low: jax.Array) -> jax.Array:
    level = jnp.round(jnp.clip(x, 0, 1) * n)
    return level * high + level * low


_to_unit_levels = elementwise(
    _to_levels, residual=lambda x, *parts: (sign(x) > 0) & (x <= 1), pullback=where_inside
)


def _unit_levels(x: jax.Array, k_bit: int, *, autodiff: Autodiff) -> jax.Array:
    """``round(clip(x, 0, 1) n)/n`` with ``n = 2^k - 1``, divided as exactly as a division would.

    Compilers divide by a constant by multiplying with its reciprocal, rounded twice. Here 1/n is of
    two parts; a level times the first has no rounding, so that none of the sum's can be left out.
    """
    n = 2.0**k_bit - 1
    steps = 2.0 ** jnp.finfo(x.dtype).nmant  # type: ignore[no-untyped-call]
    high = steps // n / steps
    return _to_unit_levels(x, n, high, (1 - n * high) / n, autodiff=autodiff)


def _k_bits(k_bit: int = 2, mode: Mode = "activations") -> int:
    return k_bit


@declare(bits=_k_bits, signs=False)
def dorefa(
    x: ArrayLike, k_bit: int = 2, mode: Mode = "activations", *, autodiff: Autodiff = "vjp"
) -> jax.Array:
    """DoReFa-Net's k-bit quantizer (Zhou et al. 2016, eqs. 5, 9, 11); halves round to even.

    With ``n = 2^k - 1`` and ``Q(z) = round(z n)/n``:

    * ``"activations"``: ``Q(clip(x, 0, 1))``, gradient ``g·1[0 <= x <= 1]``;
    * ``"weights"``: ``2 Q(tanh(x)/(2 m) + 1/2) - 1`` with ``m = max |tanh(x)|``, gradient
      ``g·sech^2(x)/m``, m taken for a constant. Weights that are all zero stay zero.

    Args:
        x: any shape; the maximum is over all of it.
        k_bit: 1 to 16.
        mode: see above.

    Raises:
        ValueError: ``k_bit`` out of range, unknown mode.
    """
    x = floating("dorefa", x)
    k_bit = integer("dorefa: k_bit", k_bit, 1, _LARGEST_K)
    if mode not in ("activations", "weights"):
        raise ValueError(f'dorefa: mode is "activations" or "weights", not {mode!r}')
    if x.dtype.itemsize < 4:  # 2^k - 1 may be beyond a half precision number
        return dorefa(x.astype(jnp.float32), k_bit, mode, autodiff=autodiff).astype(x.dtype)
    if mode == "activations":
        return _unit_levels(x, k_bit, autodiff=autodiff)
    bounded = jnp.tanh(x)
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(bounded), initial=0))
    zero = largest == 0
    scaled = bounded / (2 * jnp.where(zero, jnp.ones_like(largest), largest)) + 0.5
    # Rounding may carry the largest weight past 1, where no gradient would pass.
    value = 2 * _unit_levels(_inside_unit(scaled), k_bit, autodiff=autodiff) - 1
    # Where all are zero: zero, and still a gradient.
    return jnp.where(zero, value - jax.lax.stop_gradient(value), value)


def _inside_unit(z: jax.Array) -> jax.Array:
    return z + jax.lax.stop_gradient(jnp.clip(z, 0, 1) - z)


@declare(bits=2)
def absmean_ternary(x: ArrayLike, eps: float = 1e-5, *, autodiff: Autodiff = "vjp") -> jax.Array:
    """``gamma·clip(round(x/(gamma + eps)), -1, 1)`` with ``gamma = mean |x|``; gradient ``g``.

    BitNet b1.58's weights (Ma et al. 2024, eqs. 1-3); halves round to even.
    """
    x = floating("absmean_ternary", x)
    eps = number("absmean_ternary: eps", eps, least=0)
    check_autodiff(autodiff)
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    gamma = jnp.mean(jnp.abs(wide))
    value = gamma * jnp.clip(jnp.round(wide / (gamma + eps)), -1, 1)
    return _straight(x, value)


def _absmax_bits(
    k_bit: int = 8, per: Per = "tensor", positive: bool = False, eps: float = 1e-5
) -> int:
    return k_bit


@declare(bits=_absmax_bits, signs=False)
def absmax(
    x: ArrayLike,
    k_bit: int = 8,
    per: Per = "tensor",
    positive: bool = False,
    eps: float = 1e-5,
    *,
    autodiff: Autodiff = "vjp",
) -> jax.Array:
    """k-bit values that reach up to the largest magnitude, as reals; gradient ``g``.

    ``round(x n/m)·m/n`` with ``m = max(max |x|, eps)``, a constant in the backward pass, and
    ``n = 2^(k-1) - 1``; halves round to even. With ``positive``, ``n = 2^k - 1``, values below 0
    become 0 and pass no gradient. PokeBNN's real layers have 8 bits and 4 (Zhang et al. 2022, §3.2;
    its code, google/aqt, takes running means of maxima where this takes those of the array itself,
    and rounds positive values down to ``2^k`` steps where this rounds them to ``2^k - 1``).

    Args:
        x: any shape.
        k_bit: 2 to 16; with ``positive`` 1 to 16.
        per: what shares a scale: all of x; ``"image"``, an entry of the first axis; ``"channel"``,
            one of the last axis, as in kernels; ``"token"``, all along the last axis.
        positive: see above.
        eps: the least m.

    Raises:
        ValueError: ``k_bit`` out of range, unknown ``per``.
    """
    x = floating("absmax", x)
    k_bit = integer("absmax: k_bit", k_bit, 1 if positive else 2, _LARGEST_K)
    eps = number("absmax: eps", eps)
    check_autodiff(autodiff)
    if per not in get_args(Per):
        raise ValueError(f"absmax: per is {per!r}; choose {', '.join(map(repr, get_args(Per)))}")
    n = 2.0**k_bit - 1 if positive else 2.0 ** (k_bit - 1) - 1
    return _up_to_the_largest(jax.nn.relu(x) if positive else x, _sharing(per, x.ndim), n, eps)


def _sharing(per: Per, ndim: int) -> tuple[int, ...]:
    axes = {"tensor": range(ndim), "image": range(1, ndim), "channel": range(ndim - 1)}
    return tuple(axes.get(per, range(max(ndim - 1, 0), ndim)))


@declare(bits=8)
def absmax_int8(x: ArrayLike, eps: float = 1e-5, *, autodiff: Autodiff = "vjp") -> jax.Array:
    """8-bit values scaled by the largest of the last axis, as reals; gradient ``g``.

    :func:`absmax` per token: BitNet b1.58's activations (Ma et al. 2024, §2).
    """
    x = floating("absmax_int8", x)
    check_autodiff(autodiff)
    return _up_to_the_largest(x, (x.ndim - 1,), 127.0, number("absmax_int8: eps", eps))


def _up_to_the_largest(x: jax.Array, axes: tuple[int, ...], n: float, eps: float) -> jax.Array:
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    largest = jnp.max(jnp.abs(wide), axes, keepdims=True, initial=0)
    scale = n / jnp.maximum(largest, eps)
    value = jnp.clip(jnp.round(wide * scale), -n, n) / scale
    return _straight(x, value)


def _straight(x: jax.Array, value: jax.Array) -> jax.Array:
    """``value``, exactly, in x's dtype and with x's gradient."""
    return jax.lax.stop_gradient(value.astype(x.dtype)) + (x - jax.lax.stop_gradient(x))
