"""Quantizers of kernels that look at a whole output channel: scales, centres, spreads.

The last axis is the output channels, as in dense ``(in, out)`` and convolution ``HWIO`` kernels.
Values that are ±1 times a scale per channel are declared with their factors, so that layers
multiply the signs on packed bits.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from binjax.ste.arguments import number
from binjax.ste.core import Autodiff, Factors, declare, floating, limit_of, straight_through
from binjax.ste.signs import ede, hard_tanh, sign, ste_sign

_sign_over_scale = straight_through(
    lambda x, scale, clip: sign(x),
    lambda x, scale, clip: jnp.where(jnp.abs(x) <= clip, 1 / scale, jnp.zeros_like(x)),
)


def _unscaled(
    x: jax.Array, scale: jax.Array, clip_value: float | None = None, *, autodiff: Autodiff
) -> Factors:
    """Signs times a scale, with the gradient of the signs alone: ``g·1[|x| <= clip_value]``."""
    # A kernel of zeros keeps its gradient: its scale is not 0 but as good as that.
    least = max(2**-20, 4 * float(jnp.finfo(x.dtype).tiny))  # type: ignore[no-untyped-call]
    scale = jnp.maximum(jax.lax.stop_gradient(scale), jnp.asarray(least, x.dtype))
    per_weight = jnp.broadcast_to(scale.reshape((1,) * (x.ndim - 1) + (-1,)), x.shape)
    bound = limit_of("magnitude_aware_sign", clip_value)
    return Factors(_sign_over_scale(x, per_weight, bound, autodiff=autodiff), scale)


def _magnitude_factors(
    x: ArrayLike,
    clip_value: float | None = 1.0,
    scale_gradient: bool = True,
    *,
    autodiff: Autodiff = "vjp",
) -> Factors:
    x = floating("magnitude_aware_sign", x)
    scale = jax.lax.stop_gradient(mean_magnitude(x))
    if scale_gradient:
        return Factors(ste_sign(x, clip_value, autodiff=autodiff), scale)
    return _unscaled(x, scale, clip_value, autodiff=autodiff)


@declare(bits=1, factors=_magnitude_factors)
def magnitude_aware_sign(
    x: ArrayLike,
    clip_value: float | None = 1.0,
    scale_gradient: bool = True,
    *,
    autodiff: Autodiff = "vjp",
) -> jax.Array:
    """Sign times ``mean |x|`` of the output channel; gradient ``g·scale·1[|x| <= clip_value]``.

    The scale is a constant in the backward pass (Liu et al. 2018, Bi-Real Net, §3.3). With
    ``scale_gradient=False`` the gradient is ``g·1[|x| <= clip_value]``, as in ReActNet's code.
    """
    return _product(_magnitude_factors(x, clip_value, scale_gradient, autodiff=autodiff))


def _absmax_factors(x: ArrayLike, *, autodiff: Autodiff = "vjp") -> Factors:
    x = floating("absmax_sign", x)
    largest = jnp.max(jnp.abs(x), tuple(range(x.ndim - 1)), initial=0)
    return _unscaled(x, largest / 2, autodiff=autodiff)


@declare(bits=1, factors=_absmax_factors)
def absmax_sign(x: ArrayLike, *, autodiff: Autodiff = "vjp") -> jax.Array:
    """Sign times half of ``max |x|`` of the output channel; gradient ``g``.

    The two levels of a one-bit quantizer that reaches from ``-max |x|`` to ``max |x|``: PokeBNN's
    weights (Zhang et al. 2022, §3.1; google/aqt ``quantization.py`` with half_shift).
    """
    return _product(_absmax_factors(x, autodiff=autodiff))


def _layer_factors(x: ArrayLike, *, autodiff: Autodiff = "vjp") -> Factors:
    x = floating("layer_sign", x)
    return _unscaled(x, jnp.mean(jnp.abs(x)), autodiff=autodiff)


@declare(bits=1, factors=_layer_factors)
def layer_sign(x: ArrayLike, *, autodiff: Autodiff = "vjp") -> jax.Array:
    """Sign times ``mean |x|`` of the whole kernel, a constant in the backward pass; gradient ``g``.

    DoReFa-Net's one-bit weights (Zhou et al. 2016, eqs. 7-8).
    """
    return _product(_layer_factors(x, autodiff=autodiff))


def _xnor_factors(x: ArrayLike, *, autodiff: Autodiff = "vjp") -> Factors:
    x = floating("xnor_weight_scale", x)
    # The sign of x itself: a clip flushes subnormal numbers to zero on CPUs.
    magnitude = mean_magnitude(hard_tanh(x, autodiff=autodiff))
    return Factors(ste_sign(x, autodiff=autodiff), magnitude)


@declare(bits=1, factors=_xnor_factors)
def xnor_weight_scale(x: ArrayLike, *, autodiff: Autodiff = "vjp") -> jax.Array:
    """Sign times ``mean |x|`` of the output channel, of x clipped to [-1, 1].

    Gradients flow through sign, mean and clip: ``g·scale`` and what the mean contributes
    (Rastegari et al. 2016, eq. 11; larq/zoo ``xnornet.py``).
    """
    return _product(_xnor_factors(x, autodiff=autodiff))


def _libra_factors(
    x: ArrayLike, t: ArrayLike, k: ArrayLike, *, autodiff: Autodiff = "vjp"
) -> Factors:
    balanced = standardize(floating("libra_pb", x))
    scale = jnp.exp2(jnp.round(jnp.log2(mean_magnitude(balanced))))
    return Factors(ede(balanced, t, k, autodiff=autodiff), jax.lax.stop_gradient(scale))


@declare(bits=1, factors=_libra_factors, sign_input=lambda x, t, k, **_: standardize(x))
def libra_pb(x: ArrayLike, t: ArrayLike, k: ArrayLike, *, autodiff: Autodiff = "vjp") -> jax.Array:
    """IR-Net's balanced sign: of ``(x - mean)/std``, times a power of two, per output channel.

    The scale is ``2^round(log2(mean |.|))`` of the balanced weights, a constant in the backward
    pass; the sign has :func:`binjax.ste.ede`'s gradient (Qin et al. 2020, eqs. 9-12).
    """
    return _product(_libra_factors(x, t, k, autodiff=autodiff))


@declare(bits=1, sign_input=lambda x, tau, **_: standardize(x))
def recu(x: ArrayLike, tau: ArrayLike, *, autodiff: Autodiff = "vjp") -> jax.Array:
    """ReCU's sign: outliers of an output channel are pulled back to ``±Q``, where they can turn.

    ``w = 2 sqrt(2) (x - mean)/std`` is clamped to ``Q = -mean |w|·ln(2 - 2 tau)``, a constant in
    the backward pass; the sign passes every gradient, the clamp those within it (Xu et al. 2021,
    eqs. 9, 13). The paper raises tau from .85 to .99, see :class:`binjax.layers.ReCU`.
    """
    w = 2 * math.sqrt(2) * standardize(floating("recu", x))
    share = jnp.asarray(number("recu: tau", tau), w.dtype)
    bound = jax.lax.stop_gradient(-mean_magnitude(w) * jnp.log(2 - 2 * share))
    bound = jnp.broadcast_to(bound, w.shape)
    return ste_sign(jnp.clip(w, -bound, bound), None, autodiff=autodiff)


@declare(bits=1, signs=False, sign_input=lambda x, *_, **__: center(x))
def adabin_weights(
    x: ArrayLike, t: ArrayLike = 1.0, k: ArrayLike = 1.0, *, autodiff: Autodiff = "vjp"
) -> jax.Array:
    """Two values per output channel: ``std·sign((x - mean)/std) + mean`` (Tu et al. 2022, eq. 9).

    ``std = |x - mean|_2 / sqrt(n)``. The sign has :func:`binjax.ste.ede`'s gradient, as in the
    authors' code; it flows through mean and deviation too. The values are not symmetric about zero,
    so products with them are products of floats.
    """
    x = floating("adabin_weights", x)
    mean = _mean(x)
    deviation = _root(jnp.mean(jnp.square(x - mean), tuple(range(x.ndim - 1)), keepdims=True))
    return deviation * ede((x - mean) / deviation, t, k, autodiff=autodiff) + mean


def center(x: jax.Array) -> jax.Array:
    """X less the mean of its output channel."""
    return x - _mean(x)


def standardize(x: jax.Array, eps: float = 1e-5) -> jax.Array:
    """X less the mean of its output channel, divided by the channel's standard deviation.

    The deviation is the unbiased one, ``sqrt(variance + eps)``.
    """
    mean = _mean(x)
    return (x - mean) / _deviation(x, mean, eps)


def mean_magnitude(x: jax.Array) -> jax.Array:
    """``mean |x|`` per output channel, ``[n_out]``."""
    return jnp.mean(jnp.abs(x), tuple(range(x.ndim - 1)))


def _mean(x: jax.Array) -> jax.Array:
    return jnp.mean(x, tuple(range(x.ndim - 1)), keepdims=True)


def _deviation(x: jax.Array, mean: jax.Array, eps: float) -> jax.Array:
    axes = tuple(range(x.ndim - 1))
    count = max(math.prod(x.shape[:-1]) - 1, 1)
    return _root(jnp.sum(jnp.square(x - mean), axes, keepdims=True) / count + eps)


def _root(variance: jax.Array) -> jax.Array:
    """The square root, above zero."""
    return jnp.sqrt(jnp.maximum(variance, jnp.finfo(variance.dtype).tiny))  # type: ignore[no-untyped-call]


def _product(factors: Factors) -> jax.Array:
    signs, scale = factors
    return signs * scale.reshape((1,) * (signs.ndim - 1) + (-1,))
