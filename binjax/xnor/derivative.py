"""What the gradients of binary products need, keep and refuse."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from binjax.packing import pack_positive, unpack_bits


def varying_alike(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """The arrays, each marked as varying over every manual mesh axis over which one of them does.

    Under ``shard_map`` the gradient of an operand has to vary as the operand does; the mark's own
    transpose is the sum over the mesh axes that this takes.
    """
    varying = [jax.typeof(a).manual_axis_type.varying for a in arrays]
    union = frozenset[Any]().union(*varying)
    return tuple(
        jax.lax.pcast(a, tuple(union - own), to="varying") if union - own else a
        for a, own in zip(arrays, varying, strict=True)
    )


def inside(x: jax.Array) -> jax.Array:
    """Where the straight-through gradient passes, ``|x| <= 1``, as words along the last axis."""
    return pack_positive(jnp.abs(x) <= 1)


def where_inside(words: jax.Array, g: jax.Array) -> jax.Array:
    """Gradient that passes where the words say so."""
    return jnp.where(unpack_bits(words, g.shape[-1], jnp.bool_), g, jnp.zeros_like(g))


@jax.custom_jvp
def only_once_differentiable(x: jax.Array) -> jax.Array:
    """Identity whose derivative is refused.

    Used where gradients are computed from bits: a derivative of those would silently be zero.
    """
    return x


@only_once_differentiable.defjvp
def _refuse_second_derivative(primals: Any, tangents: Any) -> Any:
    raise TypeError(
        "binary products have no second derivatives (bits are kept, not the operands); "
        "for those multiply in floats: ste_sign(x) @ ste_sign(w)"
    )
