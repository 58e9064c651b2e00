"""What layers with binarized inputs, kernels, both or neither have in common.

Where both operands are ±1 the product runs on packed words (``binjax.xnor``), forward and
backward, and bits are what is kept between the two; else it is a product of floats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from binjax.layers.arguments import check_dtype
from binjax.layers.choice import Operands, check_choice, floats_because
from binjax.layers.quantize import (
    QuantizerLike,
    quantize,
    resolve_kernel_quantizer,
    resolve_quantizer,
)
from binjax.layers.recording import record
from binjax.layers.regular import check_rate, dropout
from binjax.rounding import apart
from binjax.ste import Quantizer, factors_of, precision, ste_sign
from binjax.ste.arguments import number
from binjax.xnor.arguments import refuse_nan
from binjax.xnor.pixel_scale import UNIT, PixelScale
from binjax.xnor.product import Product, multiply

Initializer = Callable[..., jax.Array]


class BinaryWeight(nnx.Param[jax.Array]):
    """A latent weight: real, kept in [-1, 1] by ``clip_latent``, binarized where it is used."""


glorot_uniform = nnx.initializers.glorot_uniform()


class Factors(NamedTuple):
    """A layer's operands, ready to be multiplied.

    Attributes:
        product: how, on packed words; None for a product of floats.
        x, kernel: real where the product takes their sign itself, else quantized.
        scale: what the product is multiplied by, ``[n_out]`` or a scalar; None for 1.
    """

    product: Product | None
    x: jax.Array
    kernel: jax.Array
    scale: jax.Array | None = None


class BinaryLayer(nnx.Module):
    """What dense and convolutional layers share.

    A subclass says how two arrays are multiplied: ``check``, ``_float_product``, ``_product`` and
    ``_pixel_product`` are its own.
    """

    one_product = True
    """Whether the layer is one product of words, which a chain may multiply again."""

    def __init__(
        self,
        kernel_shape: Sequence[int],
        *,
        input_quantizer: QuantizerLike,
        kernel_quantizer: QuantizerLike,
        dropout: float,
        pad_value: float,
        use_bias: bool,
        kernel_init: Initializer,
        pixels: bool | PixelScale,
        backend: str,
        dtype: DTypeLike | None,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
        groups: int = 1,
        n_in: int | None = None,
    ):
        *before, rows, n_out = kernel_shape
        n_in = rows * groups if n_in is None else n_in
        layer = type(self).__name__
        self.n_in, self.n_out, self.groups = n_in, n_out, groups
        self.input_quantizer = resolve_quantizer(input_quantizer, n_in, f"{layer}: input_quantizer")
        self.kernel_quantizer = resolve_kernel_quantizer(
            kernel_quantizer, n_out, f"{layer}: kernel_quantizer"
        )
        self.dropout = check_rate(dropout, f"{layer}: dropout")
        self.pad_value = float(number(f"{layer}: pad_value", pad_value, least=-math.inf))
        self.pixels = UNIT if pixels is True else pixels or None
        self.backend, self.dtype = backend, check_dtype(layer, "dtype", dtype)
        check_dtype(layer, "param_dtype", param_dtype)
        if not callable(kernel_init):
            raise ValueError(f"{layer}: kernel_init is {kernel_init!r}; expected an initializer")
        self.taps = math.prod(before)
        self.elements = self.taps * rows
        check_choice(layer, backend, self.operands)
        value = kernel_init(rngs.params(), tuple(kernel_shape), param_dtype)
        self.kernel = _kernel(value, self.kernel_quantizer)
        self.bias = nnx.Param(jnp.zeros(n_out, param_dtype)) if use_bias else None

    @property
    def operands(self) -> Operands:
        """What the choice of a kernel depends on."""
        return Operands(
            pixels=self.pixels is not None,
            input_quantizer=self.input_quantizer,
            kernel_quantizer=self.kernel_quantizer,
            dropout=self.dropout,
            pad_value=self.pad_value,
            elements=self.elements,
            taps=self.taps,
            groups=self.groups,
        )

    def floats_because(self, *, train: bool) -> str | None:
        """Why the layer multiplies floats; None if it multiplies bits."""
        return floats_because(self.backend, self.operands, train=train)

    def __call__(
        self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> jax.Array:
        """x: inputs, the last axis ``n_in``. In training a stochastic quantizer and dropout need
        ``key``.
        """
        self.check(x)
        factors = self.factors(x, train=train, key=key)
        if factors.product is None:
            y = self._float_product(factors.x, factors.kernel)
        else:
            y = multiply(factors.product, factors.x, factors.kernel)
        if factors.scale is not None:
            y = scaled(y, factors.scale)
            y = y if train else apart(y)  # thresholds are folded from these very values
        y = plus_bias(y, None if self.bias is None else self.bias[...])
        record(self, "output", y)
        return y

    def factors(self, x: jax.Array, *, train: bool, key: jax.Array | None) -> Factors:
        """The operands of the product and how they are multiplied."""
        if self.pixels is not None:
            return self._pixel_factors(x, self.pixels, train, key)
        packed = self.floats_because(train=train) is None
        if packed:
            refuse_nan(f"{type(self).__name__}: x", x)
        fused = (
            packed and self.input_quantizer is ste_sign,
            packed and self.kernel_quantizer is ste_sign,
        )
        x, kernel, scale = self._quantized(x, train, key, fused)
        if not packed:
            return Factors(None, x, kernel.astype(x.dtype), scale)
        return Factors(self._product(x, kernel, fused), x, kernel, scale)

    def _quantized(
        self, x: jax.Array, train: bool, key: jax.Array | None, fused: tuple[bool, bool]
    ) -> tuple[jax.Array, jax.Array, jax.Array | None]:
        """Input, kernel and scale; input and kernel real where they are fused with the product."""
        fused_x, fused_kernel = fused
        if self.input_quantizer is not None:
            record(self, "preactivation", x)
        if not fused_x:
            x = quantize(self.input_quantizer, x, train=train, key=_derive(key, 0))
            if train and self.dropout:
                x = dropout(_derive(key, 1), x, self.dropout)
        dtype = self.dtype if self.dtype is not None else x.dtype
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(
                f"{type(self).__name__} computes in a floating dtype, got {dtype} inputs; "
                "scale images to floats first, give dtype=, or pixels=True for 8-bit images"
            )
        return x.astype(dtype), *self._signs(fused_kernel)

    def macs(self, output_shape: Sequence[int]) -> int:
        """Multiply-accumulates for one output of this shape, without the batch."""
        return math.prod(self.kernel.shape) * math.prod(output_shape[:-1])

    def check(self, x: jax.Array) -> None:
        """Refuse an input of another shape or, for pixels, dtype."""
        raise NotImplementedError

    def _pixel_factors(
        self, x: jax.Array, scale: PixelScale, train: bool, key: jax.Array | None
    ) -> Factors:
        if x.dtype != jnp.uint8:
            raise TypeError(
                f"{type(self).__name__} with pixels=True takes uint8 images, got {x.dtype}; "
                "pixels=False takes scaled ones"
            )
        dtype = jnp.float32 if self.dtype is None else self.dtype
        if train and self.dropout:
            real = dropout(_derive(key, 1), scale.inputs(x).astype(dtype), self.dropout)
            return Factors(None, real, self._quantized_kernel().astype(dtype))
        fused = self.kernel_quantizer is ste_sign
        kernel, factor = self._signs(fused)
        return Factors(self._pixel_product(x, kernel, fused, dtype), x, kernel, factor)

    def _signs(self, fused: bool) -> tuple[jax.Array, jax.Array | None]:
        """The kernel for a product of bits, real if that takes its sign, and its scale."""
        if fused:
            return self.kernel[...], None
        split = factors_of(self.kernel_quantizer)
        return (self._quantized_kernel(), None) if split is None else split(self.kernel[...])

    def _quantized_kernel(self) -> jax.Array:
        return quantize(self.kernel_quantizer, self.kernel[...], train=False, key=None)

    def _float_product(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        raise NotImplementedError

    def _product(self, x: jax.Array, kernel: jax.Array, ste: tuple[bool, bool]) -> Product:
        raise NotImplementedError

    def _pixel_product(
        self, x: jax.Array, kernel: jax.Array, ste: bool, dtype: DTypeLike
    ) -> Product:
        raise NotImplementedError

    @property
    def _kernels(self) -> str | None:
        # Pixels are exact in float products too: the portable form is one.
        return {"auto": None, "float": "xla"}.get(self.backend, self.backend)


def scaled(y: jax.Array, scale: jax.Array | None) -> jax.Array:
    """The product of y and a scale along its last axis (or a scalar), or y where there is none."""
    if scale is None:
        return y
    return y * scale.astype(y.dtype).reshape((1,) * (y.ndim - 1) + (-1,))


def plus_bias(y: jax.Array, bias: jax.Array | None) -> jax.Array:
    """The sum of y and the bias along the last axes, or y where there is no bias."""
    if bias is None:
        return y
    return y + bias.astype(y.dtype).reshape((1,) * (y.ndim - bias.ndim) + bias.shape)


def _derive(key: jax.Array | None, use: int) -> jax.Array | None:
    return None if key is None else jax.random.fold_in(key, use)


def _kernel(value: jax.Array, quantizer: Quantizer | None) -> nnx.Param[jax.Array]:
    bits = precision(quantizer)
    return nnx.Param(value) if bits is not None and bits > 2 else BinaryWeight(value)
