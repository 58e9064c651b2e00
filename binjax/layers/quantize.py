"""Quantizers of layers: names resolved, parameters checked, stochastic ones drawn."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from binjax.layers.learned import QUANTIZER_MODULES, RSign, ScaledSign
from binjax.ste import QUANTIZERS, Quantizer, Stochastic

QuantizerLike = str | Mapping[str, Any] | Quantizer | Stochastic | None
"""A name, a table ``{"kind": name, **parameters}``, a function or NNX module, or None."""


def resolve_quantizer(
    quantizer: QuantizerLike, n: int, name: str = "a quantizer"
) -> Quantizer | Stochastic | None:
    """The quantizer that a name or table stands for; functions, modules and None pass through.

    Args:
        quantizer: see :data:`QuantizerLike`.
        n: channels along the last axis of what is quantized, for quantizers that have parameters
            per channel.
        name: what a message calls it: the layer and the argument.

    Raises:
        ValueError: unknown name or parameter, a parameter out of range, a module made for another
            number of channels.
        TypeError: nothing that can be called on an array.
    """
    if isinstance(quantizer, str):
        quantizer = {"kind": quantizer}
    if isinstance(quantizer, Mapping):
        return _of_table(quantizer, n, name)
    if isinstance(quantizer, type):
        raise TypeError(f"{name} is the class {quantizer.__name__}; give an instance, or its name")
    if quantizer is not None and not isinstance(quantizer, Stochastic | Callable):
        raise TypeError(
            f"{name} is a name, a table, a function or module, or None; not {quantizer!r}"
        )
    width = quantizer.n if isinstance(quantizer, RSign | ScaledSign) else None
    if width not in (None, n):
        raise ValueError(f"{name}: {name_of(quantizer)} is of {width} channels, wanted {n}")
    return quantizer


def _of_table(table: Mapping[str, Any], n: int, name: str) -> Quantizer | Stochastic:
    # Files cannot say None.
    options = {key: None if value == "none" else value for key, value in table.items()}
    kind = str(options.pop("kind", None))
    known = {**QUANTIZERS, **QUANTIZER_MODULES}
    if kind not in known:
        raise ValueError(f"{name}: unknown quantizer {kind!r}; {_nearest(kind, known)}")
    found = known[kind]
    parameters = _parameters(found)
    for key in options:
        if key not in parameters:
            hint = _nearest(key, parameters)
            raise ValueError(f"{name}: quantizer {kind!r} has no parameter {key!r}; {hint}")
    try:
        return _with_options(found, n, options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: quantizer {kind!r}: {error}") from None


def _with_options(found: Any, n: int, options: Mapping[str, Any]) -> Quantizer | Stochastic:
    if isinstance(found, type):
        module: Quantizer = found(n, **options)
        return module
    if not options:
        quantizer: Quantizer | Stochastic = found
        return quantizer
    if isinstance(found, Stochastic):
        draw, after = (functools.partial(f, **options) for f in (found.training, found.evaluation))
        return Stochastic(draw, after, found.bits)
    bound = functools.partial(found, **options)
    jax.eval_shape(bound, jax.ShapeDtypeStruct((2, n), jnp.float32))
    return bound


def _parameters(found: Any) -> list[str]:
    function = found.training if isinstance(found, Stochastic) else found
    function = found.__init__ if isinstance(found, type) else function  # type: ignore[misc]
    return [p for p in inspect.signature(function).parameters if p not in ("self", "n", "key", "x")]


def _nearest(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"


def resolve_kernel_quantizer(
    quantizer: QuantizerLike, n: int, name: str = "a kernel quantizer"
) -> Quantizer | None:
    """As :func:`resolve_quantizer`; kernels take deterministic quantizers only."""
    found = resolve_quantizer(quantizer, n, name)
    if isinstance(found, Stochastic):
        raise ValueError(f"{name} must be deterministic; stochastic ones are for inputs")
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
