"""Multiplication by powers of two: AP2, what shift-based normalization and optimization rest on.

Source: Courbariaux, Hubara et al. 2016, algorithms 3 and 4; itayhubara/BinaryNet (Torch).
"""

from __future__ import annotations

from fractions import Fraction

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def ap2(x: ArrayLike) -> jax.Array:
    """The power of two nearest to ``x`` in log space: ``sign(x)·2^round(log2|x|)``.

    Exact for every value: the mantissa's bits are compared with those of the square root of two
    (no logarithm, which errs next to the switch points ``sqrt(2)·2^k``). Since it works on bits,
    it also holds on devices that flush subnormals to zero.

    Args:
        x: any shape; float16, bfloat16, float32 or float64.

    Returns:
        x's shape and dtype. ``±0`` and ``±inf`` and NaN give themselves; subnormals give the
        nearest (sub)normal power of two; values above ``sqrt(2)·2^k`` for the largest
        representable ``2^k`` give ``±inf``. The derivative is zero.

    Raises:
        TypeError: x is not floating.
    """
    x = jax.lax.stop_gradient(jnp.asarray(x))
    if x.dtype not in (jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64):
        raise TypeError(f"ap2 needs a floating dtype, got {x.dtype}; convert x first")
    info = jnp.finfo(x.dtype)  # type: ignore[no-untyped-call]
    unsigned = jnp.dtype(f"uint{info.bits}")

    def word(value: int) -> jax.Array:
        return jnp.asarray(value, unsigned)

    mantissa_bits = word(info.nmant)
    mantissa_mask = word((1 << info.nmant) - 1)
    exponent_mask = word((1 << (info.bits - 1)) - (1 << info.nmant))
    switch = word(_first_mantissa_above_sqrt2(info.nmant))

    bits = jax.lax.bitcast_convert_type(x, unsigned)
    sign = bits & word(1 << (info.bits - 1))
    exponent = bits & exponent_mask
    mantissa = bits & mantissa_mask

    round_up = (mantissa >= switch).astype(unsigned)
    normal = exponent + (round_up << mantissa_bits)

    highest = word(info.bits - 1) - jax.lax.clz(mantissa)
    normalized = (mantissa << (mantissa_bits - highest)) & mantissa_mask
    subnormal = word(1) << (highest + (normalized >= switch).astype(unsigned))

    power = jnp.where(exponent == 0, jnp.where(mantissa == 0, mantissa, subnormal), normal)
    result = jax.lax.bitcast_convert_type(sign | power, x.dtype)
    return jnp.where(exponent == exponent_mask, x, result)


def _first_mantissa_above_sqrt2(mantissa_bits: int) -> int:
    """The smallest mantissa field whose value ``1 + field/2^bits`` exceeds sqrt(2)."""
    low, high = 0, 1 << mantissa_bits
    while low < high:
        middle = (low + high) // 2
        if (1 + Fraction(middle, 1 << mantissa_bits)) ** 2 > 2:
            high = middle
        else:
            low = middle + 1
    return low
