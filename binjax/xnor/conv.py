"""Convolutions of real images and kernels taken as ±1, with straight-through gradients."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from binjax.packing import unpack_bits
from binjax.xnor import ops
from binjax.xnor.arguments import as_shaped, check_floating, check_k
from binjax.xnor.derivative import (
    inside,
    only_once_differentiable,
    varying_alike,
    where_inside,
)
from binjax.xnor.dispatch import check_backend
from binjax.xnor.geometry import Geometry, Padding, check_geometry, check_groups
from binjax.xnor.packed_conv import convolve, pack_images, pack_kernels

Options = tuple[Sequence[int], Padding, int, Sequence[int], int]


def binary_conv(
    xb: ArrayLike,
    wb: ArrayLike,
    *,
    strides: Sequence[int] = (1, 1),
    padding: Padding = "SAME",
    pad_value: int = 0,
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
    backend: str | None = None,
) -> jax.Array:
    """Convolution of images and kernels that are ±1 already, from any quantizer.

    Args:
        xb: ``[n, h, w, C]``, floating, every element ±1 (another value counts as its sign).
        wb: ``[kh, kw, C/groups, N]``, likewise.
        groups: of the channels; divides C and N.
        strides, padding, pad_value, dilation, backend: see :func:`packed_conv`.

    Returns:
        ``[n, oh, ow, N]`` in xb's dtype: the integer result, rounded (or, in float16,
        infinite) if the dtype cannot hold it. Gradients are those of the convolution of the ±1
        arrays; what is kept for them is one bit per element. There are no second derivatives.

    Raises:
        TypeError: operands that are not floating; a second derivative.
        ValueError: shapes that do not fit; an option out of range; NaN in a concrete operand; a
            back end that is unknown or cannot be used.
    """
    options = (strides, padding, pad_value, dilation, groups)
    return _real(xb, wb, ("xb", "wb"), options, False, backend)


def xnor_conv(
    x: ArrayLike,
    w: ArrayLike,
    *,
    strides: Sequence[int] = (1, 1),
    padding: Padding = "SAME",
    pad_value: int = 0,
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
    backend: str | None = None,
) -> jax.Array:
    """Convolution of ``sign(x)`` with ``sign(w)``, with straight-through gradients.

    ``binary_conv(ste_sign(x), ste_sign(w), ...)`` with sign and packing in one pass: gradients
    pass where ``|x| <= 1``; kept for them are two bits per element. Arguments, result and errors
    as for :func:`binary_conv`.
    """
    options = (strides, padding, pad_value, dilation, groups)
    return _real(x, w, ("x", "w"), options, True, backend)


def _real(
    x: ArrayLike,
    w: ArrayLike,
    names: tuple[str, str],
    options: Options,
    saturated: bool,
    backend: str | None,
) -> jax.Array:
    strides, padding, pad_value, dilation, groups = options
    x, w = as_shaped(x), as_shaped(w)
    if x.ndim != 4 or w.ndim != 4:
        raise ValueError(
            f"{names[0]} has shape {x.shape} and {names[1]} {w.shape}; expected [n, h, w, C] and "
            "[kh, kw, C/groups, N]"
        )
    check_groups(groups, x.shape[3], w.shape[3])
    channels = check_k(w.shape[2], "channels")
    if x.shape[3] != groups * channels:
        raise ValueError(
            f"{names[0]} has {x.shape[3]} channels, {names[1]} of shape {w.shape} takes "
            f"{groups * channels} in {groups} group(s)"
        )
    geometry = check_geometry(
        x.shape[1:3], w.shape[:2], channels, strides, padding, pad_value, dilation
    )
    check_backend(backend)
    x, w = check_floating(names[0], x), check_floating(names[1], w)
    x, w = varying_alike(jnp.asarray(x), jnp.asarray(w))
    return _convolve(x, w, geometry, saturated, backend)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _convolve(
    x: jax.Array, w: jax.Array, geometry: Geometry, saturated: bool, backend: str | None
) -> jax.Array:
    return _convolve_packed(*_pack(x, w, geometry, backend), x, geometry, backend)


def _convolve_packed(
    xp: jax.Array, wp: jax.Array, x: jax.Array, geometry: Geometry, backend: str | None
) -> jax.Array:
    operands, epilogue = ops.float_result(x.dtype, wp.shape[0])
    dot = convolve(xp, wp, *operands, geometry=geometry, epilogue=epilogue, backend=backend)
    return dot.astype(x.dtype)


def _pack(
    x: jax.Array, w: jax.Array, geometry: Geometry, backend: str | None
) -> tuple[jax.Array, jax.Array]:
    groups = x.shape[3] // geometry.channels
    return pack_images(x, groups, backend), pack_kernels(w, backend)


def _convolve_fwd(
    x: jax.Array, w: jax.Array, geometry: Geometry, saturated: bool, backend: str | None
) -> tuple[jax.Array, Any]:
    x, w = only_once_differentiable(x), only_once_differentiable(w)
    xp, wp = _pack(x, w, geometry, backend)
    masks = (inside(x), inside(w)) if saturated else None
    out = _convolve_packed(xp, wp, x, geometry, backend)
    return out, (xp, wp, masks, jnp.zeros(0, w.dtype))


def _convolve_bwd(
    geometry: Geometry, saturated: bool, backend: str | None, kept: Any, g: jax.Array
) -> tuple[jax.Array, jax.Array]:
    xp, wp, masks, like_w = kept
    images = unpack_bits(xp, geometry.channels, g.dtype)
    images = images.reshape(*xp.shape[:3], -1)
    # [N, kh, kw, I] to HWIO
    kernels = unpack_bits(wp, geometry.channels, g.dtype).transpose(1, 2, 3, 0)
    _, pullback = jax.vjp(functools.partial(_float_conv, geometry), images, kernels)
    gx, gw = pullback(g)
    gw = gw.astype(like_w.dtype)
    return (gx, gw) if masks is None else (where_inside(masks[0], gx), where_inside(masks[1], gw))


def _float_conv(geometry: Geometry, x: jax.Array, w: jax.Array) -> jax.Array:
    top, bottom, left, right = geometry.padding
    pads = [(top, bottom), (left, right)]
    if geometry.pad_value != 0:
        x = jnp.pad(x, [(0, 0), *pads, (0, 0)], constant_values=geometry.pad_value)
        pads = [(0, 0), (0, 0)]
    return lax.conv_general_dilated(
        x,
        w,
        geometry.strides,
        pads,
        rhs_dilation=geometry.dilation,
        feature_group_count=x.shape[3] // geometry.channels,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


_convolve.defvjp(_convolve_fwd, _convolve_bwd)
