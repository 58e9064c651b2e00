"""The first layer: 8-bit images times binary weights, exact, with straight-through gradients.

A pixel p of 0 to 255 stands for ``x = 2p/255 - 1``, from -1 to 1. That is ``q/255`` with the odd
integer ``q = 2p - 255``, so products with ±1 are integers over 255. A layer may take another
:class:`~binjax.xnor.pixel_scale.PixelScale`, ``x = scale q + shift``: the integers stay the same,
and the shift adds its multiple of a column's sum of weights. Scalings with a mean and a deviation
for each channel are not of that form: such images are multiplied in floats, and inputs other than
uint8 are refused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from binjax.xnor import pixel_ops
from binjax.xnor.arguments import Shaped, as_shaped, check_floating, check_k
from binjax.xnor.derivative import where_inside
from binjax.xnor.dispatch import check_backend
from binjax.xnor.geometry import Geometry, Padding, Pair, check_geometry
from binjax.xnor.pixel_scale import LARGEST_K, SCALE, UNIT, PixelScale, centered
from binjax.xnor.pixel_windows import over_windows
from binjax.xnor.product import Words, multiply, pack_weights

Options = tuple[Sequence[int], Padding, Sequence[int]]


def pixel_matmul(x: ArrayLike, w: ArrayLike, *, backend: str | None = None) -> jax.Array:
    """``((2x - 255) @ sign(w)) / 255``: images scaled to [-1, 1] times binary weights.

    Args:
        x: ``uint8[..., K]``, K at most 65793, so that every sum is below 2^24.
        w: ``[K, N]``, floating: latent weights; ``sign(0) = +1``.
        backend: "native", "xla", or None for the best of the platform. "triton" stands for the
            XLA form on CUDA devices.

    Returns:
        ``float32[..., N]``: the integer sum times float32(1/255), rounded once. The bits are the
        same on every back end, and those of ``(q @ sign(w)) * float32(1/255)`` with float32 q.
        The gradient of w is straight-through: ``q.T @ g / 255`` where ``|w| <= 1``, else 0
        (Courbariaux, Hubara et al. 2016, eq. 4); kept for it are x as it is and a bit per weight.
        There is none of x, and there are no second derivatives.

    Raises:
        TypeError: x that is not uint8, w that is not floating; a second derivative.
        ValueError: shapes that do not fit; K too large; NaN in a concrete w; a back end that is
            unknown or cannot be used.
    """
    return _matmul(x, w, True, backend)


def pixel_conv(
    x: ArrayLike,
    w: ArrayLike,
    *,
    strides: Sequence[int] = (1, 1),
    padding: Padding = "SAME",
    dilation: Sequence[int] = (1, 1),
    backend: str | None = None,
) -> jax.Array:
    """Convolution of images scaled to [-1, 1] with ``sign(w)``; a border counts as x = 0.

    Args:
        x: ``uint8[n, h, w, C]``.
        w: ``[kh, kw, C, N]``, floating: latent weights. ``kh kw C`` is at most 65793.
        strides, dilation: (vertical, horizontal).
        padding: "SAME", "VALID" or ((top, bottom), (left, right)).
        backend: see :func:`pixel_matmul`.

    Returns:
        ``float32[n, oh, ow, N]``; value and gradients as for :func:`pixel_matmul`.

    Raises:
        TypeError, ValueError: as :func:`pixel_matmul`; an option out of range.
    """
    return _conv(x, w, (strides, padding, dilation), True, backend)


def _matmul(x: ArrayLike, w: ArrayLike, saturated: bool, backend: str | None) -> jax.Array:
    x, w = as_shaped(x), as_shaped(w)
    _check_pixels(x)
    if x.ndim < 1 or w.ndim != 2 or x.shape[-1] != w.shape[0]:
        raise ValueError(f"x has shape {x.shape} and w {w.shape}; expected [..., K] and [K, N]")
    _check_length(x.shape[-1])
    check_backend(backend)
    w = jnp.asarray(check_floating("w", w))
    product = make_matrix_product(w, ste=saturated, dtype=jnp.float32, backend=backend)
    return multiply(product, jnp.asarray(x), w)


def _conv(
    x: ArrayLike,
    w: ArrayLike,
    options: Options,
    saturated: bool,
    backend: str | None,
) -> jax.Array:
    x, w = as_shaped(x), as_shaped(w)
    _check_pixels(x)
    if x.ndim != 4 or w.ndim != 4 or x.shape[3] != w.shape[2]:
        raise ValueError(
            f"x has shape {x.shape} and w {w.shape}; expected [n, h, w, C] and [kh, kw, C, N]"
        )
    check_k(w.shape[2], "channels")
    check_backend(backend)
    x, w = jnp.asarray(x), jnp.asarray(check_floating("w", w))
    product = make_convolution(x, w, options, ste=saturated, dtype=jnp.float32, backend=backend)
    return multiply(product, x, w)


def _check_pixels(x: Shaped) -> None:
    if x.dtype != jnp.uint8:
        raise TypeError(
            f"x has dtype {x.dtype}; pass images as uint8, which count as 2x/255 - 1; for other "
            "inputs multiply in floats: x @ ste_sign(w)"
        )


def _check_length(k: int) -> None:
    if check_k(k) > LARGEST_K:
        raise ValueError(
            f"k is {k}; sums of 8-bit pixels are exact in float32 up to {LARGEST_K} elements "
            "(255 k < 2**24)"
        )


class PixelMatrixProduct(NamedTuple):
    """``uint8[..., k]`` by ``[k, n]``, see :class:`binjax.xnor.product.Product`.

    Attributes:
        k: elements of a row.
        ste: whether w is real and has the straight-through gradient of ``ste_sign``.
        dtype: of the result.
        w_dtype: of w and its gradient.
        backend: see :func:`pixel_matmul`.
        scale: what pixels stand for.
    """

    k: int
    ste: bool
    dtype: jnp.dtype
    w_dtype: jnp.dtype
    backend: str | None
    scale: PixelScale = UNIT

    def pack(self, x: jax.Array, w: jax.Array) -> Words:
        """X as it is, words of w."""
        return _pack(x, w, self.ste, self.backend)

    def result(self, words: Words) -> jax.Array:
        """``[..., n]``."""
        rows = words.x.reshape(math.prod(words.x.shape[:-1]), self.k)
        out: jax.Array
        if self.scale == UNIT:
            out = pixel_ops.matmul(rows, words.w, backend=self.backend)
        else:
            dot = pixel_ops.matmul(rows, words.w, epilogue="int32", backend=self.backend)
            ones = jnp.sum(lax.population_count(words.w), 1).astype(jnp.int32)
            out = self.scale.outputs(dot, 2 * ones - self.k)
        return out.astype(self.dtype).reshape(*words.x.shape[:-1], out.shape[1])

    def pullback(self, words: Words, g: jax.Array) -> tuple[None, jax.Array]:
        """``x.T @ g``."""
        count = math.prod(g.shape[:-1])
        rows = centered(words.x).reshape(count, self.k)
        g = g.reshape(count, g.shape[-1]).astype(jnp.float32)
        gw = (rows.T @ g) * np.float32(self.scale.scale)
        if self.scale.shift:
            gw = gw + np.float32(self.scale.shift) * jnp.sum(g, 0, keepdims=True)
        return None, _masked(gw, words).astype(self.w_dtype)

    def largest(self) -> None:
        """Results are integers over 255."""


class PixelConvolution(NamedTuple):
    """``uint8[n, h, w, C]`` by ``[kh, kw, C, N]``, see :class:`binjax.xnor.product.Product`.

    Attributes:
        geometry: of the convolution.
        kernel: (kh, kw).
        ste, dtype, w_dtype, backend: see :class:`PixelMatrixProduct`.
    """

    geometry: Geometry
    kernel: Pair
    ste: bool
    dtype: jnp.dtype
    w_dtype: jnp.dtype
    backend: str | None

    def pack(self, x: jax.Array, w: jax.Array) -> Words:
        """X as it is, words of w over all taps jointly."""
        return _pack(x, w.reshape(math.prod(w.shape[:3]), w.shape[3]), self.ste, self.backend)

    def result(self, words: Words) -> jax.Array:
        """``[n, oh, ow, N]``."""
        out: jax.Array = pixel_ops.conv(
            words.x, words.w, kernel=self.kernel, geometry=self.geometry, backend=self.backend
        )
        return out.astype(self.dtype)

    def pullback(self, words: Words, g: jax.Array) -> tuple[None, jax.Array]:
        """Windows of q as a matrix: XLA's own gradient of a kernel takes three times as long."""
        rows, n_out = self.geometry.elements(self.kernel), g.shape[3]
        if 0 in g.shape:
            gw = jnp.zeros((rows, n_out), jnp.float32)
        else:
            blocks = over_windows(
                _windows_by_gradient,
                words.x,
                g.astype(jnp.float32),
                kernel=self.kernel,
                geometry=self.geometry,
            )
            gw = jnp.sum(blocks, 0) if blocks.shape[0] > 1 else blocks[0]
        gw = _masked(gw * SCALE, words).reshape(*self.kernel, self.geometry.channels, n_out)
        return None, gw.astype(self.w_dtype)

    def largest(self) -> None:
        """Results are integers over 255."""


