"""Activation functions as layers, with and without parameters of their own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import jax
import jax.numpy as jnp
from flax import nnx

from binjax.rounding import apart
from binjax.ste import hard_sigmoid, hard_tanh
from binjax.ste.arguments import integer, number
from binjax.ste.core import floating
from binjax.xnor.geometry import integers


def leaky_tanh(x: jax.Array, alpha: float = 0.2) -> jax.Array:
    """``clip(x, -1, 1)`` with slope ``alpha`` outside (Larq)."""
    return jnp.clip(x, -1, 1) + alpha * (x - jnp.clip(x, -1, 1))


ACTIVATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = MappingProxyType(
    {
        "relu": jax.nn.relu,
        "relu6": jax.nn.relu6,
        "leaky_relu": jax.nn.leaky_relu,
        "hard_tanh": hard_tanh,
        "leaky_tanh": leaky_tanh,
        "hard_swish": jax.nn.hard_swish,
        "silu": jax.nn.silu,
        "gelu": jax.nn.gelu,
        "tanh": jnp.tanh,
        "sigmoid": jax.nn.sigmoid,
        "hard_sigmoid": hard_sigmoid,
        "shifted_relu6": jax.nn.hard_sigmoid,
    }
)
"""Functions without parameters by name."""


class Activation(nnx.Module):
    """A function of :data:`ACTIVATIONS`, element by element.

    Raises:
        ValueError: unknown name.
    """

    def __init__(self, name: str):
        if name not in ACTIVATIONS:
            raise ValueError(f"unknown activation {name!r}; known: {', '.join(ACTIVATIONS)}")
        self.name = name

    def __call__(
        self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> jax.Array:
        """x: any shape."""
        return ACTIVATIONS[self.name](x)


class Identity(nnx.Module):
    """x itself."""

    def __call__(
        self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> jax.Array:
        """x: any shape."""
        return x


class Shift(nnx.Module):
    """``x + bias`` per channel: the learned thresholds in front of and behind ReActNet's layers.

    Args:
        n: channels, the last axis.
    """

    def __init__(self, n: int):
        self.n = check_channels("Shift", n)
        self.bias = nnx.Param(jnp.zeros(n))

    def __call__(
        self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> jax.Array:
        """x: ``[..., n]``."""
        check_last("Shift", x, self.n)
        return x + along(self.bias[...], x)


class PReLU(nnx.Module):
    """``x`` where it is positive, else ``slope * x`` with a learned slope per channel.

    He et al. 2015.

    Args:
        n: channels; 1 for one slope for all.
        slope: at the start: .25 as in the paper and PyTorch; Keras has 0.
    """

    def __init__(self, n: int, *, slope: float = 0.25):
        self.n = check_channels("PReLU", n)
        self.slope = nnx.Param(jnp.full(self.n, number("PReLU: slope", slope, least=-math.inf)))

    def __call__(
        self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> jax.Array:
        """x: ``[..., n]``, or anything if n is 1."""
        if self.n != 1:
            check_last("PReLU", x, self.n)
        floating("PReLU", x)
        return jnp.where(x > 0, x, _product(along(self.slope[...], x), x, train))


class RPReLU(nnx.Module):
    """``PReLU(x - gamma) + zeta``, all learned per channel (Liu et al. 2020, ReActNet, eq. 3).

    Args:
        n: channels.
        slope: at the start.
    """

    def __init__(self, n: int, *, slope: float = 0.25):
        self.before, self.prelu, self.behind = Shift(n), PReLU(n, slope=slope), Shift(n)

    def __call__(
        self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> jax.Array:
        """x: ``[..., n]``."""
        return self.behind(self.prelu(self.before(x), train=train))


class DPReLU(nnx.Module):
    """``positive·(x - shift)`` or ``negative·(x - shift)`` by its sign, ``+ bias``, per channel.

    Zhang et al. 2022, PokeBNN, eq. 6. Slopes begin at 1 and .25, shifts at 0.

    Args:
        n: channels.
        positive, negative: slopes at the start.
    """

    def __init__(self, n: int, *, positive: float = 1.0, negative: float = 0.25):
        self.n = check_channels("DPReLU", n)
        slopes = (
            number(f"DPReLU: {name}", slope, least=-math.inf)
            for name, slope in (("positive", positive), ("negative", negative))
        )
        self.positive, self.negative = (nnx.Param(jnp.full(self.n, slope)) for slope in slopes)
        self.shift, self.bias = nnx.Param(jnp.zeros(n)), nnx.Param(jnp.zeros(n))

    def __call__(
        self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> jax.Array:
        """x: ``[..., n]``."""
        check_last("DPReLU", x, self.n)
        moved = x - along(self.shift[...], x)
        slope = jnp.where(moved > 0, along(self.positive[...], x), along(self.negative[...], x))
        return _product(slope, moved, train) + along(self.bias[...], x)


class LearnedScale(nnx.Module):
    """Multiply by learned factors: one per channel, or the product of one per axis.

    Bulat & Tzimiropoulos 2019, XNOR-Net++, eqs. 3 and 6: all begin at 1.

    Args:
        shape: channels, or ``(height, width, channels)`` for factors of rank 1.
    """

    def __init__(self, shape: int | Sequence[int]):
        sizes = integers(shape) or integers((shape,))
        if len(sizes) not in (1, 3) or min(sizes) < 1:
            raise ValueError(
                f"LearnedScale: shape is {shape!r}; expected channels or (h, w, channels)"
            )
        self.shape = sizes
        self.factors = nnx.List([nnx.Param(jnp.ones(size)) for size in sizes])

    def __call__(
        self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> jax.Array:
        """x: ``[..., channels]`` or ``[n, h, w, channels]``."""
        if x.shape[-len(self.shape) :] != self.shape:
            raise ValueError(f"LearnedScale{self.shape} got shape {x.shape}")
        floating("LearnedScale", x)
        axes = range(x.ndim - len(self.shape), x.ndim)
        for axis, factor in zip(axes, self.factors, strict=True):
            sizes = [1] * x.ndim
            sizes[axis] = -1
            x = _product(x, factor[...].astype(x.dtype).reshape(sizes), train)
        return x


def _product(a: jax.Array, b: jax.Array, train: bool) -> jax.Array:
    """``a * b``, in evaluation with its own rounding, since thresholds are folded from it."""
    return a * b if train else apart(a * b)


def along(values: jax.Array, x: jax.Array) -> jax.Array:
    """``[n]`` in x's dtype, to stand along its last axis."""
    return values.astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))


def check_channels(layer: str, n: int) -> int:
    """``n`` itself, if it counts channels."""
    return integer(f"{layer}: n", n)


def check_last(layer: str, x: jax.Array, n: int) -> None:
    """Refuse an array whose last axis is not ``n``, or that is not floating."""
    if x.ndim < 1 or x.shape[-1] != n:
        raise ValueError(f"{layer} takes [..., {n}] inputs, got shape {x.shape}")
    floating(layer, x)
