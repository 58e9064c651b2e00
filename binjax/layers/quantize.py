"""Quantizers of layers: names resolved, stochastic ones drawn."""

from __future__ import annotations

import jax

from binjax.ste import QUANTIZERS, Quantizer, Stochastic

QuantizerLike = str | Quantizer | Stochastic | None


def resolve_quantizer(quantizer: QuantizerLike) -> Quantizer | Stochastic | None:
    """The quantizer a name stands for; functions and None pass through.

    Raises:
        ValueError: unknown name.
    """
    if not isinstance(quantizer, str):
        return quantizer
    if quantizer not in QUANTIZERS:
        raise ValueError(f"unknown quantizer {quantizer!r}; known: {', '.join(QUANTIZERS)}")
    return QUANTIZERS[quantizer]


def resolve_kernel_quantizer(quantizer: QuantizerLike) -> Quantizer | None:
    """As :func:`resolve_quantizer`; kernels take deterministic quantizers only."""
    found = resolve_quantizer(quantizer)
    if isinstance(found, Stochastic):
        raise ValueError("a kernel quantizer must be deterministic; stochastic ones are for inputs")
    return found


def quantize(
    quantizer: Quantizer | Stochastic | None, x: jax.Array, *, train: bool, key: jax.Array | None
) -> jax.Array:
    """Apply a resolved quantizer; a stochastic one draws in training and needs ``key`` there."""
    if quantizer is None:
        return x
    if not isinstance(quantizer, Stochastic):
        return quantizer(x)
    if not train:
        return quantizer.evaluation(x)
    if key is None:
        raise ValueError("a stochastic input quantizer needs key=jax.random.key(...) in training")
    return quantizer.training(key, x)


def name_of(quantizer: Quantizer | Stochastic | None) -> str:
    """What a message calls a resolved quantizer."""
    for name, known in QUANTIZERS.items():
        if quantizer is known:
            return name
    return str(getattr(quantizer, "__name__", quantizer))
