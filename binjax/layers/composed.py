"""What convolutions that are made of several products of words have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from binjax.layers.base import BinaryLayer, glorot_uniform, plus_bias, scaled
from binjax.layers.grouped import convolve
from binjax.layers.recording import record
from binjax.xnor.conv import binary_conv

Spans = tuple[tuple[int, int], ...]

OPTIONS: Mapping[str, Any] = MappingProxyType(
    {
        "input_quantizer": "ste_sign",
        "kernel_quantizer": "ste_sign",
        "dropout": 0.0,
        "use_bias": False,
        "kernel_init": glorot_uniform,
        "backend": "auto",
        "dtype": None,
        "param_dtype": jnp.float32,
    }
)
"""What all composed layers take, see :class:`binjax.layers.BinaryDense`, and the defaults."""


class ComposedLayer(BinaryLayer):
    """A layer whose product is a sum or an arrangement of 2-D convolutions or matrix products.

    A subclass says how, of operands that are quantized already: ``check`` and ``_compose``.
    """

    one_product = False
    sums = False
    """Whether results of products are added up."""

    def __init__(
        self,
        kernel_shape: Sequence[int],
        options: Mapping[str, Any],
        *,
        pad_value: float = 0.0,
        groups: int = 1,
        n_in: int | None = None,
        rngs: nnx.Rngs,
    ):
        unknown = sorted(options.keys() - OPTIONS.keys())
        if unknown:
            raise TypeError(
                f"{type(self).__name__} has no option {unknown[0]!r}; it has {', '.join(OPTIONS)}"
            )
        super().__init__(
            kernel_shape,
            groups=groups,
            n_in=n_in,
            pad_value=pad_value,
            pixels=False,
            rngs=rngs,
            **{**OPTIONS, **options},
        )

    def __call__(
        self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> jax.Array:
        """x: inputs, the last axis ``n_in``; ``key`` for a stochastic quantizer or dropout in
        training.
        """
        self.check(x)
        packed = self.floats_because(train=train) is None
        x, kernel, scale = self._quantized(x, train, key, (False, False))
        # A sum of several products is rounded once, not product by product.
        wide = jnp.promote_types(x.dtype, jnp.float32) if self.sums else x.dtype
        y = self._compose(x.astype(wide), kernel.astype(wide), packed).astype(x.dtype)
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
        return convolve(x, kernel, strides, border, dilation, self.groups)


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
