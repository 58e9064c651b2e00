"""Convolutions of real images and kernels taken as ±1, with straight-through gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from binjax.xnor import ops
from binjax.xnor.arguments import as_shaped, check_floating, check_k
from binjax.xnor.dispatch import check_backend
from binjax.xnor.geometry import Geometry, Padding, Pair, check_geometry, check_groups
from binjax.xnor.gradient_ops import input_gradient, kernel_gradient
from binjax.xnor.packed_conv import convolve
from binjax.xnor.product import Words, masks, multiply, pack_operand, pack_weights

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
    x, w = as_shaped(x), as_shaped(w)
    if x.ndim != 4 or w.ndim != 4:
        raise ValueError(
            f"{names[0]} has shape {x.shape} and {names[1]} {w.shape}; expected [n, h, w, C] and "
            "[kh, kw, C/groups, N]"
        )
    groups = options[-1]
    check_groups(groups, x.shape[3], w.shape[3])
    channels = check_k(w.shape[2], "channels")
    if x.shape[3] != groups * channels:
        raise ValueError(
            f"{names[0]} has {x.shape[3]} channels, {names[1]} of shape {w.shape} takes "
            f"{groups * channels} in {groups} group(s)"
        )
    check_backend(backend)
    x, w = check_floating(names[0], x), check_floating(names[1], w)
    x, w = jnp.asarray(x), jnp.asarray(w)
    product = make_product(x, w, options, ste=(saturated, saturated), backend=backend)
    return multiply(product, x, w)


class Convolution(NamedTuple):
    """``[n, h, w, C]`` by ``[kh, kw, C/groups, N]``, see :class:`binjax.xnor.product.Product`.

    Attributes:
        geometry, groups: of the convolution.
        kernel: (kh, kw).
        ste: whether x, and whether w, is real and has the straight-through gradient of
            ``ste_sign``; else it is ±1 and has the convolution's.
        dtypes: of x (and the result) and of w.
        backend: see :func:`binjax.packed_conv`.
    """

    geometry: Geometry
    groups: int
    kernel: Pair
    ste: tuple[bool, bool]
    dtypes: tuple[jnp.dtype, jnp.dtype]
    backend: str | None

    def pack(self, x: jax.Array, w: jax.Array) -> Words:
        """Words ``[n, h, w, groups, Cw]`` of x and ``[N, kh, kw, Cw]`` of w."""
        by_group = x.reshape(*x.shape[:3], self.groups, self.geometry.channels)
        signs_x, inside_x = pack_operand(by_group, self.ste[0], self.backend)
        high, wide, n_in, n_out = w.shape
        taps = w.reshape(high * wide, n_in, n_out)
        signs_w, inside_w = pack_weights(taps, self.ste[1], self.backend)
        return Words(
            signs_x,
            signs_w.reshape(n_out, high, wide, signs_w.shape[-1]),
            inside_x,
            None if inside_w is None else inside_w.reshape(high, wide, n_in, inside_w.shape[-1]),
        )

    def result(self, words: Words) -> jax.Array:
        """``[n, oh, ow, N]``."""
        operands, epilogue = ops.float_result(self.dtypes[0], words.w.shape[0])
        dot = convolve(
            words.x,
            words.w,
            *operands,
            geometry=self.geometry,
            epilogue=epilogue,
            backend=self.backend,
        )
        return dot.astype(self.dtypes[0])

    def pullback(self, words: Words, g: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Gradients of images and kernels."""
        mask_x, mask_w = masks(words)
        geometry, backend = self.geometry, self.backend
        image = (words.x.shape[1], words.x.shape[2])
        gx = input_gradient(
            g,
            words.w,
            *mask_x,
            geometry=geometry,
            image=image,
            groups=self.groups,
            backend=backend,
        )
        gw = kernel_gradient(
            g, words.x, *mask_w, geometry=geometry, kernel=self.kernel, backend=backend
        )
        return gx.astype(self.dtypes[0]), gw.astype(self.dtypes[1])

    def largest(self) -> int:
        """Products summed into one output."""
        return self.geometry.elements(self.kernel)


def make_product(
    x: jax.Array, w: jax.Array, options: Options, *, ste: tuple[bool, bool], backend: str | None
) -> Convolution:
    """The convolution of two arrays of these shapes and dtypes.

    Args:
        x, w: images and kernels, of shapes that fit; only shapes and dtypes matter.
        options: strides, padding, pad_value, dilation, groups.
        ste, backend: see :class:`Convolution`.

    Raises:
        ValueError: an option out of range.
    """
    strides, padding, pad_value, dilation, groups = options
    geometry = check_geometry(
        x.shape[1:3], w.shape[:2], w.shape[2], strides, padding, pad_value, dilation
    )
    kernel = (w.shape[0], w.shape[1])
    return Convolution(geometry, groups, kernel, ste, (x.dtype, w.dtype), backend)
