"""Signs and straight-through masks packed in one pass over an array, for products that train."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from binjax.packing import words_for
from binjax.xnor import ops, partition
from binjax.xnor.derivative import inside
from binjax.xnor.pack import packable
from binjax.xnor.primitives import pack_columns_ste_p, pack_rows_ste_p

Packed = tuple[jax.Array, jax.Array]


def pack_last_axis(x: jax.Array, *, backend: str | None) -> Packed:
    """Signs of floating ``[..., n]`` and where ``|x| <= 1``: ``uint32[..., ceil(n/32)]`` each."""
    signs, mask = _rows(packable(x), backend=backend)
    return signs, mask


def pack_middle_axis(w: jax.Array, *, backend: str | None) -> Packed:
    """Signs of floating ``[T, K, N]`` along K and where ``|w| <= 1`` along N.

    Returns:
        ``uint32[N, T, ceil(K/32)]`` and ``uint32[T, K, ceil(N/32)]``.
    """
    signs, mask = _columns(packable(w), backend=backend)
    return signs, mask


@functools.partial(jax.jit, static_argnames=("backend",))
def _rows(x: jax.Array, *, backend: str | None) -> Packed:
    if x.size == 0:
        empty = jnp.zeros((*x.shape[:-1], words_for(x.shape[-1])), jnp.uint32)
        return empty, empty

    def local(x: jax.Array) -> Packed:
        signs, mask = pack_rows_ste_p.bind(x, backend=backend)
        return signs, mask

    whole = custom_vmap(partition.pack_rows(local, x.shape, results=2))

    @whole.def_vmap
    def batch(size: int, batched: Sequence[bool], x: jax.Array) -> tuple[Packed, tuple[bool, bool]]:
        return _rows(x, backend=backend), (True, True)

    signs, mask = whole(x)
    return signs, mask


@functools.partial(jax.jit, static_argnames=("backend",))
def _columns(w: jax.Array, *, backend: str | None) -> Packed:
    if w.size == 0:
        return ops.pack_columns(w, backend=backend), inside(w)

    def local(w: jax.Array) -> Packed:
        signs, mask = pack_columns_ste_p.bind(w, backend=backend)
        return signs, mask

    whole = custom_vmap(partition.pack_columns_ste(local, w.shape))

    @whole.def_vmap
    def batch(size: int, batched: Sequence[bool], w: jax.Array) -> tuple[Packed, tuple[bool, bool]]:
        taps, k, n = w.shape[1:]
        signs, mask = _columns(ops.fold(w), backend=backend)
        by_element = jnp.moveaxis(signs.reshape(n, size, taps, -1), 1, 0)
        return (by_element, mask.reshape(size, taps, k, -1)), (True, True)

    signs, mask = whole(w)
    return signs, mask
