"""Quantizers with trainable parameters, and all NNX modules that quantize by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx

from binjax.layers.annealed import EDE, RBNN, AdaBinWeights, LibraPB, ProgressiveSign, ReCU
from binjax.ste import (
    QUANTIZERS,
    Autodiff,
    Factors,
    Quantizer,
    Stochastic,
    center,
    mean_magnitude,
    standardize,
)
from binjax.ste.arguments import integer
from binjax.ste.core import check_autodiff

Sign = Literal["ste_sign", "approx_sign", "swish_sign", "fourier"]
Prepare = Literal["none", "center", "standardize"]
Scale = Literal["none", "mean", "power_of_two", "learned"]


class RSign(nnx.Module):
    """``sign(x + bias)`` with a learned threshold per channel (Liu et al. 2020, ReActNet, eq. 1).

    Args:
        n: channels, the last axis.
        sign: whose gradient it has; ReActNet's code has Bi-Real Net's ``approx_sign``.
    """

    bits = 1

    def __init__(self, n: int, *, sign: Sign = "approx_sign", autodiff: Autodiff = "vjp"):
        self.sign, self.autodiff = _sign(sign), check_autodiff(autodiff)
        self.n = integer("RSign: n", n)
        self.bias = nnx.Param(jnp.zeros(self.n))

    def sign_input(self, x: jax.Array) -> jax.Array:
        """``x + bias``."""
        return x + self.bias[...].astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))

    def __call__(self, x: jax.Array, *, autodiff: Autodiff | None = None) -> jax.Array:
        """±1 of x's shape and dtype."""
        return self.sign(self.sign_input(x), autodiff=autodiff or self.autodiff)


class AdaBinActivations(nnx.Module):
    """Two learned values: ``alpha·sign((x - beta)/alpha) + beta`` (Tu et al. 2022, eqs. 10-12).

    One alpha and beta for the layer, 1 and 0 at the start. The values are not ±1, so products with
    them are products of floats.

    Args:
        n: channels; not used.
        sign: whose gradient it has; the authors' code has Bi-Real Net's ``approx_sign``.
    """

    bits = 1
    signs = False

    def __init__(self, n: int, *, sign: Sign = "approx_sign", autodiff: Autodiff = "vjp"):
        del n
        self.sign, self.autodiff = _sign(sign), check_autodiff(autodiff)
        self.alpha, self.beta = nnx.Param(jnp.ones([])), nnx.Param(jnp.zeros([]))

    def sign_input(self, x: jax.Array) -> jax.Array:
        """``(x - beta)/alpha``."""
        return (x - self.beta[...].astype(x.dtype)) / self.alpha[...].astype(x.dtype)

    def __call__(self, x: jax.Array, *, autodiff: Autodiff | None = None) -> jax.Array:
        """Of x's shape and dtype."""
        alpha, beta = self.alpha[...].astype(x.dtype), self.beta[...].astype(x.dtype)
        return alpha * self.sign(self.sign_input(x), autodiff=autodiff or self.autodiff) + beta


class ScaledSign(nnx.Module):
    """A kernel's sign with a choice of preparation, gradient and scale, per output channel.

    Args:
        n: output channels, the last axis.
        sign: whose gradient it has.
        prepare: what happens to the latent weights first: their mean taken off (``"center"``),
            or that and divided by their standard deviation (``"standardize"``).
        scale: of the signs: ``"mean"``, the mean magnitude of the prepared weights, a constant in
            the backward pass; ``"power_of_two"``, that rounded in the logarithm; ``"learned"``, a
            parameter that begins at 1.
    """

    bits = 1

    def __init__(
        self,
        n: int,
        *,
        sign: Sign = "ste_sign",
        prepare: Prepare = "none",
        scale: Scale = "none",
        autodiff: Autodiff = "vjp",
    ):
        _choose("prepare", prepare, Prepare)
        _choose("scale", scale, Scale)
        self.sign, self.prepare, self.scale = _sign(sign), prepare, scale
        self.autodiff = check_autodiff(autodiff)
        # Without a factor it takes kernels of any width.
        self.n = integer("ScaledSign: n", n) if scale == "learned" else None
        self.factor = nnx.Param(jnp.ones(n)) if scale == "learned" else None

    def sign_input(self, x: jax.Array) -> jax.Array:
        """X, prepared."""
        if self.prepare == "none":
            return x
        return center(x) if self.prepare == "center" else standardize(x)

    def factors(self, x: jax.Array, *, autodiff: Autodiff | None = None) -> Factors:
        """Signs of x's shape and the scale ``[n_out]``, or the scalar 1."""
        x = self.sign_input(x)
        signs = self.sign(x, autodiff=autodiff or self.autodiff)
        if self.factor is not None:
            return Factors(signs, self.factor[...].astype(x.dtype))
        if self.scale == "none":
            return Factors(signs, jnp.ones([], x.dtype))
        mean = jax.lax.stop_gradient(mean_magnitude(x))
        return Factors(signs, mean if self.scale == "mean" else jnp.exp2(jnp.round(jnp.log2(mean))))

    def __call__(self, x: jax.Array, *, autodiff: Autodiff | None = None) -> jax.Array:
        """The product of both."""
        signs, scale = self.factors(x, autodiff=autodiff or self.autodiff)
        return signs * scale.reshape((1,) * (signs.ndim - 1) + (-1,))


def _sign(name: str) -> Quantizer:
    _choose("sign", name, Sign)
    found = QUANTIZERS[name]
    assert not isinstance(found, Stochastic)
    return found


def _choose(what: str, value: str, choices: Any) -> None:
    if value not in get_args(choices):
        raise ValueError(f"{what} is {value!r}; choose {', '.join(map(repr, get_args(choices)))}")


QUANTIZER_MODULES: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        "ede": EDE,
        "rbnn": RBNN,
        "libra_pb": LibraPB,
        "recu": ReCU,
        "adabin_weights": AdaBinWeights,
        "progressive_sign": ProgressiveSign,
        "rsign": RSign,
        "adabin_activations": AdaBinActivations,
        "scaled_sign": ScaledSign,
    }
)
"""NNX modules that quantize, by the name a config uses: ``module(n, **parameters)``."""
