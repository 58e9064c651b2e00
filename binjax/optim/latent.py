"""What latent weights need of a chain: Glorot's scale, clipping, and a mask that finds them."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx


def scale_by_glorot(
    mask: Any | None = None, *, power_of_two: bool = False
) -> optax.GradientTransformation:
    """Multiply each update by ``1/sqrt(1.5/(fan_in + fan_out))``, BinaryNet's "Glorot" scale.

    Args:
        mask: pytree of bools over the parameters (see :func:`variable_mask`); None scales all.
        power_of_two: round each factor with AP2, as the Torch code does for CIFAR and SVHN.

    Raises:
        ValueError: on a parameter with fewer than two axes (dense ``(in, out)``, conv ``HWIO``).
    """

    def scaled(path: Any, update: jax.Array) -> jax.Array:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return update * glorot_scale(update.shape, power_of_two=power_of_two, name=name)

    def update(
        updates: optax.Updates, state: optax.EmptyState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.EmptyState]:
        del params
        return jax.tree_util.tree_map_with_path(scaled, updates), state

    return _masked(optax.GradientTransformation(optax.init_empty_state, update), mask)


def glorot_scale(
    shape: tuple[int, ...], *, power_of_two: bool = False, name: str = "parameter"
) -> float:
    """``1/sqrt(1.5/(fan_in + fan_out))`` of a kernel shape ``(in, out)`` or ``(..., in, out)``.

    With ``power_of_two`` rounded in log space, half upwards.

    Raises:
        ValueError: fewer than two axes; the message calls the parameter ``name``.
    """
    if len(shape) < 2:
        raise ValueError(
            f"{name} of shape {shape} has no fan-in and fan-out; mask it out of the Glorot scale"
        )
    square = math.prod(shape[:-2]) * (shape[-2] + shape[-1]) / 1.5
    if power_of_two:
        return 2.0 ** math.floor((math.log2(square) + 1) / 2)
    return math.sqrt(square)


def clip_latent(limit: float = 1.0, mask: Any | None = None) -> optax.GradientTransformation:
    """Keep latent weights in ``[-limit, limit]``. Must be the last transform of the chain.

    Weights that start in the range never leave it; where a step is cut they land on ``±limit``
    or, since an update is added in floating point, one ulp inside of it.

    Args:
        limit: > 0; beyond 1, ``ste_sign`` passes no gradient to a weight.
        mask: pytree of bools over the parameters (see :func:`variable_mask`); None clips all.

    Raises:
        ValueError: ``update`` is called without the parameters.
    """

    def clipped(update: jax.Array, param: jax.Array) -> jax.Array:
        bound = jnp.asarray(limit, param.dtype)
        target = param + update
        step = jnp.clip(target, -bound, bound) - param
        # The rounded difference can overshoot by an ulp: one ulp of the step back inside.
        integer = jnp.dtype(f"int{8 * param.dtype.itemsize}")
        beyond = (jnp.abs(param + step) > bound).astype(integer)
        bits = jax.lax.bitcast_convert_type(step, integer) - beyond
        step = jax.lax.bitcast_convert_type(bits, param.dtype)
        return jnp.where(jnp.abs(target) <= bound, update, step)

    def update(
        updates: optax.Updates, state: optax.EmptyState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.EmptyState]:
        if params is None:
            raise ValueError("clip_latent needs the parameters: tx.update(updates, state, params)")
        return jax.tree.map(clipped, updates, params), state

    return _masked(optax.GradientTransformation(optax.init_empty_state, update), mask)


def _masked(transform: optax.GradientTransformation, mask: Any) -> optax.GradientTransformation:
    return transform if mask is None else optax.masked(transform, mask)


def variable_mask(model: nnx.Module, kind: type[nnx.Variable[Any]]) -> dict[str, Any]:
    """Which parameters of ``model`` are of a variable type: a plain dict of bools.

    It has the structure of ``nnx.to_pure_dict(nnx.state(model, nnx.Param))``, as the ``mask`` of
    :func:`clip_latent`, :func:`scale_by_glorot` and ``optax.masked`` want it.
    """
    params = nnx.state(model, nnx.Param)
    flags = jax.tree.map(
        lambda v: isinstance(v, kind), params, is_leaf=lambda v: isinstance(v, nnx.Variable)
    )
    return nnx.to_pure_dict(flags)
