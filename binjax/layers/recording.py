"""Looking at what happens inside a network, without changing how it is called."""

from __future__ import annotations

from typing import Any, TypeVar

import jax
from flax import nnx

_MARK = "passed:"
Watched = TypeVar("Watched")
Recorded = dict[str, dict[str, jax.Array]]
Calls = dict[str, dict[str, tuple[jax.Array, ...]]]


class Passed(nnx.Variable[jax.Array]):
    """What a layer of a chain hands to the next one, for :func:`binjax.layers.apply_watched`."""


def record_passed(module: nnx.Module, name: str, value: jax.Array) -> None:
    """Give the output of layer ``name`` of a chain to a surrounding capture of them."""
    if hasattr(module, "__captures__"):
        module.sow(Passed, _MARK + name, value)  # the name itself is the layer's


def record(module: nnx.Module, name: str, value: jax.Array) -> None:
    """Give ``value`` to a surrounding ``nnx.capture``; do nothing outside of one."""
    if hasattr(module, "__captures__"):
        module.sow(nnx.Intermediate, name, value)


def unwatched(module: Watched) -> Watched:
    """The module itself; under a capture, a copy that records nothing.

    For the bodies of loops: what is recorded there cannot leave them, and under a capture a module
    has variables that its parameters and statistics are not all of.
    """
    if not hasattr(module, "__captures__"):
        return module
    copy: Watched = nnx.clone(module)
    for _, inner in nnx.iter_modules(copy):  # type: ignore[arg-type]
        if hasattr(inner, "__captures__"):
            del inner.__captures__
    return copy


def capture(model: nnx.Module, x: jax.Array) -> Recorded:
    """What layers record in an evaluation pass: ``{layer path: {name: array}}``.

    Binary layers record their ``output`` and, where they binarize their input, the
    ``preactivation``. The model is changed by it: pass a freshly merged one.
    """
    _, recorded = nnx.capture(model, nnx.Intermediate)(x, train=False)
    return _first_calls(recorded)


def record_calls(model: nnx.Module, x: jax.Array) -> tuple[jax.Array, Calls]:
    """Scores of an evaluation pass, and what layers record at each of their calls.

    As :func:`capture`, which has the first call only.
    """
    scores, recorded = nnx.capture(model, nnx.Intermediate)(x, train=False)
    found: Calls = {}
    _collect(found, (), nnx.to_pure_dict(recorded))
    return scores, found


def flatten_passed(state: Any) -> dict[str, jax.Array]:
    """What :func:`record_passed` gave, by layer path such as ``"stage2/conv1"``."""
    return {
        f"{chain}/{name.removeprefix(_MARK)}".removeprefix("/"): value
        for chain, values in _first_calls(state).items()
        for name, value in values.items()
    }


def _first_calls(state: Any) -> Recorded:
    found: Calls = {}
    _collect(found, (), nnx.to_pure_dict(state))
    return {
        layer: {name: value[0] for name, value in values.items()} for layer, values in found.items()
    }


def _collect(found: Calls, path: tuple[str, ...], value: Any) -> None:
    if isinstance(value, dict):
        for name, inner in value.items():
            _collect(found, (*path, str(name)), inner)
    else:
        found.setdefault("/".join(path[:-1]), {})[path[-1]] = value
