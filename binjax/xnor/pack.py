"""Packing ±1 values into words with the fastest form of the platform."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from binjax.xnor import ops, xla
from binjax.xnor.arguments import Shaped, as_shaped, refuse_nan
from binjax.xnor.dispatch import check_backend


def pack_bits(x: ArrayLike, *, backend: str | None = None) -> jax.Array:
    """Signs of x, 32 to a word.

    Args:
        x: ``[..., n]``, any n and leading shape. Floating: +1 for x >= 0 and for -0.0, -1 below
            (negative subnormals too), infinities by their sign; signed integers: +1 for x >= 0;
            bool: True is +1. Other values than ±1 are taken by their sign.
        backend: "triton", "native", "xla", or None for the best of the platform.

    Returns:
        ``uint32[..., ceil(n/32)]``; bit j (least significant first) of word i is element
        ``32 i + j``, 1 is +1, padding bits are 0. Its derivative is zero.

    Raises:
        TypeError: unsigned, complex or other dtypes.
        ValueError: a scalar; NaN, where x is concrete (under ``jit`` a NaN packs by its sign
            bit); a back end that cannot be used.

    Example:
        >>> import jax.numpy as jnp
        >>> pack_bits(jnp.asarray([0.5, -2.0, 0.0])).tolist()
        [5]
    """
    x = as_shaped(x)
    if x.ndim < 1:
        raise ValueError("x is a scalar; packing needs at least one axis")
    check_backend(backend)
    refuse_nan("x", x)
    return pack_last_axis(jnp.asarray(_signs_if_narrowed(x)), backend)


def _signs_if_narrowed(x: Shaped) -> Shaped:
    """Booleans in place of 64-bit numbers that JAX would narrow: that can change their sign."""
    wide = isinstance(x, np.ndarray) and jax.dtypes.canonicalize_dtype(x.dtype) != x.dtype
    return np.asarray(x) >= 0 if wide and x.dtype.kind in "if" else x


def pack_last_axis(x: jax.Array, backend: str | None) -> jax.Array:
    """As :func:`pack_bits`, unchecked."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return xla.pack_rows(x)
    out: jax.Array = ops.pack_rows(packable(x), backend=backend)
    return out


def pack_middle_axis(w: jax.Array, backend: str | None) -> jax.Array:
    """``[T, K, N]`` real to ``uint32[N, T, ceil(K/32)]``, unchecked."""
    if not jnp.issubdtype(w.dtype, jnp.floating):
        return xla.pack_columns(w)
    out: jax.Array = ops.pack_columns(packable(w), backend=backend)
    return out


def packable(x: jax.Array) -> jax.Array:
    """The array cut off from differentiation, in a dtype that the kernels take."""
    x = jax.lax.stop_gradient(x)
    return x.astype(jnp.float32) if x.dtype.itemsize < 2 else x
