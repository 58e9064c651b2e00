"""Recurrent cells whose products are of bits, and their loop over time."""

from __future__ import annotations

from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from binjax.layers.activation import ACTIVATIONS, Activation
from binjax.layers.arguments import channels
from binjax.layers.binary import BinaryDense
from binjax.layers.quantize import QuantizerLike
from binjax.layers.recording import record, unwatched


class Cell(Protocol):
    """One step in time, in two parts, of which the first needs no state."""

    def start(self, n: int, dtype: Any) -> Any:
        """The state before the first step, of ``n`` sequences of inputs of this dtype."""

    def prepare(self, x: jax.Array, *, train: bool, key: jax.Array | None) -> jax.Array:
        """From inputs ``[..., n_in]`` of one step or several to what :meth:`step` takes."""

    def step(
        self, prepared: jax.Array, state: Any, *, train: bool, key: jax.Array | None
    ) -> tuple[jax.Array, Any]:
        """From ``[n, ...]`` and the state to the output ``[n, n_out]`` and the next state."""


class _BinaryCell(nnx.Module):
    """``count`` gates: quantized input and hidden state times quantized kernels, and biases."""

    count: int

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        input_quantizer: QuantizerLike = "ste_sign",
        hidden_quantizer: QuantizerLike = "ste_sign",
        kernel_quantizer: QuantizerLike = "magnitude_aware_sign",
        gate: str = "sigmoid",
        activation: str = "tanh",
        rngs: nnx.Rngs,
        **options: Any,
    ):
        self.n_in, self.n_out, _ = channels(type(self).__name__, n_in, n_out)
        self.gate, self.activation = Activation(gate).name, Activation(activation).name
        shared = {"kernel_quantizer": kernel_quantizer, "rngs": rngs, **options}
        n = self.count * self.n_out
        self.inputs = BinaryDense(n_in, n, input_quantizer=input_quantizer, use_bias=True, **shared)
        self.hidden = BinaryDense(n_out, n, input_quantizer=hidden_quantizer, **shared)

    def prepare(self, x: jax.Array, *, train: bool, key: jax.Array | None) -> jax.Array:
        """The inputs' part of all gates: ``[..., n_in]`` to ``[..., count·n_out]``."""
        return self.inputs(x, train=train, key=key)

    def _zeros(self, n: int, dtype: Any) -> jax.Array:
        computed = dtype if self.hidden.dtype is None else self.hidden.dtype
        return jnp.zeros((n, self.n_out), jnp.promote_types(dtype, computed))

    def _parts(self, both: jax.Array) -> list[jax.Array]:
        return jnp.split(both, self.count, -1)

    def _hidden(
        self, h: jax.Array, dtype: Any, train: bool, key: jax.Array | None
    ) -> list[jax.Array]:
        return self._parts(self.hidden(h, train=train, key=key).astype(dtype))

    def _gate(self, x: jax.Array) -> jax.Array:
        return ACTIVATIONS[self.gate](x)

    def _activation(self, x: jax.Array) -> jax.Array:
        return ACTIVATIONS[self.activation](x)


