"""Products of 8-bit pixels and packed ±1 weights: primitives, their lowerings and their rules.

A pixel p counts as the odd integer ``q = 2p - 255``, the sum of ``2**b (2 bit_b(p) - 1)`` over its
bits: eight binary products of one set of weights. The native kernel sums them in its registers,
one 32-bit integer per result; elsewhere, Triton's platform included, the portable form multiplies
q in float32, which is exact below 2^24. Every form ends as ``float32(dot) * float32(1/255)``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import ShapedArray
from jax.custom_batching import custom_vmap
from jax.extend.core import Primitive

from binjax.packing import unpack_bits
from binjax.xnor import partition
from binjax.xnor.geometry import Geometry, Pair
from binjax.xnor.native import native
from binjax.xnor.primitives import Call, conv_attributes, register, result_like

Batched = tuple[jax.Array, bool]

LARGEST_K = (2**24 - 1) // 255  # every sum of so many integers of up to 255 is a float32
SCALE = np.float32(1) / np.float32(255)
PATCH_BYTES = 1 << 26  # of the windows that exist at a time

pixel_matmul_p = Primitive("binjax_pixel_matmul")
pixel_conv_p = Primitive("binjax_pixel_conv")


def centered(x: jax.Array) -> jax.Array:
    """``2x - 255`` of uint8, in float32."""
    return 2 * x.astype(jnp.float32) - 255


def over_windows(
    function: Callable[..., jax.Array],
    x: jax.Array,
    *rows: jax.Array,
    kernel: Pair,
    geometry: Geometry,
) -> jax.Array:
    """``function`` of the windows of all images, a bounded number of their rows at a time.

    Args:
        function: of ``float32[n, r, ow, kh kw C]``, windows of r rows of the output, a border
            counting 0, and of those rows of each of ``rows``.
        x: ``uint8[n, h, w, C]``.
        rows: arrays ``[n, oh, ...]``. Past the last row they are continued with zeros.
        kernel: (kh, kw).
        geometry: of the convolution.

    Returns:
        What ``function`` returned, ``[blocks, ...]``; one block is all rows.
    """
    (high, wide), (down, right) = geometry.output(x.shape[1:3], kernel), geometry.strides
    n, channels = x.shape[0], x.shape[3]
    bytes_of_all = 4 * n * high * wide * kernel[0] * kernel[1] * channels
    # Not an int: a named dimension of jax.export's
    n_blocks = -(-bytes_of_all // PATCH_BYTES) if isinstance(n, int) else 1
    block = -(-high // max(n_blocks, 1))
    n_blocks = -(-high // block)

    top, bottom, left, right_border = geometry.padding
    length = (block - 1) * down + (kernel[0] - 1) * geometry.dilation[0] + 1
    bottom = max(bottom, (n_blocks - 1) * block * down + length - top - x.shape[1])
    images = jnp.pad(centered(x), ((0, 0), (top, bottom), (left, right_border), (0, 0)))
    missing = n_blocks * block - high
    rows = tuple(jnp.pad(a, ((0, 0), (0, missing), *[(0, 0)] * (a.ndim - 2))) for a in rows)

    def taps(x: jax.Array, axis: int, size: int, stride: int) -> jax.Array:
        starts = [i * geometry.dilation[axis - 1] for i in range(kernel[axis - 1])]
        reach = (size - 1) * stride + 1
        parts = [lax.slice_in_dim(x, at, at + reach, stride, axis) for at in starts]
        return jnp.concatenate(parts, 3) if len(parts) > 1 else parts[0]

    def one(i: jax.Array | int) -> jax.Array:
        slab = lax.dynamic_slice_in_dim(images, i * block * down, length, 1)
        parts = (lax.dynamic_slice_in_dim(a, i * block, block, 1) for a in rows)
        return function(taps(taps(slab, 2, wide, right), 1, block, down), *parts)

    if n_blocks == 1:
        return one(0)[None]
    out: jax.Array = lax.map(one, jnp.arange(n_blocks))
    return out


def _product(q: jax.Array, wp: jax.Array) -> jax.Array:
    """``float32[..., K]`` by ``uint32[N, W]``, scaled: ``float32[..., N]``."""
    weights = unpack_bits(wp, q.shape[-1], jnp.float32)
    contracted = (((q.ndim - 1,), (1,)), ((), ()))
    # By default, GPUs and TPUs may round the sums.
    dot = lax.dot_general(q, weights, contracted, precision=lax.Precision.HIGHEST)
    # As integers, so that XLA doesn't move the scale into the product.
    return scaled(dot.astype(jnp.int32))


def scaled(dot: jax.Array) -> jax.Array:
    """``float32(dot) * float32(1/255)``, rounded after the product whatever is done with it next.

    XLA makes one fused multiply-add of a product and a sum behind it, with other bits: a clamp that
    never acts keeps the two apart (of an optimization barrier nothing is left in time).
    """
    limit = np.float32(LARGEST_K)
    return lax.clamp(-limit, dot.astype(jnp.float32) * SCALE, limit)


def _portable_matmul(x: jax.Array, wp: jax.Array) -> jax.Array:
    return _product(centered(x), wp)


def _portable_conv(x: jax.Array, wp: jax.Array, *, kernel: Pair, geometry: Geometry) -> jax.Array:
    # [blocks, n, rows, ow, N]
    out = over_windows(lambda q: _product(q, wp), x, kernel=kernel, geometry=geometry)
    blocks, n, rows = out.shape[:3]
    high = geometry.output(x.shape[1:3], kernel)[0]
    return jnp.moveaxis(out, 0, 1).reshape(n, blocks * rows, *out.shape[3:])[:, :high]


def _matmul_type(x: ShapedArray, wp: ShapedArray, *, backend: str | None) -> ShapedArray:
    return result_like([x, wp], (x.shape[0], wp.shape[0]), jnp.float32)


def _conv_type(
    x: ShapedArray, wp: ShapedArray, *, kernel: Pair, geometry: Geometry, backend: str | None
) -> ShapedArray:
    high, wide = geometry.output(x.shape[1:3], kernel)
    return result_like([x, wp], (x.shape[0], high, wide, wp.shape[0]), jnp.float32)


SMALL_K = 128
"""Elements below which planes of a convolution leave most of a word empty."""


def backend_of(backend: str, taps: int, elements: int) -> str:
    """What multiplies pixels where ``backend`` multiplies bits: "native" or "xla".

    Args:
        backend: "triton", "native" or "xla".
        taps: of the window, 1 for a matrix product.
        elements: products summed into one output.
    """
    # Measured with AVX2: 13 ms against 2 for 3x3x3.
    slow = taps > 1 and elements < SMALL_K and native().isa != "avx512"
    return "native" if backend == "native" and not slow else "xla"


def _native_matmul(operands: Sequence[ShapedArray]) -> Call:
    return "binjax_pixel_matmul", {}, {}


def _native_conv(
    operands: Sequence[ShapedArray], *, kernel: Pair, geometry: Geometry
) -> Call | None:
    if backend_of("native", math.prod(kernel), geometry.elements(kernel)) != "native":
        return None
    attributes = {"kernel": np.asarray(kernel, np.int64)} | conv_attributes(geometry)
    return "binjax_pixel_conv", {n: attributes[n] for n in _CONV_ATTRIBUTES}, {}


_CONV_ATTRIBUTES = ("kernel", "strides", "dilation", "padding")


register(pixel_matmul_p, _matmul_type, _portable_matmul, _native_matmul, _portable_matmul)
register(pixel_conv_p, _conv_type, _portable_conv, _native_conv, _portable_conv)


@functools.partial(jax.jit, static_argnames=("backend",))
def matmul(x: jax.Array, wp: jax.Array, *, backend: str | None) -> jax.Array:
    """``uint8[M, K]`` by ``uint32[N, W]``: ``float32[M, N]``, sums of ``(2x - 255) w`` / 255."""

    def local(images: jax.Array, wp: jax.Array) -> jax.Array:
        x = images.reshape(images.shape[0], -1)
        out: jax.Array = pixel_matmul_p.bind(x, wp, backend=backend)
        return out[:, None, None]

    out = _apply(local, functools.partial(matmul, backend=backend), x, wp, (x.shape[0],))
    return out.reshape(x.shape[0], wp.shape[0])


@functools.partial(jax.jit, static_argnames=("kernel", "geometry", "backend"))
def conv(
    x: jax.Array, wp: jax.Array, *, kernel: Pair, geometry: Geometry, backend: str | None
) -> jax.Array:
    """``uint8[n, h, w, C]`` by ``uint32[N, words of kh kw C]``: ``float32[n, oh, ow, N]``."""
    size_out = geometry.output(x.shape[1:3], kernel)
    call = functools.partial(conv, kernel=kernel, geometry=geometry, backend=backend)

    def local(images: jax.Array, wp: jax.Array) -> jax.Array:
        out: jax.Array = pixel_conv_p.bind(
            images, wp, kernel=kernel, geometry=geometry, backend=backend
        )
        return out

    return _apply(local, call, x, wp, (x.shape[0], *size_out))


def _apply(
    local: Callable[[jax.Array, jax.Array], jax.Array],
    call: Callable[[jax.Array, jax.Array], jax.Array],
    x: jax.Array,
    wp: jax.Array,
    leading: Sequence[int],
) -> jax.Array:
    """``local`` under the batching rule and the sharding rule of both operations.

    Args:
        local: images ``uint8[n, h, w, C]`` (or rows as ``[M, 1, 1, K]``) and weights to
            ``[n, oh, ow, N]``, on one device.
        call: the whole operation, of a batch folded into one of its operands.
        x, wp: its operands.
        leading: shape of its result, but for the last axis.
    """
    n = wp.shape[0]
    if 0 in (*leading, n):
        return jnp.zeros((*leading, n), jnp.float32)

    def of_five_axes(images: jax.Array, weights: jax.Array) -> jax.Array:
        return local(images[..., 0], weights[:, :, 0, 0])

    split = partition.conv(of_five_axes, n, 1, 0, "int32")

    def product(x: jax.Array, wp: jax.Array) -> jax.Array:
        # The rule of packed convolutions: images and features stay, all else is gathered. Their
        # channels are the "groups" here and their words 1, since pixels and words differ.
        images = x if x.ndim == 4 else x[:, None, None]
        out: jax.Array = split(images[..., None], wp[..., None, None])
        return out.reshape(*leading, n)

    whole = custom_vmap(product)

    @whole.def_vmap
    def batch(size: int, batched: Sequence[bool], x: jax.Array, wp: jax.Array) -> Batched:
        if all(batched):
            out: jax.Array = lax.map(lambda pair: call(*pair), (x, wp))
            return out, True
        if batched[0]:
            rows = x.reshape(size * x.shape[1], *x.shape[2:])
            return call(rows, wp).reshape(size, *leading, n), True
        columns = call(x, wp.reshape(size * n, wp.shape[2])).reshape(*leading, size, n)
        return jnp.moveaxis(columns, -2, 0), True

    out: jax.Array = whole(x, wp)
    return out
