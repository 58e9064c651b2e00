"""Products of ±1 matrices: packed words in, or real operands with straight-through gradients."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from binjax.packing import words_for
from binjax.xnor import ops
from binjax.xnor.arguments import (
    as_shaped,
    check_floating,
    check_k,
    check_packed,
    check_per_feature,
    check_thresholds,
)
from binjax.xnor.derivative import (
    varying_alike,
)
from binjax.xnor.dispatch import check_backend
from binjax.xnor.geometry import matrix_geometry
from binjax.xnor.gradient_ops import input_gradient, kernel_gradient
from binjax.xnor.product import Words, masks, multiply, pack_operand, pack_weights
from binjax.xnor.xla import Epilogue


def packed_matmul(
    xp: ArrayLike,
    wp: ArrayLike,
    k: int,
    *,
    backend: str | None = None,
    out: jax.Array | None = None,
) -> jax.Array:
    """Dot products of packed rows: ``k - 2 popcount(x ^ w)``, exact.

    Args:
        xp: ``uint32[M, W]`` with ``W = ceil(k/32)``, padding bits 0 (see ``binjax.packing``).
        wp: ``uint32[N, W]``, the columns of the other factor, packed alike.
        k: elements per row, 1 to 2^30 - 1; static under ``jit``.
        backend: "triton", "native", "xla", or None for the best of the platform.
        out: ``int32[M, N]`` whose memory may take the result, if the function around this one is
            jitted and donates it: large results then need no fresh pages. Only the native back
            end makes use of it.

    Returns:
        ``int32[M, N]``.

    Raises:
        TypeError: operands that are not uint32, ``out`` that is not int32, k that is no integer.
        ValueError: shapes that do not fit k or each other; k out of range; a back end that is
            unknown or cannot be used.
    """
    xp, wp, k = _check_operands(xp, wp, k, backend)
    if out is not None:
        if out.dtype != jnp.int32:
            raise TypeError(f"out has dtype {out.dtype}; it must be int32")
        if out.shape != (xp.shape[0], wp.shape[0]):
            raise ValueError(f"out has shape {out.shape}; expected {(xp.shape[0], wp.shape[0])}")
    # Outside jit nobody donates it, and the compiler would copy it first.
    spare = (out,) if isinstance(out, jax.core.Tracer) else ()
    return _product(xp, wp, *spare, k=k, epilogue="int32", backend=backend)


def packed_matmul_affine(
    xp: ArrayLike,
    wp: ArrayLike,
    k: int,
    scale: ArrayLike,
    bias: ArrayLike,
    *,
    backend: str | None = None,
) -> jax.Array:
    """``dot * scale + bias`` per column, in float32.

    Args:
        xp, wp, k, backend: see :func:`packed_matmul`.
        scale, bias: ``float32[N]``. Gradients flow to them.

    Returns:
        ``float32[M, N]``. Back ends may differ in the last bit: one or two roundings.

    Raises:
        TypeError, ValueError: as :func:`packed_matmul`; scale and bias likewise.
    """
    xp, wp, k = _check_operands(xp, wp, k, backend)
    scale = check_per_feature("scale", scale, wp.shape[0], jnp.float32)
    bias = check_per_feature("bias", bias, wp.shape[0], jnp.float32)
    xp, wp, scale, bias = varying_alike(xp, wp, jnp.asarray(scale), jnp.asarray(bias))
    return _affine(xp, wp, scale, bias, k, backend)


def packed_matmul_threshold(
    xp: ArrayLike,
    wp: ArrayLike,
    k: int,
    threshold: ArrayLike,
    flip: ArrayLike,
    *,
    backend: str | None = None,
) -> jax.Array:
    """``(dot >= threshold) ^ flip``, packed: what the next layer takes.

    Args:
        xp, wp, k, backend: see :func:`packed_matmul`.
        threshold: ``int32[N]`` in [-k, k + 1]; -k is always true, k + 1 never. Under ``jit``
            every int32 works, by comparison.
        flip: ``bool[N]``.

    Returns:
        ``uint32[M, ceil(N/32)]``, padding bits 0.

    Raises:
        TypeError, ValueError: as :func:`packed_matmul`; threshold and flip of another dtype or
            shape; a concrete threshold out of range.
    """
    xp, wp, k = _check_operands(xp, wp, k, backend)
    threshold, flip = check_thresholds(threshold, flip, wp.shape[0], k)
    rest = jnp.asarray(threshold), jnp.asarray(flip)
    return _product(xp, wp, *rest, k=k, epilogue="threshold", backend=backend)


def binary_matmul(xb: ArrayLike, wb: ArrayLike, *, backend: str | None = None) -> jax.Array:
    """``xb @ wb`` of operands that are ±1 already, from any quantizer.

    Args:
        xb: ``[..., K]``, floating, every element ±1 (another value counts as its sign).
        wb: ``[K, N]``, likewise.
        backend: see :func:`packed_matmul`.

    Returns:
        ``[..., N]`` in xb's dtype: the integer result, rounded (or, in float16, infinite) if the
        dtype cannot hold it.
        Gradients are those of the product, ``g @ wb.T`` and ``xb.T @ g``; what is kept for them
        is one bit per element. There are no second derivatives.

    Raises:
        TypeError: operands that are not floating; a second derivative.
        ValueError: shapes that do not fit; NaN in a concrete operand; a back end that is unknown
            or cannot be used.
    """
    return _real(xb, wb, ("xb", "wb"), False, backend)


def xnor_matmul(x: ArrayLike, w: ArrayLike, *, backend: str | None = None) -> jax.Array:
    """``sign(x) @ sign(w)`` with straight-through gradients, sign and packing in one pass.

    Args:
        x: ``[..., K]``, floating; ``sign(0) = +1``.
        w: ``[K, N]``, floating: latent weights.
        backend: see :func:`packed_matmul`.

    Returns:
        ``[..., N]`` in x's dtype: the integer result, rounded (or, in float16, infinite) if the
        dtype cannot hold it. The
        same value and gradients as ``binary_matmul(ste_sign(x), ste_sign(w))``: gradients pass
        where ``|x| <= 1`` (Courbariaux, Hubara et al. 2016, eq. 4). Kept for them: two bits per
        element. There are no second derivatives.

    Raises:
        TypeError, ValueError: as :func:`binary_matmul`.
    """
    return _real(x, w, ("x", "w"), True, backend)


def _check_operands(
    xp: ArrayLike, wp: ArrayLike, k: int, backend: str | None
) -> tuple[jax.Array, jax.Array, int]:
    k = check_k(k)
    axes = f"[rows, {words_for(k)}] words for k = {k}"
    xp = check_packed("xp", xp, k, 2, axes)
    wp = check_packed("wp", wp, k, 2, axes)
    check_backend(backend)
    return jnp.asarray(xp), jnp.asarray(wp), k


def _product(
    xp: jax.Array,
    wp: jax.Array,
    *operands: jax.Array,
    k: int,
    epilogue: Epilogue,
    backend: str | None,
) -> jax.Array:
    out: jax.Array = ops.matmul(xp, wp, *operands, k=k, epilogue=epilogue, backend=backend)
    return out


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _affine(
    xp: jax.Array, wp: jax.Array, scale: jax.Array, bias: jax.Array, k: int, backend: str | None
) -> jax.Array:
    return _product(xp, wp, scale, bias, k=k, epilogue="affine", backend=backend)


def _affine_fwd(
    xp: jax.Array, wp: jax.Array, scale: jax.Array, bias: jax.Array, k: int, backend: str | None
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _affine(xp, wp, scale, bias, k, backend), (xp, wp)


def _affine_bwd(
    k: int, backend: str | None, kept: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[None, None, jax.Array, jax.Array]:
    dot = _product(*kept, k=k, epilogue="int32", backend=backend)
    return None, None, jnp.sum(g * dot.astype(g.dtype), 0), jnp.sum(g, 0)


_affine.defvjp(_affine_fwd, _affine_bwd)


def _real(
    x: ArrayLike, w: ArrayLike, names: tuple[str, str], saturated: bool, backend: str | None
) -> jax.Array:
    x, w = as_shaped(x), as_shaped(w)
    if x.ndim < 1 or w.ndim != 2 or x.shape[-1] != w.shape[0]:
        raise ValueError(
            f"{names[0]} has shape {x.shape} and {names[1]} {w.shape}; expected [..., K] and [K, N]"
        )
    check_k(x.shape[-1])
    check_backend(backend)
    x, w = check_floating(names[0], x), check_floating(names[1], w)
    x, w = jnp.asarray(x), jnp.asarray(w)
    return multiply(make_product(x, w, ste=(saturated, saturated), backend=backend), x, w)


class MatrixProduct(NamedTuple):
    """``[..., k]`` by ``[k, N]``, see :class:`binjax.xnor.product.Product`.

    Attributes:
        k: elements of a row.
        ste: whether x, and whether w, is real and has the straight-through gradient of
            ``ste_sign``; else it is ±1 and has the product's.
        dtypes: of x (and the result) and of w.
        backend: see :func:`packed_matmul`.
    """

    k: int
    ste: tuple[bool, bool]
    dtypes: tuple[jnp.dtype, jnp.dtype]
    backend: str | None

    def pack(self, x: jax.Array, w: jax.Array) -> Words:
        """Words ``[..., W]`` of x and ``[N, W]`` of w."""
        signs_x, inside_x = pack_operand(x, self.ste[0], self.backend)
        signs_w, inside_w = pack_weights(w[None], self.ste[1], self.backend)
        return Words(signs_x, signs_w[:, 0], inside_x, None if inside_w is None else inside_w[0])

    def result(self, words: Words) -> jax.Array:
        """``[..., N]``."""
        rows = words.x.reshape(math.prod(words.x.shape[:-1]), words.x.shape[-1])
        n = words.w.shape[0]
        operands, epilogue = ops.float_result(self.dtypes[0], n)
        dot = _product(rows, words.w, *operands, k=self.k, epilogue=epilogue, backend=self.backend)
        return dot.astype(self.dtypes[0]).reshape(*words.x.shape[:-1], n)

    def pullback(self, words: Words, g: jax.Array) -> tuple[jax.Array, jax.Array]:
        """``g @ w.T`` and ``x.T @ g``: a convolution of as many 1x1 images as there are rows."""
        geometry = matrix_geometry(self.k)
        rows = math.prod(g.shape[:-1])
        images = g.reshape(rows, 1, 1, g.shape[-1])
        mask_x, mask_w = masks(words)
        gx = input_gradient(
            images,
            words.w[:, None, None, :],
            *(m.reshape(rows, 1, 1, 1, m.shape[-1]) for m in mask_x),
            geometry=geometry,
            image=(1, 1),
            groups=1,
            backend=self.backend,
        )
        gw = kernel_gradient(
            images,
            words.x.reshape(rows, 1, 1, 1, words.x.shape[-1]),
            *(m[None, None] for m in mask_w),
            geometry=geometry,
            kernel=(1, 1),
            backend=self.backend,
        )
        x_dtype, w_dtype = self.dtypes
        return gx.reshape(*g.shape[:-1], self.k).astype(x_dtype), gw[0, 0].astype(w_dtype)

    def largest(self) -> int:
        """K."""
        return self.k


def make_product(
    x: jax.Array, w: jax.Array, *, ste: tuple[bool, bool], backend: str | None
) -> MatrixProduct:
    """The product of two arrays of these shapes and dtypes, unchecked."""
    return MatrixProduct(x.shape[-1], ste, (x.dtype, w.dtype), backend)
