"""What convolutions that are made of several products of words have in common."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from binjax.layers.base import BinaryLayer, Initializer, glorot_uniform, plus_bias, scaled
from binjax.layers.quantize import QuantizerLike
from binjax.layers.recording import record
from binjax.xnor.conv import binary_conv

Spans = tuple[tuple[int, int], ...]


class ComposedLayer(BinaryLayer):
    """A layer whose product is a sum or an arrangement of 2-D convolutions or matrix products.

    A subclass says how, of operands that are quantized already: ``check`` and ``_compose``.
    """

    one_product = False

    def __init__(
        self,
        kernel_shape: Sequence[int],
        *,
        pad_value: float = 0.0,
        groups: int = 1,
        input_quantizer: QuantizerLike = "ste_sign",
        kernel_quantizer: QuantizerLike = "ste_sign",
        use_bias: bool = False,
        kernel_init: Initializer = glorot_uniform,
        backend: str = "auto",
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        super().__init__(
            kernel_shape,
            groups=groups,
            input_quantizer=input_quantizer,
            kernel_quantizer=kernel_quantizer,
            dropout=0.0,
            pad_value=pad_value,
            use_bias=use_bias,
            kernel_init=kernel_init,
            pixels=False,
            backend=backend,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )

    def __call__(
        self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> jax.Array:
        """x: inputs, the last axis ``n_in``; ``key`` for a stochastic quantizer in training."""
        self.check(x)
        packed = self.floats_because(train=train) is None
        x, kernel, scale = self._quantized(x, train, key, (False, False))
        y = self._compose(x, kernel.astype(x.dtype), packed)
        y = plus_bias(scaled(y, scale), None if self.bias is None else self.bias[...])
        record(self, "output", y)
        return y

    def _compose(self, x: jax.Array, kernel: jax.Array, packed: bool) -> jax.Array:
        """The product of quantized operands, ±1 if ``packed``."""
        raise NotImplementedError

    def _conv(
        self,
        x: jax.Array,
        kernel: jax.Array,
        packed: bool,
        *,
        strides: tuple[int, int] = (1, 1),
        border: Spans = ((0, 0), (0, 0)),
        pad_value: float = 0.0,
        dilation: tuple[int, int] = (1, 1),
    ) -> jax.Array:
        """A 2-D convolution ``[n, h, w, C]`` by ``[kh, kw, C/groups, N]`` of either kind."""
        if packed:
            return binary_conv(
                x,
                kernel,
                strides=strides,
                padding=border,
                pad_value=int(pad_value),
                dilation=dilation,
                groups=self.groups,
                backend=self._kernels,
            )
        if pad_value != 0:
            x = jnp.pad(x, ((0, 0), *border, (0, 0)), constant_values=pad_value)
            border = ((0, 0), (0, 0))
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            strides,
            border,
            rhs_dilation=dilation,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=self.groups,
        )


def spans(
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilation: Sequence[int],
    padding: str | Sequence[Sequence[int]],
) -> Spans:
    """(before, after) of each axis, of "SAME", "VALID" or explicit pairs."""
    if not isinstance(padding, str):
        return tuple((int(low), int(high)) for low, high in padding)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    pairs = jax.lax.padtype_to_pads(sizes, reach, strides, padding)
    return tuple((int(low), int(high)) for low, high in pairs)


def several(layer: str, name: str, value: int | Sequence[int], n: int) -> tuple[int, ...]:
    """``n`` positive integers; one stands for all.

    Raises:
        ValueError: anything else.
    """
    found = (value,) * n if isinstance(value, int) else tuple(value)
    if len(found) != n or min(found) < 1:
        raise ValueError(f"{layer} {name} is {value}; expected {n} positive integers")
    return found


def check_padding_nd(layer: str, padding: str | Sequence[Sequence[int]], n: int) -> None:
    """Refuse a padding that is neither "SAME", "VALID" nor ``n`` pairs.

    Raises:
        ValueError: it is.
    """
    if isinstance(padding, str):
        good = padding in ("SAME", "VALID")
    else:
        good = len(padding) == n and all(len(p) == 2 and min(p) >= 0 for p in padding)
    if not good:
        raise ValueError(
            f'{layer} padding is {padding!r}; choose "SAME", "VALID" or {n} pairs (before, after)'
        )
