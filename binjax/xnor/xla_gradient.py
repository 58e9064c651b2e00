"""Gradients of binary products in plain XLA: bits become ±1 floats, and floats are multiplied."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax

from binjax.packing import unpack_bits
from binjax.xnor.derivative import where_inside
from binjax.xnor.geometry import Geometry, Pair


def input_gradient(
    g: jax.Array,
    wp: jax.Array,
    *mask: jax.Array,
    geometry: Geometry,
    image: Pair,
    groups: int,
) -> jax.Array:
    """Gradient of the images of a binary convolution: ``[n, h, w, groups * channels]``, g's dtype.

    Args:
        g: gradient of the result ``[n, oh, ow, N]``, floating.
        wp: packed kernels ``uint32[N, kh, kw, Cw]``.
        mask: words ``uint32[n, h, w, groups, Cw]``; where a bit is 0 the gradient is 0.
        geometry, image, groups: of the convolution; image is (h, w).
    """
    n, kernel = g.shape[0], wp.shape[1:3]
    channels = groups * geometry.channels
    if is_matrix_product(geometry, kernel, groups):
        gx = g @ unpack_bits(wp.reshape(wp.shape[0], -1), channels, g.dtype)
    else:
        # [N, kh, kw, C] to HWIO
        kernels = unpack_bits(wp, geometry.channels, g.dtype).transpose(1, 2, 3, 0)
        images = _zeros((n, *image, channels), g)
        linear = functools.partial(_without_border, w=kernels, geometry=geometry, groups=groups)
        (gx,) = jax.vjp(linear, images)[1](g)
    if not mask:
        return gx
    by_group = gx.reshape(n, *image, groups, geometry.channels)
    return where_inside(mask[0], by_group).reshape(gx.shape)


def kernel_gradient(
    g: jax.Array, xp: jax.Array, *mask: jax.Array, geometry: Geometry, kernel: Pair
) -> jax.Array:
    """Gradient of the kernels of a binary convolution: ``[kh, kw, channels, N]`` in g's dtype.

    Args:
        g: gradient of the result ``[n, oh, ow, N]``, floating.
        xp: packed images ``uint32[n, h, w, groups, Cw]``.
        mask: words ``uint32[kh, kw, channels, ceil(N/32)]``; where a bit is 0 the gradient is 0.
        geometry, kernel: of the convolution; kernel is (kh, kw).
    """
    groups, n_out = xp.shape[3], g.shape[3]
    images = unpack_bits(xp, geometry.channels, g.dtype).reshape(*xp.shape[:3], -1)
    if is_matrix_product(geometry, kernel, groups):
        rows = images.reshape(-1, geometry.channels)
        gw = (rows.T @ g.reshape(-1, n_out)).reshape(1, 1, geometry.channels, n_out)
    else:
        top, bottom, left, right = geometry.padding
        if geometry.pad_value != 0:
            widths = [(0, 0), (top, bottom), (left, right), (0, 0)]
            images = jnp.pad(images, widths, constant_values=geometry.pad_value)
            geometry = geometry._replace(padding=(0, 0, 0, 0))
        kernels = _zeros((*kernel, geometry.channels, n_out), g)
        linear = functools.partial(_without_border, images, geometry=geometry, groups=groups)
        (gw,) = jax.vjp(linear, kernels)[1](g)
    return where_inside(mask[0], gw) if mask else gw


def is_matrix_product(geometry: Geometry, kernel: tuple[int, ...], groups: int) -> bool:
    """Whether the convolution multiplies every pixel by the same matrix and does nothing else."""
    plain = geometry.strides == (1, 1) and not any(geometry.padding)
    return plain and tuple(kernel) == (1, 1) and groups == 1


def _zeros(shape: tuple[int, ...], g: jax.Array) -> jax.Array:
    """Zeros that vary over the manual mesh axes over which g does.

    Else transposing would sum the gradient over those axes, which the caller does again.
    """
    return jnp.zeros(shape, g.dtype) + 0 * g.reshape(-1)[0]


def _without_border(x: jax.Array, w: jax.Array, geometry: Geometry, groups: int) -> jax.Array:
    """The convolution of floats with a border of zeros; what the border is does not depend on x."""
    top, bottom, left, right = geometry.padding
    return lax.conv_general_dilated(
        x,
        w,
        geometry.strides,
        [(top, bottom), (left, right)],
        rhs_dilation=geometry.dilation,
        feature_group_count=groups,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
