"""Quantizers that change over a run: gradients that sharpen, thresholds that tighten."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike

from binjax.ste import (
    Autodiff,
    Factors,
    adabin_weights,
    center,
    ede,
    factors_of,
    libra_pb,
    progressive_sign,
    rbnn,
    recu,
    standardize,
)
from binjax.ste.arguments import number
from binjax.ste.core import check_autodiff


class Progress(nnx.Variable[jax.Array]):
    """How much of the training is done: a float32 scalar in [0, 1], the same in all layers.

    Annealed quantizers read it. ``train`` sets it before each step to the share of epochs that
    are over; a loop of your own does with :func:`set_progress`.
    """


def set_progress(model: nnx.Module, value: ArrayLike) -> None:
    """Set every :class:`Progress` of a model, in place."""
    for _, leaf in nnx.to_flat_state(nnx.state(model, Progress)):
        leaf[...] = jnp.asarray(value, jnp.float32)


def _real(name: str, value: float) -> float:
    real: float = number(name, value, least=-math.inf)
    return real


class _Annealed(nnx.Module):
    """A sign whose gradient sharpens: ``t`` goes from ``t_min`` to ``t_max`` geometrically."""

    bits = 1

    def __init__(
        self, n: int, *, t_min: float = 0.1, t_max: float = 10.0, autodiff: Autodiff = "vjp"
    ):
        del n
        self.autodiff = check_autodiff(autodiff)
        name = type(self).__name__
        t_min, t_max = _real(f"{name}: t_min", t_min), _real(f"{name}: t_max", t_max)
        if not 0 < t_min <= t_max:
            raise ValueError(f"t_min is {t_min} and t_max {t_max}; wanted 0 < t_min <= t_max")
        self.t_min, self.t_max = t_min, t_max
        self.progress = Progress(jnp.zeros([]))

    def sharpness(self) -> tuple[jax.Array, jax.Array]:
        """``t`` and ``k = max(1/t, 1)`` now."""
        t = self.t_min * (self.t_max / self.t_min) ** self.progress[...]
        return t, jnp.maximum(1 / t, 1)


class EDE(_Annealed):
    """IR-Net's error decay estimator: :func:`binjax.ste.ede`, t from .1 to 10 over the run.

    Qin et al. 2020, eqs. 14-15.
    """

    def __call__(self, x: jax.Array, *, autodiff: Autodiff | None = None) -> jax.Array:
        """±1 of x's shape and dtype."""
        t, k = (value.astype(x.dtype) for value in self.sharpness())
        return ede(x, t, k, autodiff=autodiff or self.autodiff)


class RBNN(_Annealed):
    """RBNN's training-aware gradient: :func:`binjax.ste.rbnn`, t from .01 to 10 over the run.

    Lin et al. 2020, eqs. 16-18. The rotation of that paper is not part of it.
    """

    def __init__(
        self, n: int, *, t_min: float = 0.01, t_max: float = 10.0, autodiff: Autodiff = "vjp"
    ):
        super().__init__(n, t_min=t_min, t_max=t_max, autodiff=autodiff)

    def __call__(self, x: jax.Array, *, autodiff: Autodiff | None = None) -> jax.Array:
        """±1 of x's shape and dtype."""
        t, k = (value.astype(x.dtype) for value in self.sharpness())
        return rbnn(x, t, k, autodiff=autodiff or self.autodiff)


class LibraPB(_Annealed):
    """IR-Net's weights: :func:`binjax.ste.libra_pb`, annealed as :class:`EDE`."""

    def factors(self, x: jax.Array, *, autodiff: Autodiff | None = None) -> Factors:
        """Signs of x's shape and the scale ``[n_out]``."""
        t, k = (value.astype(x.dtype) for value in self.sharpness())
        split = factors_of(libra_pb)
        assert split is not None
        return split(x, t, k, autodiff=autodiff or self.autodiff)

    def sign_input(self, x: jax.Array) -> jax.Array:
        """X, standardized."""
        return standardize(x)

    def __call__(self, x: jax.Array, *, autodiff: Autodiff | None = None) -> jax.Array:
        """The product of both."""
        t, k = (value.astype(x.dtype) for value in self.sharpness())
        return libra_pb(x, t, k, autodiff=autodiff or self.autodiff)


