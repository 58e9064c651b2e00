"""What importers share: the layers of a network that hold arrays, and a copy filled with others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple, TypeVar

import jax.numpy as jnp
import numpy as np
from flax import nnx

from binjax.deploy.operations import (
    DeployError,
)
from binjax.layers import BatchNorm, BinaryConv, BinaryDense, Flatten, Sequential
from binjax.layers.norm import Running

Path = tuple[str, ...]
Place = tuple[Path, str]
Model = TypeVar("Model", bound=nnx.Module)

KINDS: Mapping[int, str] = MappingProxyType(
    {1: "batch normalization", 2: "dense layer", 4: "convolution"}
)
"""Layers by the number of axes of their largest array."""

_VARIABLES = ("kernel", "scale", "bias", "mean", "spread")


class Layer(NamedTuple):
    """A layer that holds arrays.

    Attributes:
        path: names of modules that lead to it.
        module: itself.
        channels: of the feature map that a flattening in front of a dense layer flattens; 1 where
            there is none, or it flattens images.
    """

    path: Path
    module: BinaryDense | BinaryConv | BatchNorm
    channels: int

    @property
    def name(self) -> str:
        """What a message calls it."""
        return "/".join(self.path) or type(self.module).__name__

    @property
    def kind(self) -> str:
        """Which kind of layer of another framework fills it."""
        return KINDS[max(len(shape) for shape in self.shapes.values())]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of its variables by attribute, those it has not left out."""
        found = {name: getattr(self.module, name, None) for name in _VARIABLES}
        return {name: v[...].shape for name, v in found.items() if v is not None}


def layers_of(model: nnx.Module, running: Running, source: str) -> list[Layer]:
    """The layers that hold arrays, in order.

    Args:
        model: a ``Sequential``, or one layer.
        running: what a batch norm has to average: what the file holds.
        source: whose files these are, for messages.

    Raises:
        DeployError: a module that such a file cannot fill, or a batch norm of the other kind.
    """
    layers: list[Layer] = []
    mapped = channels = 1
    for path, module in _in_order(model, ()):
        if isinstance(module, Flatten):
            channels = mapped
        elif isinstance(module, BinaryDense | BinaryConv | BatchNorm):
            layers.append(Layer(path, module, channels))
            _check_norm(layers[-1], running, source)
            if isinstance(module, BinaryConv):
                mapped = module.n_out
            elif isinstance(module, BinaryDense):
                mapped = channels = 1
        elif nnx.to_flat_state(nnx.state(module, (nnx.Param, nnx.BatchStat))):
            raise DeployError(
                f"{'/'.join(path) or 'the model'} is a {type(module).__name__}, which {source} "
                "files do not hold; known are BinaryDense, BinaryConv and BatchNorm in Sequential"
            )
    if not layers:
        raise DeployError("the model has no layer that weights could be read into")
    return layers


def checked(array: np.ndarray, theirs: str, layer: Layer, attribute: str) -> np.ndarray:
    """An array of the file as float32 values of one of the layer's variables, in the same order.

    Args:
        array: already of the variable's shape.
        theirs: what a message calls the array, with its file.
        layer, attribute: the variable.

    Raises:
        DeployError: not real numbers; NaN, infinity, or a spread that is none.
    """
    if not (np.issubdtype(array.dtype, np.floating) or np.issubdtype(array.dtype, np.integer)):
        raise DeployError(f"{theirs} has dtype {array.dtype}; expected real numbers")
    with np.errstate(over="ignore", under="ignore"):
        values = array.astype(np.float32)
    _refuse_where(~np.isfinite(values), array, theirs)
    # float64 weights that are too small for float32 would become -0.0, whose sign is +1.
    lost = (array < 0) & (values == 0)
    values[lost] = -np.finfo(np.float32).tiny
    if attribute == "spread":
        inverse = isinstance(layer.module, BatchNorm) and layer.module.running == "inverse_std"
        _refuse_where(values <= 0 if inverse else values < 0, array, theirs)
    return values


def fill(model: Model, values: Mapping[Place, np.ndarray]) -> Model:
    """A copy of the model whose variables, by (path of a module, attribute), have these values."""
    copy = nnx.clone(model)
    for (path, attribute), array in values.items():
        module: nnx.Module = copy
        for name in path:
            module = getattr(module, name)
        getattr(module, attribute).set_value(jnp.asarray(array, jnp.float32))
    return copy


def _in_order(module: nnx.Module, path: Path) -> Iterator[tuple[Path, nnx.Module]]:
    if not isinstance(module, Sequential):
        yield path, module
        return
    for name in module.names:
        yield from _in_order(getattr(module, name), (*path, name))


def _check_norm(layer: Layer, running: Running, source: str) -> None:
    norm = layer.module
    if isinstance(norm, BatchNorm) and norm.running != running:
        raise DeployError(
            f"{layer.name} averages the {norm.running}, and {source} files hold the {running}; "
            f'build the model with norm = {{"kind": "batch", "running": "{running}"}}'
        )


def _refuse_where(wrong: np.ndarray, array: np.ndarray, theirs: str) -> None:
    if wrong.any():
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise DeployError(f"{theirs} is {array[at]:g} at {list(at)}; no working network has that")
