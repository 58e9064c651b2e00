"""What an epoch's line says of each layer: flips, dead weights, how inputs use their sign."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from binjax import metrics
from binjax.config import optimizers
from binjax.layers import BinaryWeight, capture
from binjax.layers.base import BinaryLayer
from binjax.layers.recording import Recorded
from binjax.ste import Quantizer, Stochastic, precision, sign_input_of
from binjax.train.state import TrainState

Preprocess = Callable[[jax.Array], jax.Array]
Flips = Callable[[Any, Any], dict[str, jax.Array]]


def binary_layers(model: nnx.Module) -> dict[str, BinaryLayer]:
    """Layers with latent weights by path, such as ``"conv2"``."""
    return {
        path: layer
        for path, layer in _layers(model).items()
        if isinstance(layer.kernel, BinaryWeight)
    }


def pack_kernels(model: nnx.Module) -> dict[str, jax.Array]:
    """Which values binary kernels have, as bits by layer: see :func:`binjax.metrics.pack_planes`.

    Of the quantized kernels, since one that is centred or ternary has other signs than its latent
    weights.
    """
    return {
        path: metrics.pack_planes(_planes(layer)) for path, layer in binary_layers(model).items()
    }


def make_flips(graphdef: nnx.GraphDef[Any]) -> Flips:
    """``flips(before, after)``: by layer, the share of binary weights that differ.

    Both are ``(params, stats)``. Between two steps it is the FF ratio of Liu et al. 2021, "How do
    Adam and training strategies help BNNs optimization", §4.3.
    """

    def flips(before: Any, after: Any) -> dict[str, jax.Array]:
        old = pack_kernels(nnx.merge(graphdef, *before))
        new = binary_layers(nnx.merge(graphdef, *after))
        return {
            path: metrics.packed_flip_ratio(old[path], _planes(layer))
            for path, layer in new.items()
        }

    return flips


def make_telemetry(
    graphdef: nnx.GraphDef[Any],
    preprocess: Preprocess,
    options: optimizers.Optimizer,
    steps_per_epoch: int,
) -> Callable[[TrainState, Any], Recorded]:
    """``telemetry(state, images)``: per layer, scalars on the device; jitted.

    For layers with binary weights ``flip_ratio`` since the epoch's start, ``c2i``, the correlation
    to the run's start, ``ff_ratio``, the mean of :func:`make_flips` over the epoch's steps where
    these count them, and ``dead``: latent weights at the optimizer's clip, or that no gradient
    reaches. Weights that only flip have none. For layers that quantize their input ``saturated``,
    the share that no gradient reaches, and if it becomes one bit, ``sign_entropy`` and
    ``sign_margin`` of what the sign is taken of; on the given images.
    """
    latent = None if isinstance(options, optimizers.Bop) else options

    def telemetry(state: TrainState, images: jax.Array) -> Recorded:
        model = nnx.merge(graphdef, state.params, state.stats)
        recorded = capture(nnx.merge(graphdef, state.params, state.stats), preprocess(images))
        found: Recorded = {}
        for path, layer in binary_layers(model).items():
            planes = _planes(layer)
            ever = metrics.packed_flip_ratio(state.start_signs[path], planes)
            found[path] = {
                "flip_ratio": metrics.packed_flip_ratio(state.epoch_signs[path], planes),
                "c2i": 1 - 2 * ever,
            }
            if path in state.flips:
                found[path]["ff_ratio"] = state.flips[path] / steps_per_epoch
            if latent is not None:
                found[path]["dead"] = metrics.dead_weights(
                    layer.kernel[...], latent.clip or None, layer.kernel_quantizer
                )
        for path, layer in _layers(model).items():
            x = recorded.get(path, {}).get("preactivation")
            if layer.input_quantizer is not None and x is not None:
                found[path] = found.get(path, {}) | _of_inputs(layer.input_quantizer, x)
        return found

    return jax.jit(telemetry)


def _layers(model: nnx.Module) -> dict[str, BinaryLayer]:
    return {
        "/".join(map(str, path)): layer
        for path, layer in nnx.iter_modules(model)
        if isinstance(layer, BinaryLayer)
    }


def _planes(layer: BinaryLayer) -> tuple[jax.Array, ...]:
    assert layer.kernel_quantizer is not None
    return metrics.value_planes(layer.kernel_quantizer, layer.kernel[...])


def _of_inputs(quantizer: Quantizer | Stochastic, x: jax.Array) -> dict[str, jax.Array]:
    unreached = metrics.unreached(quantizer, x)
    found = {"saturated": jnp.mean(unreached, dtype=jnp.float32)}
    if precision(quantizer) == 1:
        (high,) = metrics.value_planes(quantizer, x)
        inner = sign_input_of(quantizer)
        found["sign_entropy"] = metrics.sign_entropy(jnp.where(high, 1.0, -1.0))
        found["sign_margin"] = metrics.sign_margin(x if inner is None else inner(x))
    return found