def make_matrix_product(
    w: jax.Array,
    *,
    ste: bool,
    dtype: DTypeLike,
    backend: str | None,
    scale: PixelScale = UNIT,
) -> PixelMatrixProduct:
    """The product of pixels with a matrix of this shape and dtype.

    Raises:
        ValueError: too many rows for exact sums.
    """
    _check_length(w.shape[0])
    return PixelMatrixProduct(w.shape[0], ste, jnp.dtype(dtype), w.dtype, backend, scale)


def make_convolution(
    x: jax.Array,
    w: jax.Array,
    options: Options,
    *,
    ste: bool,
    dtype: DTypeLike,
    backend: str | None,
) -> PixelConvolution:
    """The convolution of two arrays of these shapes and dtypes; options are strides, padding and
    dilation.

    Raises:
        ValueError: an option out of range; too many elements for exact sums.
    """
    strides, padding, dilation = options
    geometry = check_geometry(x.shape[1:3], w.shape[:2], w.shape[2], strides, padding, 0, dilation)
    kernel = (w.shape[0], w.shape[1])
    _check_length(geometry.elements(kernel))
    return PixelConvolution(geometry, kernel, ste, jnp.dtype(dtype), w.dtype, backend)


def _pack(x: jax.Array, w: jax.Array, ste: bool, backend: str | None) -> Words:
    # [K, N] to uint32[N, W] and uint32[K, words of N]
    signs, mask = pack_weights(w[None], ste, backend)
    return Words(x, signs[:, 0], None, None if mask is None else mask[0])


def _windows_by_gradient(windows: jax.Array, g: jax.Array) -> jax.Array:
    return windows.reshape(-1, windows.shape[3]).T @ g.reshape(-1, g.shape[3])


def _masked(gw: jax.Array, words: Words) -> jax.Array:
    return gw if words.inside_w is None else where_inside(words.inside_w, gw)
