"""What networks are built of beside chains: sums, concatenations, gates."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from binjax.layers.activation import Identity
from binjax.layers.regular import check_rate, dropout


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


class Dropout(nnx.Module):
    """Zero elements with probability ``rate`` in training, divide the others by ``1 - rate``."""

    def __init__(self, rate: float):
        self.rate = check_rate(rate)

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
