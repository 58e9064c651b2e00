"""A model as a flat chain of named modules, and whether its numbers are numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from binjax.deploy.operations import DeployError
from binjax.layers import Repeat, Sequential


@dataclass(frozen=True)
class Named:
    """A module under the name it has in the network."""

    name: str
    module: nnx.Module


def in_order(module: nnx.Module, prefix: str = "") -> Iterator[Named]:
    """The modules of nested chains, first to last; repeated blocks one after the other."""
    if isinstance(module, Sequential):
        for name in module.names:
            yield from in_order(getattr(module, name), f"{prefix}{name}/")
    elif isinstance(module, Repeat):
        graphdef, state = nnx.split(module.block)
        for i in range(module.count):
            own = jax.tree.map(lambda leaf, i=i: leaf[i], state)
            yield from in_order(nnx.merge(graphdef, own), f"{prefix}{i}/")
    else:
        yield Named(prefix.removesuffix("/") or type(module).__name__, module)


def check_finite(model: nnx.Module) -> None:
    """Refuse parameters and statistics that are not numbers.

    Raises:
        DeployError: NaN or infinity, with its place.
    """
    for path, variable in nnx.to_flat_state(nnx.state(model)):
        values = np.asarray(variable[...])
        if not np.issubdtype(values.dtype, np.floating) and values.dtype != jnp.bfloat16:
            continue
        wrong = ~np.isfinite(values.astype(np.float64))
        if wrong.any():
            at = tuple(int(i) for i in np.argwhere(wrong)[0])
            name = "/".join(map(str, path))
            raise DeployError(
                f"{name} is {values[at]} at {list(at)}: the network is broken; take an earlier "
                "checkpoint or train again"
            )
