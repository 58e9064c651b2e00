"""Gradients of binary products as operations: primitives, batching, sharding, choice of kernel.

Built as the operations of ``ops.py`` are. A dense layer is a convolution of 1x1 images.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.custom_batching import custom_vmap
from jax.extend.core import Primitive

from binjax.xnor import bridge, partition, xla_gradient
from binjax.xnor.geometry import Geometry, Pair
from binjax.xnor.ops import Batched, fold, one_by_one
from binjax.xnor.primitives import Call, conv_attributes, register, result_like
from binjax.xnor.xla_gradient import is_matrix_product

input_gradient_p = Primitive("binjax_input_gradient")
kernel_gradient_p = Primitive("binjax_kernel_gradient")

LARGEST_TRITON = 2**22
"""Columns and elements up to which offsets in a block of the Triton kernels fit 32 bits."""
FEWEST_ROWS = 6
"""Rows of a matrix product below which its kernel's gradient is faster in floats.

Measured with AVX-512 at 1024x1024, tables against floats: 0.26 ms against 0.09 for one row, 0.41
against 0.40 for four, 0.23 against 0.37 for six. The other gradient's tables never lose.
"""


def input_gradient(
    g: jax.Array,
    wp: jax.Array,
    *mask: jax.Array,
    geometry: Geometry,
    image: Pair,
    groups: int,
    backend: str | None,
) -> jax.Array:
    """:func:`binjax.xnor.xla_gradient.input_gradient` on the platform's kernels.

    The result is float32, or float64 where g is.
    """
    shape = (g.shape[0], *image, groups * geometry.channels)
    if 0 in (*shape, *g.shape):
        return jnp.zeros(shape, jnp.promote_types(g.dtype, jnp.float32))
    if g.dtype == jnp.float64:
        return xla_gradient.input_gradient(
            g, wp, *mask, geometry=geometry, image=image, groups=groups
        )
    g = g.astype(jnp.float32)
    gx: jax.Array = _input_gradient(
        g, wp, *mask, geometry=geometry, image=image, groups=groups, backend=backend
    )
    return gx


def kernel_gradient(
    g: jax.Array,
    xp: jax.Array,
    *mask: jax.Array,
    geometry: Geometry,
    kernel: Pair,
    backend: str | None,
) -> jax.Array:
    """:func:`binjax.xnor.xla_gradient.kernel_gradient` on the platform's kernels.

    The result is float32, or float64 where g is.
    """
    shape = (*kernel, geometry.channels, g.shape[3])
    if 0 in (*shape, *g.shape):
        return jnp.zeros(shape, jnp.promote_types(g.dtype, jnp.float32))
    if g.dtype == jnp.float64:
        return xla_gradient.kernel_gradient(g, xp, *mask, geometry=geometry, kernel=kernel)
    g = g.astype(jnp.float32)
    gw: jax.Array = _kernel_gradient(
        g, xp, *mask, geometry=geometry, kernel=kernel, backend=backend
    )
    return gw


@functools.partial(jax.jit, static_argnames=("geometry", "image", "groups", "backend"))
def _input_gradient(
    g: jax.Array,
    wp: jax.Array,
    *mask: jax.Array,
    geometry: Geometry,
    image: Pair,
    groups: int,
    backend: str | None,
) -> jax.Array:
    static: dict[str, Any] = {"geometry": geometry, "image": image, "groups": groups}
    call = functools.partial(_input_gradient, **static, backend=backend)

    def local(g: jax.Array, wp: jax.Array, *mask: jax.Array) -> jax.Array:
        out: jax.Array = input_gradient_p.bind(g, wp, *mask, **static, backend=backend)
        return out

    whole = custom_vmap(partition.input_gradient(local, len(mask)))

    @whole.def_vmap
    def batch(
        size: int, batched: Sequence[bool], g: jax.Array, wp: jax.Array, *mask: jax.Array
    ) -> Batched:
        if batched == [True, False, *(True,) * len(mask)]:
            out = call(fold(g), wp, *(fold(m) for m in mask))
            return out.reshape(size, -1, *out.shape[1:]), True
        return one_by_one(call, batched, (g, wp, *mask)), True

    out: jax.Array = whole(g, wp, *mask)
    return out


@functools.partial(jax.jit, static_argnames=("geometry", "kernel", "backend"))
def _kernel_gradient(
    g: jax.Array,
    xp: jax.Array,
    *mask: jax.Array,
    geometry: Geometry,
    kernel: Pair,
    backend: str | None,
) -> jax.Array:
    call = functools.partial(_kernel_gradient, geometry=geometry, kernel=kernel, backend=backend)

    def local(g: jax.Array, xp: jax.Array, *mask: jax.Array) -> jax.Array:
        out: jax.Array = kernel_gradient_p.bind(
            g, xp, *mask, geometry=geometry, kernel=kernel, backend=backend
        )
        return out

    whole = custom_vmap(partition.kernel_gradient(local, len(mask)))

    @whole.def_vmap
    def batch(
        size: int, batched: Sequence[bool], g: jax.Array, xp: jax.Array, *mask: jax.Array
    ) -> Batched:
        return one_by_one(call, batched, (g, xp, *mask)), True

    out: jax.Array = whole(g, xp, *mask)
    return out


def floats_instead(
    kind: str, rows: int | None, geometry: Geometry, kernel: Pair, groups: int
) -> str | None:
    """Why a gradient is multiplied in floats on CPUs although the native library is there.

    Args:
        kind: "input" or "kernel".
        rows: of the batch, images times pixels; None if it is symbolic.
        geometry, kernel, groups: of the convolution.

    Returns:
        None where the native kernel is used.
    """
    if rows is None:
        return "the batch size is symbolic"
    plain = is_matrix_product(geometry, kernel, groups)
    if kind == "kernel" and plain and rows < FEWEST_ROWS:
        return f"{rows} rows are too few for tables to pay"
    return None


def _input_type(
    g: ShapedArray,
    wp: ShapedArray,
    *mask: ShapedArray,
    geometry: Geometry,
    image: Pair,
    groups: int,
    backend: str | None,
) -> ShapedArray:
    shape = (g.shape[0], *image, groups * geometry.channels)
    return result_like([g, wp, *mask], shape, g.dtype)


def _kernel_type(
    g: ShapedArray,
    xp: ShapedArray,
    *mask: ShapedArray,
    geometry: Geometry,
    kernel: Pair,
    backend: str | None,
) -> ShapedArray:
    shape = (*kernel, geometry.channels, g.shape[3])
    return result_like([g, xp, *mask], shape, g.dtype)


def _native_input(
    operands: Sequence[ShapedArray], *, geometry: Geometry, image: Pair, groups: int
) -> Call | None:
    g, wp = operands[:2]
    if floats_instead("input", _rows(g), geometry, wp.shape[1:3], groups) is not None:
        return None
    return "binjax_input_gradient", conv_attributes(geometry), {}


def _native_kernel(
    operands: Sequence[ShapedArray], *, geometry: Geometry, kernel: Pair
) -> Call | None:
    g, xp = operands[:2]
    if floats_instead("kernel", _rows(g), geometry, kernel, xp.shape[3]) is not None:
        return None
    return "binjax_kernel_gradient", conv_attributes(geometry), {}


def _rows(g: ShapedArray) -> int | None:
    return math.prod(g.shape[:3]) if all(isinstance(n, int) for n in g.shape) else None


def _triton_input(
    g: jax.Array,
    wp: jax.Array,
    *mask: jax.Array,
    geometry: Geometry,
    image: Pair,
    groups: int,
) -> jax.Array:
    plain = is_matrix_product(geometry, wp.shape[1:3], groups)
    if not plain or max(wp.shape[0], geometry.channels) > LARGEST_TRITON:
        return xla_gradient.input_gradient(
            g, wp, *mask, geometry=geometry, image=image, groups=groups
        )
    rows = g.reshape(-1, g.shape[3])
    words = [m.reshape(-1, m.shape[-1]) for m in mask]
    gx = bridge.input_gradient(rows, wp.reshape(wp.shape[0], -1), geometry.channels, *words)
    return gx.reshape(*g.shape[:3], geometry.channels)


def _triton_kernel(
    g: jax.Array, xp: jax.Array, *mask: jax.Array, geometry: Geometry, kernel: Pair
) -> jax.Array:
    plain = is_matrix_product(geometry, kernel, xp.shape[3])
    if not plain or max(g.shape[3], geometry.channels) > LARGEST_TRITON:
        return xla_gradient.kernel_gradient(g, xp, *mask, geometry=geometry, kernel=kernel)
    rows = g.reshape(-1, g.shape[3])
    words = [m.reshape(-1, m.shape[-1]) for m in mask]
    gw = bridge.weight_gradient(rows, xp.reshape(-1, xp.shape[-1]), geometry.channels, *words)
    return gw.reshape(1, 1, *gw.shape)


register(input_gradient_p, _input_type, xla_gradient.input_gradient, _native_input, _triton_input)
register(
    kernel_gradient_p, _kernel_type, xla_gradient.kernel_gradient, _native_kernel, _triton_kernel
)
