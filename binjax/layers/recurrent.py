"""Recurrent cells whose products are of bits, and their loop over time."""

from __future__ import annotations

from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from binjax.layers.binary import BinaryDense
from binjax.layers.quantize import QuantizerLike
from binjax.layers.recording import record


class Cell(Protocol):
    """One step in time."""

    def start(self, n: int, dtype: Any) -> Any:
        """The state before the first step, of ``n`` sequences."""

    def __call__(
        self, x: jax.Array, state: Any, *, train: bool = False, key: jax.Array | None = None
    ) -> tuple[jax.Array, Any]:
        """From ``[n, n_in]`` and the state to the output ``[n, n_out]`` and the next state."""


class _Gates(nnx.Module):
    """``count`` gates: quantized input and hidden state times quantized kernels, and biases."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        count: int,
        *,
        input_quantizer: QuantizerLike,
        hidden_quantizer: QuantizerLike,
        kernel_quantizer: QuantizerLike,
        rngs: nnx.Rngs,
        **options: Any,
    ):
        self.n_in, self.n_out = n_in, n_out
        shared = {"kernel_quantizer": kernel_quantizer, "rngs": rngs, **options}
        self.inputs = BinaryDense(
            n_in, count * n_out, input_quantizer=input_quantizer, use_bias=True, **shared
        )
        self.hidden = BinaryDense(n_out, count * n_out, input_quantizer=hidden_quantizer, **shared)

    def parts(
        self, x: jax.Array, h: jax.Array, train: bool, key: jax.Array | None
    ) -> tuple[list[jax.Array], list[jax.Array]]:
        """The gates' contributions of input and hidden state, ``[n, n_out]`` each."""
        keys = (None if key is None else jax.random.fold_in(key, i) for i in range(2))
        both = (
            layer(value, train=train, key=own)
            for layer, value, own in zip((self.inputs, self.hidden), (x, h), keys, strict=True)
        )
        of_x, of_h = (
            [y[:, i : i + self.n_out] for i in range(0, y.shape[1], self.n_out)] for y in both
        )
        return of_x, of_h


class BinaryLSTMCell(nnx.Module):
    """Long short-term memory with products of bits; the cell state stays real.

    ``i, f, o = sigmoid(...)``, ``g = tanh(...)``, ``c = f c + i g``, ``h = o tanh(c)``, where the
    dots are ``quantize(x) quantize(W) + quantize(h) quantize(U) + b`` (Hochreiter & Schmidhuber
    1997; with binary weights Ardakani et al. 2019). Kernels are scaled by their mean magnitude
    unless told
    otherwise: sums of ±1 would saturate the gates. Forget biases begin at 1.

    Args:
        n_in, n_out: features of input and hidden state.
        input_quantizer, hidden_quantizer, kernel_quantizer: see :class:`BinaryDense`. The hidden
            state is in (-1, 1): ``ste_sign`` passes all its gradients.
        **options: ``kernel_init``, ``backend``, ``dtype``, ``param_dtype``.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        input_quantizer: QuantizerLike = "ste_sign",
        hidden_quantizer: QuantizerLike = "ste_sign",
        kernel_quantizer: QuantizerLike = "magnitude_aware_sign",
        rngs: nnx.Rngs,
        **options: Any,
    ):
        self.gates = _Gates(
            n_in,
            n_out,
            4,
            input_quantizer=input_quantizer,
            hidden_quantizer=hidden_quantizer,
            kernel_quantizer=kernel_quantizer,
            rngs=rngs,
            **options,
        )
        assert self.gates.inputs.bias is not None
        bias = self.gates.inputs.bias
        bias[...] = bias[...].at[n_out : 2 * n_out].set(1)

    def start(self, n: int, dtype: Any) -> tuple[jax.Array, jax.Array]:
        """Hidden and cell state, zeros ``[n, n_out]``."""
        zeros = jnp.zeros((n, self.gates.n_out), dtype)
        return zeros, zeros

    def __call__(
        self,
        x: jax.Array,
        state: tuple[jax.Array, jax.Array],
        *,
        train: bool = False,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """x: ``[n, n_in]``; gives the hidden state, and both states."""
        h, c = state
        of_x, of_h = self.gates.parts(x, h, train, key)
        i, f, g, o = (a + b for a, b in zip(of_x, of_h, strict=True))
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return h, (h, c)


class BinaryGRUCell(nnx.Module):
    """Gated recurrent unit with products of bits.

    ``z, r = sigmoid(...)``, ``g = tanh(quantize(x) W + b + r (quantize(h) U))``,
    ``h = z h + (1 - z) g`` (Cho et al. 2014, with the reset behind the product, as in cuDNN).
    Arguments as for :class:`BinaryLSTMCell`.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        input_quantizer: QuantizerLike = "ste_sign",
        hidden_quantizer: QuantizerLike = "ste_sign",
        kernel_quantizer: QuantizerLike = "magnitude_aware_sign",
        rngs: nnx.Rngs,
        **options: Any,
    ):
        self.gates = _Gates(
            n_in,
            n_out,
            3,
            input_quantizer=input_quantizer,
            hidden_quantizer=hidden_quantizer,
            kernel_quantizer=kernel_quantizer,
            rngs=rngs,
            **options,
        )

    def start(self, n: int, dtype: Any) -> jax.Array:
        """The hidden state, zeros ``[n, n_out]``."""
        return jnp.zeros((n, self.gates.n_out), dtype)

    def __call__(
        self,
        x: jax.Array,
        state: jax.Array,
        *,
        train: bool = False,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """x: ``[n, n_in]``; gives the hidden state twice."""
        (zx, rx, gx), (zh, rh, gh) = self.gates.parts(x, state, train, key)
        z, r = jax.nn.sigmoid(zx + zh), jax.nn.sigmoid(rx + rh)
        h = z * state + (1 - z) * jnp.tanh(gx + r * gh)
        return h, h


class Recurrent(nnx.Module):
    """A cell along the second axis: ``[n, t, n_in]`` to ``[n, t, n_out]``, under ``lax.scan``.

    Args:
        cell: see :class:`Cell`; step i gets ``fold_in(key, i)``.
        last: give the last step's output only, ``[n, n_out]``.
    """

    def __init__(self, cell: Cell, *, last: bool = False):
        self.cell, self.last = cell, last

    def __call__(
        self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> jax.Array:
        """x: ``[n, t, n_in]``, at least one step."""
        if x.ndim != 3 or x.shape[1] < 1:
            raise ValueError(f"Recurrent takes [n, t, n_in] inputs, got shape {x.shape}")
        graphdef, state = nnx.split(self.cell)

        def step(before: Any, own: tuple[jax.Array, jax.Array]) -> tuple[Any, jax.Array]:
            i, now = own
            inner = None if key is None else jax.random.fold_in(key, i)
            y, after = nnx.merge(graphdef, state)(now, before, train=train, key=inner)
            return after, y

        start = self.cell.start(x.shape[0], x.dtype)
        steps = jnp.arange(x.shape[1])
        record(self, "steps", steps)
        _, y = jax.lax.scan(step, start, (steps, jnp.swapaxes(x, 0, 1)))
        outputs: jax.Array = y[-1] if self.last else jnp.swapaxes(y, 0, 1)
        return outputs
