"""The primitives with their batching and sharding rules: what the public functions call.

Each function here is ``jit``, around ``custom_vmap``, around ``custom_partitioning``, around the
primitive. The first makes eager calls cheap, the second keeps a batched product one product where
it can be, the third lets XLA's partitioner split it; on a single device nothing of it is left in
the compiled program.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap

from binjax.packing import WORD, words_for
from binjax.xnor import partition
from binjax.xnor.geometry import Geometry
from binjax.xnor.primitives import conv_p, matmul_p, pack_columns_p, pack_rows_p
from binjax.xnor.xla import Epilogue, bits_width, result_dtype

Batched = tuple[jax.Array, bool]


@functools.partial(jax.jit, static_argnames=("backend",))
def pack_rows(x: jax.Array, *, backend: str | None) -> jax.Array:
    """``[..., n]`` f16, bf16, f32 or f64 to ``uint32[..., ceil(n/32)]``."""
    if x.size == 0:
        return jnp.zeros((*x.shape[:-1], words_for(x.shape[-1])), jnp.uint32)

    def local(x: jax.Array) -> jax.Array:
        out: jax.Array = pack_rows_p.bind(x, backend=backend)
        return out

    whole = custom_vmap(partition.pack_rows(local, x.shape))

    @whole.def_vmap
    def batch(size: int, batched: Sequence[bool], x: jax.Array) -> Batched:
        return pack_rows(x, backend=backend), True

    out: jax.Array = whole(x)
    return out


@functools.partial(jax.jit, static_argnames=("backend",))
def pack_columns(w: jax.Array, *, backend: str | None) -> jax.Array:
    """``[T, K, N]`` f16, bf16, f32 or f64 to ``uint32[N, T, ceil(K/32)]``."""
    taps, k, n = w.shape
    if w.size == 0:
        return jnp.zeros((n, taps, words_for(k)), jnp.uint32)

    def local(w: jax.Array) -> jax.Array:
        out: jax.Array = pack_columns_p.bind(w, backend=backend)
        return out

    whole = custom_vmap(partition.pack_columns(local, w.shape))

    @whole.def_vmap
    def batch(size: int, batched: Sequence[bool], w: jax.Array) -> Batched:
        words = pack_columns(fold(w), backend=backend)
        return jnp.moveaxis(words.reshape(n, size, taps, words_for(k)), 1, 0), True

    out: jax.Array = whole(w)
    return out


@functools.partial(jax.jit, static_argnames=("k", "epilogue", "backend"))
def matmul(
    xp: jax.Array,
    wp: jax.Array,
    *operands: jax.Array,
    k: int,
    epilogue: Epilogue,
    backend: str | None,
) -> jax.Array:
    """``uint32[M, W]`` by ``uint32[N, W]``: ``[M, N]``, after a threshold ``[M, ceil(N/32)]``."""
    m, n = xp.shape[0], wp.shape[0]
    width = bits_width(n, epilogue)
    if 0 in (m, n):
        return jnp.zeros((m, width), result_dtype(epilogue))
    call = functools.partial(matmul, k=k, epilogue=epilogue, backend=backend)

    def local(xp: jax.Array, wp: jax.Array, *operands: jax.Array) -> jax.Array:
        out: jax.Array = matmul_p.bind(xp, wp, *operands, k=k, epilogue=epilogue, backend=backend)
        return out

    def partial_sums(xp: jax.Array, wp: jax.Array) -> jax.Array:
        out: jax.Array = matmul_p.bind(xp, wp, k=0, epilogue="int32", backend=backend)
        return out

    whole = custom_vmap(partition.matmul(local, partial_sums, n, len(operands), k, epilogue))

    @whole.def_vmap
    def batch(
        size: int,
        batched: Sequence[bool],
        xp: jax.Array,
        wp: jax.Array,
        *operands: jax.Array,
    ) -> Batched:
        if epilogue == "int32":  # memory offered for one result does not serve a batch of them
            operands, batched = (), batched[:2]
            if not any(batched):
                return call(xp, wp), False
        if batched == [True, *(False,) * (1 + len(operands))]:
            return call(fold(xp), wp, *operands).reshape(size, m, width), True
        if not batched[0] and _foldable(n, epilogue):
            columns = call(xp, *_fold_all(size, batched[1:], (wp, *operands)))
            return jnp.moveaxis(columns.reshape(m, size, width), 1, 0), True
        return one_by_one(call, batched, (xp, wp, *operands)), True

    out: jax.Array = whole(xp, wp, *operands)
    return out


@functools.partial(jax.jit, static_argnames=("geometry", "epilogue", "backend"))
def conv(
    xp: jax.Array,
    wp: jax.Array,
    *operands: jax.Array,
    geometry: Geometry,
    epilogue: Epilogue,
    backend: str | None,
) -> jax.Array:
    """``uint32[n, h, w, g, Cw]`` by ``uint32[N, kh, kw, Cw]``: ``[n, oh, ow, N or ceil(N/32)]``."""
    n, groups = wp.shape[0], xp.shape[3]
    size_out = geometry.output(xp.shape[1:3], wp.shape[1:3])
    shape = (xp.shape[0], *size_out, bits_width(n, epilogue))
    if 0 in shape:
        return jnp.zeros(shape, result_dtype(epilogue))
    call = functools.partial(conv, geometry=geometry, epilogue=epilogue, backend=backend)

    def local(xp: jax.Array, wp: jax.Array, *operands: jax.Array) -> jax.Array:
        out: jax.Array = conv_p.bind(
            xp, wp, *operands, geometry=geometry, epilogue=epilogue, backend=backend
        )
        return out

    whole = custom_vmap(partition.conv(local, n, groups, len(operands), epilogue))

    @whole.def_vmap
    def batch(
        size: int,
        batched: Sequence[bool],
        xp: jax.Array,
        wp: jax.Array,
        *operands: jax.Array,
    ) -> Batched:
        if batched == [True, *(False,) * (1 + len(operands))]:
            return call(fold(xp), wp, *operands).reshape(size, *shape), True
        if not batched[0] and groups == 1 and _foldable(n, epilogue):
            out = call(xp, *_fold_all(size, batched[1:], (wp, *operands)))
            return jnp.moveaxis(out.reshape(*shape[:3], size, shape[3]), 3, 0), True
        return one_by_one(call, batched, (xp, wp, *operands)), True

    out: jax.Array = whole(xp, wp, *operands)
    return out


def float_result(dtype: jnp.dtype, n: int) -> tuple[tuple[jax.Array, ...], Epilogue]:
    """Operands and name of the epilogue that gives dot products as ``dtype`` or nearest to it.

    float32 is written by the kernel itself (times 1, plus 0): int32 would take another pass.
    """
    if dtype != jnp.float32:
        return (), "int32"
    return (jnp.ones(n, jnp.float32), jnp.zeros(n, jnp.float32)), "affine"


def fold(x: jax.Array) -> jax.Array:
    """The two first axes as one."""
    return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])


def _fold_all(
    size: int, batched: Sequence[bool], arrays: Sequence[jax.Array]
) -> tuple[jax.Array, ...]:
    """Fold a batch into the first axis of every array, repeating those that have none."""
    return tuple(
        fold(a if is_batched else jnp.broadcast_to(a[None], (size, *a.shape)))
        for a, is_batched in zip(arrays, batched, strict=True)
    )


def _foldable(n: int, epilogue: Epilogue) -> bool:
    """Whether several products can stand side by side along N: bits need whole words each."""
    return epilogue != "threshold" or n % WORD == 0


def one_by_one(
    call: Callable[..., jax.Array], batched: Sequence[bool], arrays: Sequence[jax.Array]
) -> jax.Array:
    """``call`` for each element of a batch, one after the other."""

    def one(mapped: tuple[jax.Array, ...]) -> jax.Array:
        rest = iter(mapped)
        return call(*(next(rest) if b else a for a, b in zip(arrays, batched, strict=True)))

    mapped = tuple(a for a, b in zip(arrays, batched, strict=True) if b)
    out: jax.Array = lax.map(one, mapped)
    return out
