"""Convolutions of packed ±1 images with packed kernels."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from binjax.packing import words_for
from binjax.xnor import ops
from binjax.xnor.arguments import (
    as_shaped,
    check_k,
    check_packed,
    check_per_feature,
    check_thresholds,
    refuse_nan,
)
from binjax.xnor.derivative import varying_alike
from binjax.xnor.dispatch import check_backend
from binjax.xnor.geometry import Geometry, Padding, check_geometry, check_groups
from binjax.xnor.pack import pack_last_axis, pack_middle_axis
from binjax.xnor.xla import Epilogue


def pack_conv_input(x: ArrayLike, groups: int = 1, *, backend: str | None = None) -> jax.Array:
    """Images for :func:`packed_conv`: ``[n, h, w, C]`` to ``uint32[n, h, w, groups, Cw]``.

    Args:
        x: as for ``pack_bits``.
        groups: of the channels, packed each on its own: ``Cw = ceil(C / groups / 32)``.
        backend: see ``packed_matmul``.

    Raises:
        TypeError, ValueError: as ``pack_bits``; another rank; groups that do not divide C.
    """
    x = as_shaped(x)
    if x.ndim != 4:
        raise ValueError(f"x has shape {x.shape}; expected [n, h, w, channels]")
    if groups < 1 or x.shape[3] % groups:
        raise ValueError(f"groups is {groups}; it must divide the {x.shape[3]} channels of x")
    check_backend(backend)
    refuse_nan("x", x)
    return pack_images(jnp.asarray(x), groups, backend)


def pack_conv_kernel(w: ArrayLike, *, backend: str | None = None) -> jax.Array:
    """Kernels for :func:`packed_conv`: HWIO to ``uint32[N, kh, kw, Cw]``, ``Cw = ceil(I/32)``.

    Raises:
        TypeError, ValueError: as ``pack_bits``; another rank.
    """
    w = as_shaped(w)
    if w.ndim != 4:
        raise ValueError(f"w has shape {w.shape}; expected [height, width, in, out]")
    check_backend(backend)
    refuse_nan("w", w)
    return pack_kernels(jnp.asarray(w), backend)


def packed_conv(
    xp: ArrayLike,
    wp: ArrayLike,
    channels: int,
    *,
    strides: Sequence[int] = (1, 1),
    padding: Padding = "SAME",
    pad_value: int = 0,
    dilation: Sequence[int] = (1, 1),
    backend: str | None = None,
) -> jax.Array:
    """Convolution of packed images with packed kernels, exact.

    Args:
        xp: ``uint32[n, h, w, groups, Cw]`` from :func:`pack_conv_input`.
        wp: ``uint32[N, kh, kw, Cw]`` from :func:`pack_conv_kernel`; output channel ``o`` belongs
            to group ``o // (N // groups)``.
        channels: input channels per group, ``Cw = ceil(channels/32)``; static under ``jit``.
        strides, dilation: (vertical, horizontal), at least 1.
        padding: "SAME", "VALID", or ``((top, bottom), (left, right))``, none negative.
        pad_value: what the border counts as: -1, 0 or +1.
        backend: see ``packed_matmul``.

    Returns:
        ``int32[n, oh, ow, N]``.

    Raises:
        TypeError: operands that are not uint32.
        ValueError: shapes that do not fit channels or each other; an option out of range; a back
            end that is unknown or cannot be used.
    """
    xp, wp, geometry = _check_packed_conv(
        xp, wp, channels, strides, padding, pad_value, dilation, backend
    )
    return convolve(xp, wp, geometry=geometry, epilogue="int32", backend=backend)


def packed_conv_affine(
    xp: ArrayLike,
    wp: ArrayLike,
    channels: int,
    scale: ArrayLike,
    bias: ArrayLike,
    *,
    strides: Sequence[int] = (1, 1),
    padding: Padding = "SAME",
    pad_value: int = 0,
    dilation: Sequence[int] = (1, 1),
    backend: str | None = None,
) -> jax.Array:
    """:func:`packed_conv` times ``scale`` plus ``bias``, per channel: ``float32[n, oh, ow, N]``.

    ``scale`` and ``bias`` are ``float32[N]``; gradients flow to them. Back ends may differ in the
    last bit.

    Raises:
        TypeError, ValueError: as :func:`packed_conv`; scale and bias likewise.
    """
    xp, wp, geometry = _check_packed_conv(
        xp, wp, channels, strides, padding, pad_value, dilation, backend
    )
    scale = check_per_feature("scale", scale, wp.shape[0], jnp.float32)
    bias = check_per_feature("bias", bias, wp.shape[0], jnp.float32)
    xp, wp, scale, bias = varying_alike(xp, wp, jnp.asarray(scale), jnp.asarray(bias))
    return _affine(xp, wp, scale, bias, geometry, backend)


def packed_conv_threshold(
    xp: ArrayLike,
    wp: ArrayLike,
    channels: int,
    threshold: ArrayLike,
    flip: ArrayLike,
    *,
    strides: Sequence[int] = (1, 1),
    padding: Padding = "SAME",
    pad_value: int = 0,
    dilation: Sequence[int] = (1, 1),
    backend: str | None = None,
) -> jax.Array:
    """``(conv >= threshold) ^ flip``, packed along the channels: ``uint32[n, oh, ow, ceil(N/32)]``.

    ``threshold`` is ``int32[N]`` in [-K, K + 1] with ``K = kh kw channels`` (any int32 under
    ``jit``), ``flip`` ``bool[N]``; padding bits of the result are 0.

    Raises:
        TypeError, ValueError: as :func:`packed_conv`; threshold and flip of another dtype or
            shape; a concrete threshold out of range.
    """
    xp, wp, geometry = _check_packed_conv(
        xp, wp, channels, strides, padding, pad_value, dilation, backend
    )
    k = geometry.elements(wp.shape[1:3])
    threshold, flip = check_thresholds(threshold, flip, wp.shape[0], k)
    rest = jnp.asarray(threshold), jnp.asarray(flip)
    return convolve(xp, wp, *rest, geometry=geometry, epilogue="threshold", backend=backend)


def pack_images(x: jax.Array, groups: int, backend: str | None) -> jax.Array:
    """:func:`pack_conv_input`, unchecked."""
    return pack_last_axis(x.reshape(*x.shape[:3], groups, x.shape[3] // groups), backend)


def pack_kernels(w: jax.Array, backend: str | None) -> jax.Array:
    """:func:`pack_conv_kernel`, unchecked."""
    kh, kw, n_in, n_out = w.shape
    words = pack_middle_axis(w.reshape(kh * kw, n_in, n_out), backend)
    return words.reshape(n_out, kh, kw, words_for(n_in))


def convolve(
    xp: jax.Array,
    wp: jax.Array,
    *operands: jax.Array,
    geometry: Geometry,
    epilogue: Epilogue,
    backend: str | None,
) -> jax.Array:
    """The operation, unchecked."""
    out: jax.Array = ops.conv(
        xp, wp, *operands, geometry=geometry, epilogue=epilogue, backend=backend
    )
    return out


def _check_packed_conv(
    xp: ArrayLike,
    wp: ArrayLike,
    channels: int,
    strides: Sequence[int],
    padding: Padding,
    pad_value: int,
    dilation: Sequence[int],
    backend: str | None,
) -> tuple[jax.Array, jax.Array, Geometry]:
    channels = check_k(channels, "channels")
    words = words_for(channels)
    xp = check_packed("xp", xp, channels, 5, f"[n, h, w, groups, {words}] words")
    wp = check_packed("wp", wp, channels, 4, f"[out, kh, kw, {words}] words")
    check_groups(xp.shape[3], xp.shape[3] * channels, wp.shape[0])
    geometry = check_geometry(
        xp.shape[1:3], wp.shape[1:3], channels, strides, padding, pad_value, dilation
    )
    check_backend(backend)
    return jnp.asarray(xp), jnp.asarray(wp), geometry


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _affine(
    xp: jax.Array,
    wp: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    geometry: Geometry,
    backend: str | None,
) -> jax.Array:
    return convolve(xp, wp, scale, bias, geometry=geometry, epilogue="affine", backend=backend)


def _affine_fwd(
    xp: jax.Array,
    wp: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    geometry: Geometry,
    backend: str | None,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _affine(xp, wp, scale, bias, geometry, backend), (xp, wp)


def _affine_bwd(
    geometry: Geometry, backend: str | None, kept: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[None, None, jax.Array, jax.Array]:
    dot = convolve(*kept, geometry=geometry, epilogue="int32", backend=backend)
    return None, None, jnp.sum(g * dot.astype(g.dtype), (0, 1, 2)), jnp.sum(g, (0, 1, 2))


_affine.defvjp(_affine_fwd, _affine_bwd)
