"""Bop: optimizers whose weights are ±1 themselves, without latent weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

Direction = Callable[[Any, Any, jax.Array], tuple[Any, Any]]


class BopState(NamedTuple):
    """Step count int32 and the averages, of the weights' shapes and dtypes.

    ``nu`` is empty for the first-order rule.
    """

    count: jax.Array  # type: ignore[assignment]  # int32 [], optax's name
    mu: Any
    nu: Any


def bop(
    threshold: optax.ScalarOrSchedule = 1e-8, gamma: optax.ScalarOrSchedule = 1e-4
) -> optax.GradientTransformation:
    r"""Flip a weight when its averaged gradient agrees with it for long enough.

    With :math:`m \leftarrow m + \gamma (g - m)`, :math:`m_0 = 0`, the new weight is
    ``sign(-s w)`` where ``s = sign(w m - threshold)`` and ``sign(0) = 0``: so w turns where
    ``w m > threshold`` and becomes +1 where they are equal, as in Larq. The update is the new ±1
    weight less the old one; a weight that is not ±1 yet becomes its sign, or turns.

    Args:
        threshold: tau, a number or schedule of the step.
        gamma: rate of the average, in (0, 1], or a schedule. Larger is faster and noisier.

    Returns:
        A complete optimizer for ±1 weights (see :func:`binarize_params`): nothing scales it.

    References:
        Helwegen et al. 2019, algorithm 1; larq ``optimizers.py``.

    Example:
        >>> import jax.numpy as jnp
        >>> from binjax.optim import bop
        >>> tx = bop(threshold=0.1, gamma=0.5)
        >>> w = jnp.asarray([1.0, 1.0, -1.0])
        >>> updates, _ = tx.update(jnp.asarray([1.0, 0.1, 1.0]), tx.init(w), w)
        >>> (w + updates).tolist()
        [-1.0, 1.0, -1.0]
    """

    def direction(mu: Any, nu: Any, count: jax.Array) -> tuple[Any, Any]:
        return mu, nu

    return _flipping("bop", threshold, gamma, None, direction)


def second_order_bop(
    threshold: optax.ScalarOrSchedule = 1e-8,
    gamma: optax.ScalarOrSchedule = 1e-4,
    sigma: optax.ScalarOrSchedule = 1e-2,
    eps: float = 1e-10,
    unbiased: bool = False,
) -> optax.GradientTransformation:
    r""":func:`bop` on the averaged gradient divided by the root of the averaged square.

    :math:`v \leftarrow v + \sigma (g^2 - v)`; weights turn where
    :math:`w\, m / (\sqrt v + \epsilon) > \tau`. With ``unbiased`` m and v are divided by
    :math:`1 - (1-\gamma)^t` and :math:`1 - (1-\sigma)^t` first (rates of the current step).

    Args:
        threshold, gamma: as for :func:`bop`.
        sigma: rate of the squares' average, or a schedule.
        eps: > 0, added to the root.
        unbiased: correct for averages that begin at zero.

    References:
        Suarez-Ramirez et al. 2021, "A Bop and Beyond", eqs. 5-9.
    """
    if eps <= 0:
        raise ValueError(f"second_order_bop: eps is {eps}, must be positive")

    def direction(mu: Any, nu: Any, count: jax.Array) -> tuple[Any, Any]:
        if unbiased:
            t = count.astype(jnp.float32) + 1
            rates = (_at(gamma, count), _at(sigma, count))
            first, second = (1 - (1 - rate) ** t for rate in rates)
            mu = jax.tree.map(lambda m: m / first.astype(m.dtype), mu)
            nu = jax.tree.map(lambda v: v / second.astype(v.dtype), nu)
        return jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), mu, nu), nu

    return _flipping("second_order_bop", threshold, gamma, sigma, direction)


def binarize_params(params: Any, mask: Any) -> Any:
    """Params whose masked leaves are replaced by their signs (``sign(0) = +1``), for Bop.

    Args:
        params: pytree of arrays.
        mask: bools of its structure, see :func:`binjax.optim.variable_mask`.
    """
    return jax.tree.map(lambda p, binary: _sign(p) if binary else p, params, mask)


def _flipping(
    name: str,
    threshold: optax.ScalarOrSchedule,
    gamma: optax.ScalarOrSchedule,
    sigma: optax.ScalarOrSchedule | None,
    direction: Direction,
) -> optax.GradientTransformation:
    for what, value in (("gamma", gamma), ("sigma", sigma)):
        if isinstance(value, int | float) and not 0 < value <= 1:
            raise ValueError(f"{name}: {what} is {value}, must be in (0, 1]")
    if isinstance(threshold, int | float) and not threshold >= 0:  # NaN turns every weight
        raise ValueError(f"{name}: threshold is {threshold}, must not be negative")

    def init(params: optax.Params) -> BopState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        nu = () if sigma is None else jax.tree.map(jnp.zeros_like, params)
        return BopState(jnp.zeros([], jnp.int32), zeros, nu)

    def update(
        updates: optax.Updates, state: BopState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, BopState]:
        if params is None:
            raise ValueError(f"{name} needs the parameters: tx.update(updates, state, params)")
        tau = _at(threshold, state.count)
        mu = _average(state.mu, updates, _at(gamma, state.count))
        nu = state.nu
        if sigma is not None:
            squares = jax.tree.map(jnp.square, updates)
            nu = _average(state.nu, squares, _at(sigma, state.count))
        along, _ = direction(mu, nu, state.count)

        def flip(w: jax.Array, m: jax.Array) -> jax.Array:
            return _sign(-jnp.sign(w * m - tau.astype(w.dtype)) * w) - w

        steps = jax.tree.map(flip, params, along)
        return steps, BopState(optax.safe_increment(state.count), mu, nu)

    return optax.GradientTransformation(init, update)


def _average(old: Any, new: Any, rate: jax.Array) -> Any:
    return jax.tree.map(lambda m, g: m + rate.astype(m.dtype) * (g - m), old, new)


def _at(value: optax.ScalarOrSchedule, count: jax.Array) -> jax.Array:
    return jnp.asarray(value(count) if callable(value) else value, jnp.float32)


def _sign(x: jax.Array) -> jax.Array:
    return jnp.where(x >= 0, jnp.ones_like(x), -jnp.ones_like(x))
