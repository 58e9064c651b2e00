"""Quantizers of layers: names resolved, parameters checked, stochastic ones drawn."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from binjax.layers.learned import QUANTIZER_MODULES
from binjax.ste import QUANTIZERS, Quantizer, Stochastic

QuantizerLike = str | Mapping[str, Any] | Quantizer | Stochastic | None
"""A name, a table ``{"kind": name, **parameters}``, a function or NNX module, or None."""


def resolve_quantizer(quantizer: QuantizerLike, n: int) -> Quantizer | Stochastic | None:
    """The quantizer that a name or table stands for; functions, modules and None pass through.

    Args:
        quantizer: see :data:`QuantizerLike`.
        n: channels along the last axis of what is quantized, for quantizers that have parameters
            per channel.

    Raises:
        ValueError: unknown name or parameter, a parameter out of range.
        TypeError: nothing that can be called.
    """
    if isinstance(quantizer, str):
        quantizer = {"kind": quantizer}
    if not isinstance(quantizer, Mapping):
        if quantizer is not None and not isinstance(quantizer, Stochastic | Callable):
            raise TypeError(
                f"a quantizer is a name, a table, a function or module, or None; not {quantizer!r}"
            )
        return quantizer
    # Files cannot say None.
    options = {key: None if value == "none" else value for key, value in quantizer.items()}
    name = str(options.pop("kind", None))
    if name in QUANTIZER_MODULES:
        kind = QUANTIZER_MODULES[name]
        _check_options(name, kind, options)
        module: Quantizer = _made(name, functools.partial(kind, n, **options))
        return module
    if name not in QUANTIZERS:
        known = [*QUANTIZERS, *QUANTIZER_MODULES]
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
        raise ValueError(f"unknown quantizer {name!r}; {hint}")
    found = QUANTIZERS[name]
    if not options:
        return found
    evaluation = found.evaluation if isinstance(found, Stochastic) else found
    _check_options(name, found.training if isinstance(found, Stochastic) else found, options)
    bound = functools.partial(evaluation, **options)
    like = jax.ShapeDtypeStruct((2, n), jnp.float32)
    _made(name, lambda: jax.eval_shape(bound, like))
    if isinstance(found, Stochastic):
        training = functools.partial(found.training, **options)
        return Stochastic(training, bound, found.bits)
    return bound


def _check_options(name: str, quantizer: Callable[..., Any], options: Mapping[str, Any]) -> None:
    made = quantizer.__init__ if isinstance(quantizer, type) else quantizer  # type: ignore[misc]
    parameters = inspect.signature(made).parameters
    known = [key for key, p in parameters.items() if p.default is not inspect.Parameter.empty]
    for key in options:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known)}"
            raise ValueError(f"quantizer {name!r} has no parameter {key!r}; {hint}")


def _made(name: str, make: Callable[[], Any]) -> Any:
    try:
        return make()
    except (TypeError, ValueError) as error:
        raise ValueError(f"quantizer {name!r}: {error}") from None


def resolve_kernel_quantizer(quantizer: QuantizerLike, n: int) -> Quantizer | None:
    """As :func:`resolve_quantizer`; kernels take deterministic quantizers only."""
    found = resolve_quantizer(quantizer, n)
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
    if isinstance(quantizer, Stochastic) and isinstance(quantizer.training, functools.partial):
        quantizer = quantizer.training
    if isinstance(quantizer, functools.partial):
        given = ", ".join(f"{name}={value!r}" for name, value in quantizer.keywords.items())
        return f"{name_of(quantizer.func)}({given})"
    for name, known in QUANTIZERS.items():
        if quantizer is known:
            return name
    for name, kind in QUANTIZER_MODULES.items():
        if isinstance(quantizer, nnx.Module) and type(quantizer) is kind:
            return name
    return str(getattr(quantizer, "__name__", quantizer))
