"""Locally connected layers: a kernel of its own for every place of the output."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from binjax.layers.arguments import channels, several
from binjax.layers.composed import ComposedLayer
from binjax.xnor.matmul import binary_matmul


class BinaryLocallyConnected(ComposedLayer):
    """A convolution whose kernels are not shared: ``[n, h, w, n_in]`` or ``[n, t, n_in]``.

    No padding, as in Keras. The kernel is ``[places, taps·n_in, n_out]``, places and taps row by
    row, a tap's channels together. A kernel quantizer's scale is one number per output channel.

    Args:
        n_in, n_out: channels.
        size: (height, width) of the input, or its length.
        kernel_size, strides: as many numbers, or one for all.
        **options: see :class:`BinaryConv1D`. Biases are per place and channel, as in Keras.

    Raises:
        ValueError: sizes below 1, a window that does not fit.
        TypeError: an unknown option.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        size: int | Sequence[int],
        kernel_size: int | Sequence[int] = 3,
        *,
        strides: int | Sequence[int] = 1,
        rngs: nnx.Rngs,
        **options: Any,
    ):
        name = "BinaryLocallyConnected"
        n_in, n_out, _ = channels(name, n_in, n_out)
        axes = len(size) if isinstance(size, Sequence) else 1
        if axes not in (1, 2):
            raise ValueError(f"{name}: size is {size}; expected (height, width) or a length")
        self.size = several(name, "size", size, axes)
        self.kernel_size = several(name, "kernel_size", kernel_size, axes)
        self.strides = several(name, "strides", strides, axes)
        places = [
            (n - k) // s + 1
            for n, k, s in zip(self.size, self.kernel_size, self.strides, strict=True)
        ]
        if min(places) < 1:
            raise ValueError(f"{name}: windows of {self.kernel_size} do not fit into {self.size}")
        self.places = tuple(places)
        window, count = math.prod(self.kernel_size), math.prod(places)
        super().__init__((count, window * n_in, n_out), options, n_in=n_in, rngs=rngs)
        self.taps, self.elements = 1, window * n_in
        if self.bias is not None:
            self.bias = nnx.Param(jnp.zeros((*places, n_out), self.bias.dtype))

    def macs(self, output_shape: Sequence[int]) -> int:
        """Each weight is used once."""
        return math.prod(self.kernel.shape)

    def check(self, x: jax.Array) -> None:
        """``[n, *size, n_in]``."""
        wanted = (*self.size, self.n_in)
        if x.ndim != len(wanted) + 1 or x.shape[1:] != wanted:
            raise ValueError(
                f"BinaryLocallyConnected takes [n, {', '.join(map(str, wanted))}] inputs, got "
                f"shape {x.shape}"
            )

    def _compose(self, x: jax.Array, kernel: jax.Array, packed: bool) -> jax.Array:
        if len(self.size) == 1:
            y = self._places(x[:, None], (1, *self.kernel_size), (1, *self.strides), kernel, packed)
        else:
            y = self._places(x, self.kernel_size, self.strides, kernel, packed)
        return y.reshape(x.shape[0], *self.places, self.n_out)

    def _places(
        self,
        x: jax.Array,
        window: Sequence[int],
        strides: Sequence[int],
        kernel: jax.Array,
        packed: bool,
    ) -> jax.Array:
        rows = (x.shape[1] - window[0]) // strides[0] + 1
        columns = (x.shape[2] - window[1]) // strides[1] + 1
        taps = [
            x[
                :,
                i : i + (rows - 1) * strides[0] + 1 : strides[0],
                j : j + (columns - 1) * strides[1] + 1 : strides[1],
            ]
            for i in range(window[0])
            for j in range(window[1])
        ]
        patches = jnp.concatenate(taps, -1)
        patches = patches.reshape(x.shape[0], rows * columns, kernel.shape[1])
        if not packed:
            return jnp.einsum("npk,pko->npo", patches, kernel)
        multiply = functools.partial(binary_matmul, backend=self._kernels)
        y: jax.Array = jax.vmap(multiply, (1, 0), 1)(patches, kernel)
        return y