class BinaryLSTMCell(_BinaryCell):
    """Long short-term memory with products of bits; the cell state stays real.

    ``i, f, o = gate(...)``, ``g = activation(...)``, ``c = f c + i g``, ``h = o activation(c)``,
    where the dots are ``quantize(x) quantize(W) + quantize(h) quantize(U) + b`` (Hochreiter &
    Schmidhuber 1997; with binary weights Ardakani et al. 2019). Kernels are scaled by their mean
    magnitude unless told otherwise: sums of ±1 would saturate the gates. Columns of the kernels
    and biases are those of i, f, g, o; forget biases begin at 1.

    Args:
        n_in, n_out: features of input and hidden state.
        input_quantizer, hidden_quantizer, kernel_quantizer: see :class:`BinaryDense`. The hidden
            state is in (-1, 1): ``ste_sign`` passes all its gradients. It begins at 0, whose sign
            is +1.
        gate, activation: names in ``ACTIVATIONS``, such as ``"hard_sigmoid"``, ``"hard_tanh"``.
        **options: ``kernel_init``, ``dropout``, ``backend``, ``dtype``, ``param_dtype``.

    Raises:
        ValueError: sizes below 1, unknown names.
    """

    count = 4

    def __init__(self, n_in: int, n_out: int, *, rngs: nnx.Rngs, **options: Any):
        super().__init__(n_in, n_out, rngs=rngs, **options)
        bias = self.inputs.bias
        assert bias is not None
        bias[...] = bias[...].at[n_out : 2 * n_out].set(1)

    def start(self, n: int, dtype: Any) -> tuple[jax.Array, jax.Array]:
        """Hidden and cell state, zeros ``[n, n_out]``."""
        return self._zeros(n, dtype), self._zeros(n, dtype)

    def step(
        self,
        prepared: jax.Array,
        state: tuple[jax.Array, jax.Array],
        *,
        train: bool,
        key: jax.Array | None,
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """prepared: ``[n, 4 n_out]``; gives the hidden state, and both states."""
        h, c = state
        of_h = self._hidden(h, h.dtype, train, key)
        of_x = self._parts(prepared.astype(h.dtype))
        i, f, g, o = (a + b for a, b in zip(of_x, of_h, strict=True))
        c = self._gate(f) * c + self._gate(i) * self._activation(g)
        h = self._gate(o) * self._activation(c)
        return h, (h, c)


class BinaryGRUCell(_BinaryCell):
    """Gated recurrent unit with products of bits.

    ``z, r = gate(...)``, ``g = activation(quantize(x) W + b + r (quantize(h) U))``,
    ``h = z h + (1 - z) g`` (Cho et al. 2014, with the reset behind the product, as in cuDNN).
    Columns are those of z, r, g. Arguments and errors as for :class:`BinaryLSTMCell`.
    """

    count = 3

    def start(self, n: int, dtype: Any) -> jax.Array:
        """The hidden state, zeros ``[n, n_out]``."""
        return self._zeros(n, dtype)

    def step(
        self, prepared: jax.Array, state: jax.Array, *, train: bool, key: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        """prepared: ``[n, 3 n_out]``; gives the hidden state twice."""
        zh, rh, gh = self._hidden(state, state.dtype, train, key)
        zx, rx, gx = self._parts(prepared.astype(state.dtype))
        z, r = self._gate(zx + zh), self._gate(rx + rh)
        h = z * state + (1 - z) * self._activation(gx + r * gh)
        return h, h


class Recurrent(nnx.Module):
    """A cell along the second axis: ``[n, t, n_in]`` to ``[n, t, n_out]``, under ``lax.scan``.

    In training the inputs of all steps are prepared at once: one gradient of their kernel instead
    of a sum of many. Variables of the cell do not change in a call.

    Args:
        cell: see :class:`Cell`; of two keys that are derived from ``key`` the inputs get the first,
            and step i ``fold_in(second, i)``.
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
        start = self.cell.start(x.shape[0], x.dtype)
        steps = jnp.arange(x.shape[1])
        first, second = (None if key is None else jax.random.fold_in(key, i) for i in range(2))
        graphdef, state = nnx.split(unwatched(self.cell))
        x = jnp.swapaxes(x, 0, 1)
        if train:
            x = self.cell.prepare(x, train=True, key=first)

        def step(before: Any, own: tuple[jax.Array, jax.Array]) -> tuple[Any, jax.Array]:
            i, now = own
            inner = None if second is None else jax.random.fold_in(second, i)
            cell = nnx.merge(graphdef, state)
            # Not so in evaluation: what a step needs is then in the processor's cache.
            now = now if train else cell.prepare(now, train=False, key=None)
            y, after = cell.step(now, before, train=train, key=inner)
            return after, y

        record(self, "steps", steps)
        _, y = jax.lax.scan(step, start, (steps, x))
        outputs: jax.Array = y[-1] if self.last else jnp.swapaxes(y, 0, 1)
        return outputs
