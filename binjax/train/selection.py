"""Parameters chosen by what they are, or by their paths."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Callable, Sequence
from typing import Any

import jax
from flax import nnx

from binjax.config import ConfigError
from binjax.layers import BinaryWeight


def _kernel(variable: nnx.Variable[Any]) -> bool:
    return bool(variable.ndim >= 2)


def _binary(variable: nnx.Variable[Any]) -> bool:
    return isinstance(variable, BinaryWeight)


_KINDS: dict[str, Callable[[nnx.Variable[Any]], bool]] = {
    "all": lambda variable: True,
    "kernels": _kernel,
    "real": lambda variable: _kernel(variable) and not _binary(variable),
    "binary": _binary,
}


def chosen(words: Sequence[str], path: str, variable: nnx.Variable[Any]) -> bool:
    """Whether a parameter is among those that ``words`` name.

    Args:
        words: ``"all"``; ``"kernels"``, of two axes or more; of these those of real layers,
            ``"real"``, or latent weights, ``"binary"`` (Liu et al. 2021, "How do Adam and training
            strategies help BNNs optimization", §4.2, lets these free in their last stage); or
            patterns of paths, whose ``*`` stands for any characters, ``/`` too.
        path: such as ``"block1/conv/kernel"``.
        variable: the parameter; may be abstract.
    """
    return any(
        _KINDS[word](variable) if word in _KINDS else fnmatch.fnmatchcase(path, word)
        for word in words
    )


def named(key: str, words: Sequence[str], model: nnx.Module) -> list[tuple[str, nnx.Variable[Any]]]:
    """The parameters that ``words`` name, with their paths.

    Args:
        key: of the config, for the message.
        words: see :func:`chosen`.
        model: may be abstract.

    Raises:
        ConfigError: a pattern that matches no parameter, with the nearest paths.
    """
    params = jax.tree_util.tree_leaves_with_path(nnx.state(model, nnx.Param), is_leaf=_is_variable)
    variables = {_path(path): variable for path, variable in params}
    for word in words:
        if word in _KINDS or any(fnmatch.fnmatchcase(path, word) for path in variables):
            continue
        near = difflib.get_close_matches(word, [*_KINDS, *variables], n=3, cutoff=0.4)
        raise ConfigError(
            f"{key}: {word!r} matches no parameter; give {', '.join(_KINDS)}, or a pattern of "
            f"paths such as {', '.join(near or list(variables)[:3])}"
        )
    return [(path, v) for path, v in variables.items() if chosen(words, path, v)]


def select(
    key: str, words: Sequence[str], model: nnx.Module, but: Sequence[str] = ()
) -> dict[str, Any]:
    """Which parameters ``words`` name and ``but`` does not: a plain dict of bools.

    Args:
        key, words, model: see :func:`named`.
        but: in the same words.

    Raises:
        ConfigError: see :func:`named`.
    """
    names = {path for path, _ in named(key, words, model)}

    def flag(path: Any, variable: nnx.Variable[Any]) -> bool:
        name = _path(path)
        return name in names and not chosen(but, name, variable)

    params = nnx.state(model, nnx.Param)
    flags = jax.tree_util.tree_map_with_path(flag, params, is_leaf=_is_variable)
    return nnx.to_pure_dict(flags)


def _path(path: Any) -> str:
    """``"block1/conv/kernel"`` of a key path."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _is_variable(leaf: Any) -> bool:
    return isinstance(leaf, nnx.Variable)
