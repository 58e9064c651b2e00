"""Dense and convolutional layers with binarized inputs, kernels, both or neither."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from binjax.layers.arguments import channels, check_padding, two
from binjax.layers.base import BinaryLayer, Initializer, glorot_uniform
from binjax.layers.grouped import convolve
from binjax.layers.quantize import QuantizerLike
from binjax.xnor import conv, matmul, pixels
from binjax.xnor.geometry import Padding, pads
from binjax.xnor.pixel_scale import UNIT, PixelScale
from binjax.xnor.product import Product


class BinaryDense(BinaryLayer):
    """``quantize(x) @ quantize(kernel)``: ``[..., n_in]`` to ``[..., n_out]``.

    Args:
        n_in, n_out: features.
        input_quantizer: name in ``QUANTIZERS``, a function, a ``Stochastic`` pair, or None to
            take the input as it is (a first layer, or a weights-only network).
        kernel_quantizer: likewise, but not ``Stochastic``. With None, or a quantizer declared to
            have 32 bits, the kernel is an ordinary ``nnx.Param`` and not a :class:`BinaryWeight`.
        dropout: rate at which *quantized* inputs are zeroed in training, the others divided by
            ``1 - dropout``; after a sign at rate 0.5 that makes {-2, 0, 2} of ±1, as in
            BinaryNet's MNIST network.
        use_bias: add a learned bias (redundant in front of batch normalization).
        kernel_init: initializer of the latent weights.
        pixels: inputs are 8-bit pixels p, multiplied exactly as ``2p/255 - 1`` (see
            ``binjax.pixel_matmul``), or as a :class:`~binjax.layers.PixelScale` says; calls then
            take uint8. With dropout, training multiplies floats.
        backend: who multiplies ±1 by ±1: "xla", "native" or "triton" kernels on packed words,
            "auto" for the best of them where both operands are binary and floats elsewhere, or
            "float"; :meth:`floats_because` says which, and why.
        dtype: of the computation; None is the input's, and float32 for pixels.
        param_dtype: of latent weights and bias.
        rngs: used for initialization only.

    Raises:
        ValueError: sizes below 1, unknown names, a packed back end for operands that are not
            binary, pixels together with what they do not go with.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        input_quantizer: QuantizerLike = "ste_sign",
        kernel_quantizer: QuantizerLike = "ste_sign",
        dropout: float = 0.0,
        use_bias: bool = False,
        kernel_init: Initializer = glorot_uniform,
        pixels: bool | PixelScale = False,
        backend: str = "auto",
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        n_in, n_out, _ = channels("BinaryDense", n_in, n_out)
        super().__init__(
            (n_in, n_out),
            input_quantizer=None if pixels and input_quantizer == "ste_sign" else input_quantizer,
            kernel_quantizer=kernel_quantizer,
            dropout=dropout,
            pad_value=0,
            use_bias=use_bias,
            kernel_init=kernel_init,
            pixels=pixels,
            backend=backend,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )

    def check(self, x: jax.Array) -> None:
        """``[..., n_in]``."""
        if x.ndim < 1 or x.shape[-1] != self.n_in:
            raise ValueError(f"BinaryDense takes [..., {self.n_in}] inputs, got shape {x.shape}")

    def _float_product(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        return x @ kernel

    def _product(self, x: jax.Array, kernel: jax.Array, ste: tuple[bool, bool]) -> Product:
        return matmul.make_product(x, kernel, ste=ste, backend=self._kernels)

    def _pixel_product(
        self, x: jax.Array, kernel: jax.Array, ste: bool, dtype: DTypeLike
    ) -> Product:
        assert self.pixels is not None
        return pixels.make_matrix_product(
            kernel, ste=ste, dtype=dtype, backend=self._kernels, scale=self.pixels
        )


class BinaryConv(BinaryLayer):
    """2-D convolution of ``quantize(x)`` (NHWC) with ``quantize(kernel)`` (HWIO).

    Args:
        n_in, n_out: channels.
        kernel_size: (height, width), or one number for both.
        strides, dilation: (vertical, horizontal), or one number for both.
        padding: ``"SAME"``, ``"VALID"`` or ``((top, bottom), (left, right))``.
        pad_value: what padding puts around the *quantized* input: 0 (as Larq's default), or ±1 to
            stay binary at the border; any other number makes a product of floats.
        groups: of channels, each convolved alone: the kernel is ``[kh, kw, n_in/groups, n_out]``.
        input_quantizer, kernel_quantizer, dropout, use_bias, kernel_init, pixels, backend,
            dtype, param_dtype, rngs: see :class:`BinaryDense`.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        kernel_size: int | Sequence[int] = (3, 3),
        *,
        strides: int | Sequence[int] = (1, 1),
        padding: Padding = "SAME",
        pad_value: float = 0.0,
        dilation: int | Sequence[int] = (1, 1),
        groups: int = 1,
        input_quantizer: QuantizerLike = "ste_sign",
        kernel_quantizer: QuantizerLike = "ste_sign",
        dropout: float = 0.0,
        use_bias: bool = False,
        kernel_init: Initializer = glorot_uniform,
        pixels: bool | PixelScale = False,
        backend: str = "auto",
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        name = type(self).__name__
        self.kernel_size, self.strides = (
            two(name, "kernel_size", kernel_size),
            two(name, "strides", strides),
        )
        self.dilation = two(name, "dilation", dilation)
        n_in, n_out, groups = channels(name, n_in, n_out, groups)
        self.padding = check_padding(name, padding, 2)
        if pixels and (groups != 1 or self.dilation != (1, 1) or not isinstance(padding, str)):
            raise ValueError(
                "BinaryConv takes pixels without groups and dilation, with SAME or VALID padding"
            )
        if isinstance(pixels, PixelScale) and pixels != UNIT:
            raise ValueError("BinaryConv takes pixels scaled to [-1, 1] only: pixels=True")
        super().__init__(
            (*self.kernel_size, n_in // groups, n_out),
            groups=groups,
            input_quantizer=None if pixels and input_quantizer == "ste_sign" else input_quantizer,
            kernel_quantizer=kernel_quantizer,
            dropout=dropout,
            pad_value=pad_value,
            use_bias=use_bias,
            kernel_init=kernel_init,
            pixels=pixels,
            backend=backend,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )

    def check(self, x: jax.Array) -> None:
        """``[n, h, w, n_in]``."""
        if x.ndim != 4 or x.shape[-1] != self.n_in:
            raise ValueError(
                f"{type(self).__name__} takes [n, h, w, {self.n_in}] inputs, got shape {x.shape}"
            )

    def _float_product(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        border = pads(x.shape[1:3], self.kernel_size, self.strides, self.padding, self.dilation)
        if self.pad_value != 0 and any(low or high for low, high in border):
            x = jnp.pad(x, ((0, 0), *border, (0, 0)), constant_values=self.pad_value)
            border = ((0, 0), (0, 0))
        return convolve(x, kernel, self.strides, border, self.dilation, self.groups)

    def _product(self, x: jax.Array, kernel: jax.Array, ste: tuple[bool, bool]) -> Product:
        options = (self.strides, self.padding, int(self.pad_value), self.dilation, self.groups)
        return conv.make_product(x, kernel, options, ste=ste, backend=self._kernels)

    def _pixel_product(
        self, x: jax.Array, kernel: jax.Array, ste: bool, dtype: DTypeLike
    ) -> Product:
        assert isinstance(self.padding, str)
        options = (self.strides, self.padding, (1, 1))
        return pixels.make_convolution(
            x, kernel, options, ste=ste, dtype=dtype, backend=self._kernels
        )
