"""Dense and convolutional layers with binarized inputs, kernels, both or neither."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from binjax.layers.recording import record
from binjax.layers.regular import check_rate, dropout
from binjax.ste import QUANTIZERS, Quantizer, Stochastic, precision

QuantizerLike = str | Quantizer | Stochastic | None
Initializer = Callable[..., jax.Array]


class BinaryWeight(nnx.Param[jax.Array]):
    """A latent weight: real, kept in [-1, 1] by ``clip_latent``, binarized where it is used."""


glorot_uniform = nnx.initializers.glorot_uniform()


class BinaryDense(nnx.Module):
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
        dtype: of the computation; None is the input's.
        param_dtype: of latent weights and bias.
        rngs: used for initialization only.
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
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        _positive("BinaryDense", n_in=n_in, n_out=n_out)
        self.n_in, self.n_out = n_in, n_out
        self.input_quantizer = resolve_quantizer(input_quantizer)
        self.kernel_quantizer = resolve_kernel_quantizer(kernel_quantizer)
        self.dropout = check_rate(dropout)
        self.dtype = dtype
        shape = (n_in, n_out)
        self.kernel = _kernel(kernel_init(rngs.params(), shape, param_dtype), self.kernel_quantizer)
        self.bias = nnx.Param(jnp.zeros(n_out, param_dtype)) if use_bias else None

    def __call__(
        self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> jax.Array:
        """x: ``[..., n_in]``. In training a stochastic quantizer and dropout need ``key``."""
        if x.ndim < 1 or x.shape[-1] != self.n_in:
            raise ValueError(f"BinaryDense takes [..., {self.n_in}] inputs, got shape {x.shape}")
        x, kernel = _operands(self, x, train, key)
        y = _add_bias(x @ kernel, self.bias)
        record(self, "output", y)
        return y


class BinaryConv(nnx.Module):
    """2-D convolution of ``quantize(x)`` (NHWC) with ``quantize(kernel)`` (HWIO).

    Args:
        n_in, n_out: channels.
        kernel_size: (height, width).
        strides: (vertical, horizontal).
        padding: ``"SAME"`` or ``"VALID"``.
        pad_value: what SAME padding puts around the *quantized* input: 0 (as Larq's default),
            or ±1 to stay binary at the border.
        input_quantizer, kernel_quantizer, dropout, use_bias, kernel_init, dtype, param_dtype,
            rngs: see :class:`BinaryDense`.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        kernel_size: Sequence[int] = (3, 3),
        *,
        strides: Sequence[int] = (1, 1),
        padding: str = "SAME",
        pad_value: float = 0.0,
        input_quantizer: QuantizerLike = "ste_sign",
        kernel_quantizer: QuantizerLike = "ste_sign",
        dropout: float = 0.0,
        use_bias: bool = False,
        kernel_init: Initializer = glorot_uniform,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        height, width = _pair("kernel_size", kernel_size)
        self.strides = _pair("strides", strides)
        _positive("BinaryConv", n_in=n_in, n_out=n_out)
        if padding not in ("SAME", "VALID"):
            raise ValueError(f'BinaryConv padding is "SAME" or "VALID", not {padding!r}')
        self.n_in, self.n_out, self.kernel_size = n_in, n_out, (height, width)
        self.padding, self.pad_value = padding, float(pad_value)
        self.input_quantizer = resolve_quantizer(input_quantizer)
        self.kernel_quantizer = resolve_kernel_quantizer(kernel_quantizer)
        self.dropout = check_rate(dropout)
        self.dtype = dtype
        shape = (height, width, n_in, n_out)
        self.kernel = _kernel(kernel_init(rngs.params(), shape, param_dtype), self.kernel_quantizer)
        self.bias = nnx.Param(jnp.zeros(n_out, param_dtype)) if use_bias else None

    def __call__(
        self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> jax.Array:
        """x: ``[n, h, w, n_in]`` to ``[n, h', w', n_out]``."""
        if x.ndim != 4 or x.shape[-1] != self.n_in:
            raise ValueError(f"BinaryConv takes [n, h, w, {self.n_in}] inputs, got shape {x.shape}")
        x, kernel = _operands(self, x, train, key)
        pads = jax.lax.padtype_to_pads(x.shape[1:3], self.kernel_size, self.strides, self.padding)
        if self.pad_value != 0 and any(low or high for low, high in pads):
            x = jnp.pad(x, ((0, 0), *pads, (0, 0)), constant_values=self.pad_value)
            pads = [(0, 0), (0, 0)]
        y = jax.lax.conv_general_dilated(
            x, kernel, self.strides, pads, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        y = _add_bias(y, self.bias)
        record(self, "output", y)
        return y


def resolve_quantizer(quantizer: QuantizerLike) -> Quantizer | Stochastic | None:
    """The quantizer a name stands for; functions and None pass through.

    Raises:
        ValueError: unknown name.
    """
    if not isinstance(quantizer, str):
        return quantizer
    if quantizer not in QUANTIZERS:
        raise ValueError(f"unknown quantizer {quantizer!r}; known: {', '.join(QUANTIZERS)}")
    return QUANTIZERS[quantizer]


def resolve_kernel_quantizer(quantizer: QuantizerLike) -> Quantizer | None:
    """As :func:`resolve_quantizer`; kernels take deterministic quantizers only."""
    found = resolve_quantizer(quantizer)
    if isinstance(found, Stochastic):
        raise ValueError("a kernel quantizer must be deterministic; stochastic ones are for inputs")
    return found


def quantize(
    quantizer: Quantizer | Stochastic | None, x: jax.Array, *, train: bool, key: jax.Array | None
) -> jax.Array:
    """Apply a resolved quantizer; a stochastic one draws in training and needs ``key`` there."""
    if quantizer is None:
        return x
    if not isinstance(quantizer, Stochastic):
        return quantizer(x)
    if not train:
        return quantizer.evaluation(x)
    if key is None:
        raise ValueError("a stochastic input quantizer needs key=jax.random.key(...) in training")
    return quantizer.training(key, x)


def _operands(
    layer: BinaryDense | BinaryConv, x: jax.Array, train: bool, key: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    if layer.input_quantizer is not None:
        record(layer, "preactivation", x)
        x = quantize(layer.input_quantizer, x, train=train, key=_derive(key, 0))
    if train and layer.dropout:
        x = dropout(_derive(key, 1), x, layer.dropout)
    kernel = quantize(layer.kernel_quantizer, layer.kernel[...], train=train, key=None)
    dtype = layer.dtype if layer.dtype is not None else x.dtype
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            f"{type(layer).__name__} computes in a floating dtype, got {dtype} inputs; "
            "scale images to floats first or give dtype="
        )
    return x.astype(dtype), kernel.astype(dtype)


def _derive(key: jax.Array | None, use: int) -> jax.Array | None:
    return None if key is None else jax.random.fold_in(key, use)


def _add_bias(y: jax.Array, bias: nnx.Param[jax.Array] | None) -> jax.Array:
    return y if bias is None else y + bias[...].astype(y.dtype).reshape((1,) * (y.ndim - 1) + (-1,))


def _kernel(value: jax.Array, quantizer: Quantizer | None) -> nnx.Param[jax.Array]:
    return nnx.Param(value) if precision(quantizer) == 32 else BinaryWeight(value)


def _pair(name: str, value: Sequence[int]) -> tuple[int, int]:
    pair = tuple(value)
    if len(pair) != 2 or min(pair) < 1:
        raise ValueError(f"BinaryConv {name} is two positive integers, not {value}")
    return pair[0], pair[1]


def _positive(layer: str, **sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{layer}: {name} is {size}, must be at least 1")
