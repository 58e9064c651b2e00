"""Starting a network from another run's weights, by path: float first, then binary."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from binjax import config as configs
from binjax.config import Config, ConfigError
from binjax.data import Dataset
from binjax.train.restore import restore_run
from binjax.train.rundir import RunFolder


class Transfer(NamedTuple):
    """What was copied, by path such as ``"dense1/kernel"``.

    Attributes:
        copied: from the other network.
        kept: of the new network alone, as it was initialized.
        unused: of the other network alone.
    """

    copied: tuple[str, ...]
    kept: tuple[str, ...]
    unused: tuple[str, ...]


def transfer(new: Any, old: Any) -> tuple[Any, Transfer]:
    """The tree ``new`` with the leaves of ``old`` that have the same path.

    Args:
        new, old: nested dicts of arrays, such as parameters or batch statistics.

    Raises:
        ValueError: a path that both have, with different shapes.
    """
    theirs, ours = _by_path(old), _by_path(new)
    for name, leaf in ours.items():
        if name in theirs and theirs[name].shape != leaf.shape:
            raise ValueError(
                f"{name} has shape {leaf.shape}, in the other network {theirs[name].shape}"
            )

    def choose(path: Any, leaf: jax.Array) -> jax.Array:
        other = theirs.get(_name(path))
        return leaf if other is None else jnp.asarray(other, leaf.dtype)

    report = Transfer(
        copied=tuple(name for name in ours if name in theirs),
        kept=tuple(name for name in ours if name not in theirs),
        unused=tuple(name for name in theirs if name not in ours),
    )
    return jax.tree_util.tree_map_with_path(choose, new), report


def load_weights(
    config: Config, dataset: Dataset, warn: Callable[[str], None]
) -> tuple[Any, Any] | None:
    """Parameters and statistics of the run that ``init_from`` names; None if there is none.

    Args:
        config: of the new run.
        dataset: what it is trained on; the other network has to take such images.
        warn: told of damaged checkpoints that were passed over.

    Raises:
        ValueError: no run there, no usable checkpoint; one line for the user.
    """
    if config.init_from is None:
        return None
    folder = RunFolder(Path(config.init_from).expanduser())
    if not folder.exists():
        raise ConfigError(f"init_from: {config.init_from} is not a run folder")
    trained = restore_run(configs.load(folder.config), folder, dataset, warn)
    return trained.params, trained.stats


def start_from(state: Any, weights: tuple[Any, Any], name: str) -> tuple[Any, Transfer]:
    """A new run's state with another network's weights and statistics.

    Args:
        state: as initialized.
        weights: parameters and statistics, see :func:`load_weights`.
        name: what a message calls the other run.

    Raises:
        ConfigError: shapes that differ, or nothing in common.
    """
    try:
        params, first = transfer(state.params, weights[0])
        stats, second = transfer(state.stats, weights[1])
    except ValueError as error:
        raise ConfigError(f"init_from: {name}: {error}") from None
    if not first.copied:
        raise ConfigError(
            f"init_from: {name}: no parameter has a path of this network; it has "
            f"{', '.join(first.unused[:3])} …, this one {', '.join(first.kept[:3])} …"
        )
    report = Transfer(*(a + b for a, b in zip(first, second, strict=True)))
    return state._replace(params=params, stats=stats), report


def _by_path(tree: Any) -> dict[str, jax.Array]:
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
