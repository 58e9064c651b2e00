"""What networks are built of beside chains: sums, concatenations, gates."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from binjax.layers.activation import ACTIVATIONS, Activation, Identity
from binjax.layers.arguments import explicit_padding
from binjax.layers.binary import BinaryDense
from binjax.layers.regular import check_rate, dropout
from binjax.ste.arguments import integer, number
from binjax.xnor.geometry import Padding


class Residual(nnx.Module):
    """``body(x) + shortcut(x)``.

    Args:
        body, shortcut: called ``layer(x, train=..., key=...)``; the shortcut defaults to x.
    """

    def __init__(self, body: nnx.Module, shortcut: nnx.Module | None = None):
        self.body, self.shortcut = body, Identity() if shortcut is None else shortcut

    def __call__(
        self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> jax.Array:
        """x: what both take."""
        y = _run(self.body, x, train, key, 0)
        around = _run(self.shortcut, x, train, key, 1)
        if y.shape != around.shape:
            raise ValueError(f"Residual: body gives {y.shape}, shortcut {around.shape}")
        return y + around


class Concatenate(nnx.Module):
    """``[x, body(x)]`` along the channels, as in DenseNet."""

    def __init__(self, body: nnx.Module):
        self.body = body

    def __call__(
        self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> jax.Array:
        """x: ``[..., channels]``."""
        return jnp.concatenate([x, _run(self.body, x, train, key, 0)], -1)


class Beside(nnx.Module):
    """``[left(x), right(x)]`` along the channels."""

    def __init__(self, left: nnx.Module, right: nnx.Module):
        self.left, self.right = left, right

    def __call__(
        self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> jax.Array:
        """x: what both take."""
        halves = [_run(self.left, x, train, key, 0), _run(self.right, x, train, key, 1)]
        return jnp.concatenate(halves, -1)


class Gate(nnx.Module):
    """``body(x)`` times what ``gate(x)`` says, one number per image and channel.

    With a squeeze-and-excite gate this is the data-driven scale of Real-to-Binary
    (Martinez et al. 2020, §4.3): the gate sees the real input of the binary convolution.
    """

    def __init__(self, body: nnx.Module, gate: nnx.Module):
        self.body, self.gate = body, gate

    def __call__(
        self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> jax.Array:
        """x: ``[n, ..., channels]``."""
        y = _run(self.body, x, train, key, 0)
        scale = _run(self.gate, x, train, key, 1)
        if scale.ndim != 2 or scale.shape[-1] != y.shape[-1]:
            raise ValueError(f"Gate: gate gives {scale.shape} for an output of {y.shape}")
        sizes = (scale.shape[0], *(1,) * (y.ndim - 2), scale.shape[-1])
        return y * scale.astype(y.dtype).reshape(sizes)


class SqueezeExcite(nnx.Module):
    """``gate(dense(activation(dense(mean over places))))``: ``[n, ..., n_in]`` to ``[n, n_out]``.

    Hu et al. 2018; what :class:`Gate` multiplies an output by. Both products are real.

    Args:
        n_in, n_out: channels of what is seen and of what is scaled; n_out defaults to n_in.
        reduction: there are ``n_in // reduction`` features between the two.
        activation, gate: names in ``ACTIVATIONS``.
        rngs, **options: ``use_bias``, ``kernel_init``, ``dtype`` and ``param_dtype`` of both, see
            :class:`BinaryDense`.

    Raises:
        ValueError: no feature left between the two, unknown names.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int | None = None,
        *,
        reduction: int = 8,
        activation: str = "relu",
        gate: str = "sigmoid",
        use_bias: bool = True,
        rngs: nnx.Rngs,
        **options: Any,
    ):
        n_in = integer("SqueezeExcite: n_in", n_in)
        inner = n_in // integer("SqueezeExcite: reduction", reduction)
        if inner < 1:
            raise ValueError(
                f"SqueezeExcite: reduction {reduction} leaves nothing of {n_in} channels"
            )
        self.activation, self.gate = Activation(activation).name, Activation(gate).name
        real: dict[str, Any] = {"input_quantizer": None, "kernel_quantizer": None}
        real |= {"use_bias": use_bias, "rngs": rngs, **options}
        self.reduce = BinaryDense(n_in, inner, **real)
        self.expand = BinaryDense(inner, n_in if n_out is None else n_out, **real)

    def __call__(
        self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> jax.Array:
        """x: ``[n, ..., n_in]``."""
        mean = jnp.mean(x, tuple(range(1, x.ndim - 1)))
        inner = ACTIVATIONS[self.activation](self.reduce(mean))
        return ACTIVATIONS[self.gate](self.expand(inner))


class Pad(nnx.Module):
    """A border around an NHWC array.

    Args:
        padding: ``((top, bottom), (left, right))``.
        value: what it consists of.

    Raises:
        ValueError: a padding that is not two pairs, or negative.
    """

    def __init__(self, padding: Padding, value: float = 0.0):
        self.padding = explicit_padding("Pad", padding, 2)
        self.value = number("Pad: value", value, least=-math.inf)

    def __call__(
        self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> jax.Array:
        """x: ``[n, h, w, c]``."""
        if x.ndim != 4:
            raise ValueError(f"Pad takes [n, h, w, c] inputs, got shape {x.shape}")
        return jnp.pad(x, ((0, 0), *self.padding, (0, 0)), constant_values=self.value)


class Dropout(nnx.Module):
    """Zero elements with probability ``rate`` in training, divide the others by ``1 - rate``."""

    def __init__(self, rate: float):
        self.rate = check_rate(rate, "Dropout: rate")

    def __call__(
        self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> jax.Array:
        """x: any shape; in training ``key`` is needed."""
        return dropout(key, x, self.rate) if train else x


def _run(
    layer: nnx.Module, x: jax.Array, train: bool, key: jax.Array | None, use: int
) -> jax.Array:
    own = None if key is None else jax.random.fold_in(key, use)
    y: jax.Array = layer(x, train=train, key=own)
    return y