class AdaBinWeights(_Annealed):
    """AdaBin's weights: :func:`binjax.ste.adabin_weights`, annealed as :class:`EDE`."""

    signs = False

    def sign_input(self, x: jax.Array) -> jax.Array:
        """X less its channel's mean."""
        return center(x)

    def __call__(self, x: jax.Array, *, autodiff: Autodiff | None = None) -> jax.Array:
        """Two values per output channel, of x's shape and dtype."""
        t, k = (value.astype(x.dtype) for value in self.sharpness())
        return adabin_weights(x, t, k, autodiff=autodiff or self.autodiff)


class ReCU(nnx.Module):
    """ReCU's weights: :func:`binjax.ste.recu`, tau from ``tau_min`` to ``tau_max`` over the run.

    ``tau = A e^p + B`` of the share p of epochs that are over (Xu et al. 2021, eq. 17).

    Raises:
        ValueError: a tau outside (.5, 1): at .5 the clamp leaves nothing.
    """

    bits = 1

    def __init__(
        self,
        n: int,
        *,
        tau_min: float = 0.85,
        tau_max: float = 0.99,
        autodiff: Autodiff = "vjp",
    ):
        del n
        self.autodiff = check_autodiff(autodiff)
        tau_min, tau_max = _real("ReCU: tau_min", tau_min), _real("ReCU: tau_max", tau_max)
        if not 0.5 < tau_min <= tau_max < 1:
            raise ValueError(
                f"tau_min is {tau_min} and tau_max {tau_max}; wanted .5 < tau_min <= tau_max < 1"
            )
        self.tau_min, self.tau_max = tau_min, tau_max
        self.progress = Progress(jnp.zeros([]))

    def tau(self) -> jax.Array:
        """The threshold's quantile now."""
        slope = (self.tau_max - self.tau_min) / (math.e - 1)
        return self.tau_min + slope * jnp.expm1(self.progress[...])

    def sign_input(self, x: jax.Array) -> jax.Array:
        """X, standardized."""
        return standardize(x)

    def __call__(self, x: jax.Array, *, autodiff: Autodiff | None = None) -> jax.Array:
        """±1 of x's shape and dtype."""
        return recu(x, self.tau(), autodiff=autodiff or self.autodiff)


class ProgressiveSign(nnx.Module):
    """Weights that become signs: :func:`binjax.ste.progressive_sign`, ever colder.

    The temperature goes from 1 to ``t_end`` geometrically over the first part of the run, from then
    on it is 0. Guo et al. 2022, BNext: .9 to the power of the epoch, below 1e-7 after 153 of 512
    epochs. Until then the values are not ±1, so products with them are products of floats, and
    ``train`` takes no epoch for the best. The evaluation of the last epoch is always of signs.

    Args:
        n: channels; not used.
        t_end: the last temperature, in (0, 1).
        until: share of the run after which values are signs, in (0, 1].

    Raises:
        ValueError: either out of range.
    """

    bits = 1
    signs = False

    def __init__(
        self, n: int, *, t_end: float = 1e-7, until: float = 0.3, autodiff: Autodiff = "vjp"
    ):
        del n
        self.autodiff = check_autodiff(autodiff)
        t_end, until = (
            _real("ProgressiveSign: t_end", t_end),
            _real("ProgressiveSign: until", until),
        )
        if not (0 < t_end < 1 and 0 < until <= 1):
            raise ValueError(
                f"t_end is {t_end} and until {until}; wanted 0 < t_end < 1 and 0 < until <= 1"
            )
        self.t_end, self.until = t_end, until
        self.progress = Progress(jnp.zeros([]))

    def sign_input(self, x: jax.Array) -> jax.Array:
        """X itself."""
        return x

    def __call__(self, x: jax.Array, *, autodiff: Autodiff | None = None) -> jax.Array:
        """Within [-1, 1], of x's shape and dtype."""
        share = self.progress[...] / self.until
        temperature = jnp.where(share < 1, self.t_end**share, 0).astype(x.dtype)
        return progressive_sign(x, temperature, autodiff=autodiff or self.autodiff)
