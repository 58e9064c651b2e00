"""How far the declared gradients of signs lead from those of a network that has none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from binjax.layers import BinaryWeight
from binjax.layers.base import BinaryLayer
from binjax.layers.functional import split
from binjax.metrics import gradient_cosine
from binjax.optim import variable_mask
from binjax.ste import Stochastic, factors_of, hard_tanh, is_sign
from binjax.train.state import TrainState, binary_weights
from binjax.train.step import Advance, Loss, Preprocess, make_gradient

Probe = Callable[[TrainState, Any, Any], dict[str, jax.Array]]


def make_probe(model: nnx.Module, loss: Loss, preprocess: Preprocess, advance: Advance) -> Probe:
    """``probe(state, images, labels)``: per layer of binary weights, a cosine; jitted.

    Of the gradient of its latent weights and that of :func:`relaxed`'s network, on one batch in
    training, without augmentation: the gradient mismatch of straight-through estimators.

    Args:
        model: what is trained; may be abstract.
        loss, preprocess, advance: see :func:`binjax.train.step.make_gradient`.
    """
    mask = variable_mask(model, BinaryWeight)
    both = [
        make_gradient(split(network)[0], loss, lambda key, x: x, preprocess, advance)
        for network in (model, relaxed(model))
    ]

    def probe(state: TrainState, images: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
        ours, theirs = (
            binary_weights(gradient(state, images, labels)[1], mask) for gradient in both
        )
        return {layer: gradient_cosine(ours[layer], theirs[layer]) for layer in ours}

    return jax.jit(probe)


def relaxed(model: nnx.Module) -> nnx.Module:
    """A copy with ``clip(x, -1, 1)`` in place of each sign, times the sign's scale if it has one.

    Products become products of floats. Quantizers with variables of their own, those of more than
    two values, and layers of pixels stay.
    """
    copy: nnx.Module = nnx.merge(*nnx.split(model))
    for _, layer in nnx.iter_modules(copy):
        if isinstance(layer, BinaryLayer) and layer.pixels is None:
            layer.input_quantizer = _without_sign(layer.input_quantizer)
            layer.kernel_quantizer = _without_sign(layer.kernel_quantizer)
            layer.backend = "float"
    return copy


def _without_sign(quantizer: Any) -> Any:
    if isinstance(quantizer, Stochastic):
        return hard_tanh
    if quantizer is None or isinstance(quantizer, nnx.Module) or not is_sign(quantizer):
        return quantizer
    factors = factors_of(quantizer)
    if factors is None:
        return hard_tanh

    def scaled(x: jax.Array) -> jax.Array:
        scale = jax.lax.stop_gradient(factors(x)[1])
        return hard_tanh(x) * scale.reshape((1,) * (x.ndim - 1) + (-1,))

    return scaled
