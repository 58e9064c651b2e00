"""Binarized networks in plain JAX, without binjax: what measurements of training compare with.

Signs with straight-through gradients are multiplied as floats, the way such networks are commonly
written. Parameters go by the names that binjax gives them, so that both can start alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

Tree = dict[str, dict[str, jax.Array]]


class Layer(NamedTuple):
    """A product and what stands behind it.

    Attributes:
        number: of the layer, from 1; its names are ``dense1`` and ``norm1``.
        kind: ``"dense"`` or ``"conv"`` (3x3).
        padding: of a convolution.
        pool: 2x2 max-pooling behind the product.
        flatten: the input is flattened first.
    """

    number: int
    kind: str
    padding: str = "SAME"
    pool: bool = False
    flatten: bool = False


class Net(NamedTuple):
    """A network: its layers and the batch normalization behind each."""

    layers: Sequence[Layer]
    eps: float
    momentum: float


@jax.custom_vjp
def sign(x: jax.Array) -> jax.Array:
    """±1; the gradient passes where ``|x| <= 1``."""
    return jnp.where(x >= 0, 1.0, -1.0)


def _sign_fwd(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return sign(x), x


def _sign_bwd(x: jax.Array, g: jax.Array) -> tuple[jax.Array]:
    return (jnp.where(jnp.abs(x) <= 1, g, 0.0),)


sign.defvjp(_sign_fwd, _sign_bwd)


def forward(
    net: Net, params: Tree, stats: Tree, x: jax.Array, binarize: bool
) -> tuple[jax.Array, Tree]:
    """Scores of scaled images ``[n, h, w, c]`` and the new batch statistics, as in training."""
    moved: Tree = {}
    for i, layer in enumerate(net.layers):
        kernel = params[f"{layer.kind}{layer.number}"]["kernel"]
        if binarize:
            kernel, x = sign(kernel), sign(x) if i else x
        if layer.flatten:
            x = x.reshape(x.shape[0], -1)
        if layer.kind == "dense":
            x = x @ kernel
        else:
            x = lax.conv_general_dilated(
                x, kernel, (1, 1), layer.padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
        if layer.pool:
            x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        name = f"norm{layer.number}"
        x, moved[name] = _normalize(net, params[name], stats[name], x)
    return x, moved


def _normalize(
    net: Net, params: dict[str, jax.Array], stats: dict[str, jax.Array], x: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    axes = tuple(range(x.ndim - 1))
    mean, variance = jnp.mean(x, axes), jnp.var(x, axes)
    y = (x - mean) * lax.rsqrt(variance + net.eps) * params.get("scale", 1.0) + params["bias"]
    kept = net.momentum
    moved = {
        "mean": kept * stats["mean"] + (1 - kept) * lax.stop_gradient(mean),
        "spread": kept * stats["spread"] + (1 - kept) * lax.stop_gradient(variance),
    }
    return y, moved


def make_step(net: Net, optimizer: Any, binarize: bool) -> Callable[..., Any]:
    """``step((params, stats, opt_state), images, labels) -> (state, loss)``, jitted, donating.

    Images are scaled floats; the loss is the squared hinge; kernels are clipped to [-1, 1].
    """

    def step(state: Any, images: jax.Array, labels: jax.Array) -> Any:
        params, stats, opt_state = state

        def loss(params: Tree) -> Any:
            scores, moved = forward(net, params, stats, images, binarize)
            targets = 2.0 * jax.nn.one_hot(labels, scores.shape[-1]) - 1.0
            return jnp.mean(jnp.square(jnp.maximum(0.0, 1.0 - targets * scores))), moved

        (value, moved), grads = jax.value_and_grad(loss, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        params = jax.tree_util.tree_map_with_path(
            lambda path, p: jnp.clip(p, -1, 1) if path[-1].key == "kernel" else p, params
        )
        return (params, moved, opt_state), value

    return jax.jit(step, donate_argnums=0)
