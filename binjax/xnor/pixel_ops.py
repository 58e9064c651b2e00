"""Products of 8-bit pixels and packed ±1 weights: primitives, their lowerings and their rules.

A pixel p counts as the odd integer ``q = 2p - 255``, the sum of ``2**b (2 bit_b(p) - 1)`` over its
bits: eight binary products of one set of weights. The native kernel sums them in its registers,
one 32-bit integer per result; elsewhere, Triton's platform included, the portable form multiplies
q in float32, which is exact below 2^24. The sums end as they are (``"int32"``), as
``float32(dot) * float32(1/255)`` (``"scaled"``), or as bits (``"threshold"``).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

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
from binjax.xnor.ops import Batched, one_by_one
from binjax.xnor.pixel_scale import centered, scaled
from binjax.xnor.pixel_windows import over_windows
from binjax.xnor.primitives import Call, conv_attributes, register, result_like
from binjax.xnor.xla import Epilogue, bits_width, finish, result_dtype

PixelEpilogue = Literal["scaled", "int32", "threshold"]

pixel_matmul_p = Primitive("binjax_pixel_matmul")
pixel_conv_p = Primitive("binjax_pixel_conv")


def _dots(q: jax.Array, wp: jax.Array) -> jax.Array:
    """``float32[..., K]`` by ``uint32[N, W]``: ``int32[..., N]``."""
    weights = unpack_bits(wp, q.shape[-1], jnp.float32)
    contracted = (((q.ndim - 1,), (1,)), ((), ()))
    # By default, GPUs and TPUs may round the sums.
    dot = lax.dot_general(q, weights, contracted, precision=lax.Precision.HIGHEST)
    # As integers, so that XLA doesn't move the scale into the product.
    return dot.astype(jnp.int32)


def _finish(dot: jax.Array, *operands: jax.Array, epilogue: PixelEpilogue) -> jax.Array:
    return scaled(dot) if epilogue == "scaled" else finish(dot, *operands, epilogue=epilogue)


def _plain(epilogue: PixelEpilogue) -> Epilogue:
    """The epilogue of other products whose result has the same shape."""
    return "int32" if epilogue == "scaled" else epilogue


def _dtype(epilogue: PixelEpilogue) -> np.dtype[Any]:
    return np.dtype(np.float32) if epilogue == "scaled" else result_dtype(epilogue)


def _portable_matmul(
    x: jax.Array, wp: jax.Array, *operands: jax.Array, epilogue: PixelEpilogue
) -> jax.Array:
    return _finish(_dots(centered(x), wp), *operands, epilogue=epilogue)


def _portable_conv(
    x: jax.Array,
    wp: jax.Array,
    *operands: jax.Array,
    kernel: Pair,
    geometry: Geometry,
    epilogue: PixelEpilogue,
) -> jax.Array:
    def block(q: jax.Array) -> jax.Array:
        return _finish(_dots(q, wp), *operands, epilogue=epilogue)

    # [blocks, n, rows, ow, N or words]
    out = over_windows(block, x, kernel=kernel, geometry=geometry)
    blocks, n, rows = out.shape[:3]
    high = geometry.output(x.shape[1:3], kernel)[0]
    return jnp.moveaxis(out, 0, 1).reshape(n, blocks * rows, *out.shape[3:])[:, :high]


def _matmul_type(
    x: ShapedArray,
    wp: ShapedArray,
    *operands: ShapedArray,
    epilogue: PixelEpilogue,
    backend: str | None,
) -> ShapedArray:
    shape = (x.shape[0], bits_width(wp.shape[0], _plain(epilogue)))
    return result_like([x, wp, *operands], shape, _dtype(epilogue))


def _conv_type(
    x: ShapedArray,
    wp: ShapedArray,
    *operands: ShapedArray,
    kernel: Pair,
    geometry: Geometry,
    epilogue: PixelEpilogue,
    backend: str | None,
) -> ShapedArray:
    high, wide = geometry.output(x.shape[1:3], kernel)
    shape = (x.shape[0], high, wide, bits_width(wp.shape[0], _plain(epilogue)))
    return result_like([x, wp, *operands], shape, _dtype(epilogue))


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


def _native_matmul(operands: Sequence[ShapedArray], *, epilogue: PixelEpilogue) -> Call:
    return f"binjax_pixel_matmul_{epilogue}", {}, {}


def _native_conv(
    operands: Sequence[ShapedArray], *, kernel: Pair, geometry: Geometry, epilogue: PixelEpilogue
) -> Call | None:
    if backend_of("native", math.prod(kernel), geometry.elements(kernel)) != "native":
        return None
    attributes = {"kernel": np.asarray(kernel, np.int64)} | conv_attributes(geometry)
    target = f"binjax_pixel_conv_{epilogue}"
    return target, {n: attributes[n] for n in _CONV_ATTRIBUTES}, {}


_CONV_ATTRIBUTES = ("kernel", "strides", "dilation", "padding")


register(pixel_matmul_p, _matmul_type, _portable_matmul, _native_matmul, _portable_matmul)
register(pixel_conv_p, _conv_type, _portable_conv, _native_conv, _portable_conv)


@functools.partial(jax.jit, static_argnames=("epilogue", "backend"))
def matmul(
    x: jax.Array,
    wp: jax.Array,
    *operands: jax.Array,
    epilogue: PixelEpilogue = "scaled",
    backend: str | None,
) -> jax.Array:
    """``uint8[M, K]`` by ``uint32[N, W]``: sums of ``(2x - 255) w``, ``[M, N]`` or bits of it.

    ``"scaled"`` gives float32, the sums divided by 255; ``"threshold"`` takes ``int32[N]`` and
    ``bool[N]`` as operands, see :func:`binjax.xnor.xla.finish`.
    """

    def local(images: jax.Array, wp: jax.Array, *operands: jax.Array) -> jax.Array:
        x = images.reshape(images.shape[0], -1)
        out: jax.Array = pixel_matmul_p.bind(x, wp, *operands, epilogue=epilogue, backend=backend)
        return out[:, None, None]

    call = functools.partial(matmul, epilogue=epilogue, backend=backend)
    out = _apply(local, call, x, wp, operands, (x.shape[0],), epilogue)
    return out.reshape(x.shape[0], out.shape[-1])


@functools.partial(jax.jit, static_argnames=("kernel", "geometry", "epilogue", "backend"))
def conv(
    x: jax.Array,
    wp: jax.Array,
    *operands: jax.Array,
    kernel: Pair,
    geometry: Geometry,
    epilogue: PixelEpilogue = "scaled",
    backend: str | None,
) -> jax.Array:
    """``uint8[n, h, w, C]`` by ``uint32[N, words of kh kw C]``: ``[n, oh, ow, N]`` or bits of it.

    Epilogues are those of :func:`matmul`.
    """
    size_out = geometry.output(x.shape[1:3], kernel)
    options = {"kernel": kernel, "geometry": geometry, "epilogue": epilogue, "backend": backend}

    def local(images: jax.Array, wp: jax.Array, *operands: jax.Array) -> jax.Array:
        out: jax.Array = pixel_conv_p.bind(images, wp, *operands, **options)
        return out

    call = functools.partial(conv, **options)
    return _apply(local, call, x, wp, operands, (x.shape[0], *size_out), epilogue)


def _apply(
    local: Callable[..., jax.Array],
    call: Callable[..., jax.Array],
    x: jax.Array,
    wp: jax.Array,
    operands: Sequence[jax.Array],
    leading: Sequence[int],
    epilogue: PixelEpilogue,
) -> jax.Array:
    """``local`` under the batching rule and the sharding rule of both operations.

    Args:
        local: images ``uint8[n, h, w, C]`` (or rows as ``[M, 1, 1, K]``), weights and operands to
            ``[n, oh, ow, N]`` or bits of it, on one device.
        call: the whole operation, of a batch folded into one of its operands.
        x, wp, operands: its operands.
        leading: shape of its result, but for the last axis.
        epilogue: of the operation.
    """
    n = wp.shape[0]
    width = bits_width(n, _plain(epilogue))
    if 0 in (*leading, n):
        return jnp.zeros((*leading, width), _dtype(epilogue))

    def of_five_axes(images: jax.Array, weights: jax.Array, *operands: jax.Array) -> jax.Array:
        return local(images[..., 0], weights[:, :, 0, 0], *operands)

    split = partition.conv(of_five_axes, n, 1, len(operands), _plain(epilogue))

    def product(x: jax.Array, wp: jax.Array, *operands: jax.Array) -> jax.Array:
        # The rule of packed convolutions: images and features stay, all else is gathered. Their
        # channels are the "groups" here and their words 1, since pixels and words differ.
        images = x if x.ndim == 4 else x[:, None, None]
        out: jax.Array = split(images[..., None], wp[..., None, None], *operands)
        return out.reshape(*leading, width)

    whole = custom_vmap(product)

    @whole.def_vmap
    def batch(
        size: int, batched: Sequence[bool], x: jax.Array, wp: jax.Array, *operands: jax.Array
    ) -> Batched:
        if batched == [True, *(False,) * (1 + len(operands))]:
            rows = x.reshape(size * x.shape[1], *x.shape[2:])
            return call(rows, wp, *operands).reshape(size, *leading, width), True
        if batched[0] or operands:
            return one_by_one(call, batched, (x, wp, *operands)), True
        columns = call(x, wp.reshape(size * n, wp.shape[2])).reshape(*leading, size, n)
        return jnp.moveaxis(columns, -2, 0), True

    out: jax.Array = whole(x, wp, *operands)
    return out
