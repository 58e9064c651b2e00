"""±1 values as bits of 32-bit words: the one place that knows bit order and padding.

Packed words, everywhere in binjax:

- dtype ``uint32``; the packed axis is the last; ``n`` elements take ``ceil(n/32)`` words;
- bit ``j`` (least significant first) of word ``i`` holds element ``32 i + j``; 1 means +1, 0 means
  -1;
- padding bits are 0 on both operands of a product, so that they cancel in
  ``dot(x, w) = n - 2 popcount(x ^ w)`` (Courbariaux, Hubara et al. 2016, §3).

These are the portable forms, in plain XLA operations; ``binjax.pack_bits`` also knows faster ones.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

WORD = 32


def words_for(n: int) -> int:
    """Words that hold ``n`` elements: ``ceil(n/32)``."""
    return -(-n // WORD)


def is_positive(x: jax.Array) -> jax.Array:
    """Boolean of x's shape: True where an element packs as +1.

    Args:
        x: floating: -0.0 is positive, a negative subnormal is not (also on devices that take it
            for zero), NaN goes by its sign bit; signed integers: ``x >= 0``; bool: itself.

    Raises:
        TypeError: other dtypes.
    """
    if x.dtype == jnp.bool_:
        return x
    if jnp.issubdtype(x.dtype, jnp.signedinteger):
        return x >= 0
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(
            f"x to pack has dtype {x.dtype}; packing takes floating, signed integer or bool arrays"
        )
    bits = jnp.finfo(x.dtype).bits  # type: ignore[no-untyped-call]
    if bits < 16:  # some 8-bit formats have no minus zero
        x, bits = x.astype(jnp.float32), 32
    unsigned = jnp.dtype(f"uint{bits}")
    minus_zero = jnp.asarray(1 << (bits - 1), unsigned)
    return jax.lax.bitcast_convert_type(x, unsigned) <= minus_zero


def pack_positive(positive: jax.Array) -> jax.Array:
    """Words of booleans: ``[..., n]`` to ``uint32[..., ceil(n/32)]``."""
    n_words = words_for(positive.shape[-1])
    missing = n_words * WORD - positive.shape[-1]
    if missing:
        positive = jnp.pad(positive, [(0, 0)] * (positive.ndim - 1) + [(0, missing)])
    # [..., n_words, 32]
    bits = positive.reshape(*positive.shape[:-1], n_words, WORD).astype(jnp.uint32)
    place = jnp.broadcast_to(jnp.arange(WORD, dtype=jnp.uint32), bits.shape)
    return jnp.sum(bits << place, -1, dtype=jnp.uint32)


def check_words(words: jax.Array | np.ndarray, n: int, name: str = "words") -> None:
    """Check what can be checked without the values: dtype and number of words.

    Raises:
        TypeError: dtype other than uint32.
        ValueError: a scalar, or a last axis other than ``ceil(n/32)``.
    """
    if words.dtype != jnp.uint32:
        raise TypeError(
            f"{name} has dtype {words.dtype}, packed words are uint32; "
            "pack ±1 values with binjax.pack_bits first"
        )
    if words.ndim < 1 or words.shape[-1] != words_for(n):
        raise ValueError(
            f"{name} has shape {words.shape}; {n} packed elements take {words_for(n)} words "
            "in the last axis"
        )


def unpack_bits(words: ArrayLike, n: int, dtype: DTypeLike = jnp.float32) -> jax.Array:
    """±1 values of packed words.

    Args:
        words: ``uint32[..., ceil(n/32)]``; what stands in the padding bits does not matter.
        n: number of elements in the last axis, at least 0.
        dtype: of the result: floating or signed integer; bool gives True for +1.

    Returns:
        ``[..., n]`` of ``dtype``.

    Raises:
        TypeError: words that are not uint32, or a dtype that cannot hold -1.
        ValueError: a number of words other than ``ceil(n/32)``.

    Example:
        >>> import jax.numpy as jnp
        >>> unpack_bits(jnp.asarray([5], jnp.uint32), 4).tolist()
        [1.0, -1.0, 1.0, -1.0]
    """
    words = jnp.asarray(words)
    check_words(words, n)
    dtype = jnp.dtype(dtype)
    signed = jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.signedinteger)
    if not signed and dtype != jnp.bool_:
        raise TypeError(f"dtype {dtype} cannot hold ±1; ask for a floating, signed or bool dtype")
    place = np.arange(WORD, dtype=np.uint32)
    split = jnp.expand_dims(words, -1) >> place.reshape((1,) * words.ndim + (WORD,))
    # [..., n_words * 32]
    flat = split.reshape(*words.shape[:-1], words.shape[-1] * WORD)
    bits: jax.Array = (flat[..., :n] & jnp.uint32(1)) != 0
    if dtype == jnp.bool_:
        return bits
    plus: jax.Array = jnp.ones((), dtype)
    return jnp.where(bits, plus, -plus)
