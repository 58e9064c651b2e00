"""Weights of Larq networks: HDF5 files of tf.keras."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from binjax.deploy.importers import keras
from binjax.deploy.importers.fill import Layer, Model, Place, checked, fill, layers_of
from binjax.deploy.operations import (
    DeployError,
)
from binjax.layers import BatchNorm, BinaryConv

_WEIGHTED = {"kernel": "kernel", "bias": "bias"}
_NORM = {"scale": "gamma", "bias": "beta", "mean": "moving_mean", "spread": "moving_variance"}


def load_larq(model: Model, path: str | Path) -> Model:
    """A copy of a model with the weights of a Larq network, or of any other one of tf.keras.

    QuantConv2D, QuantDense, Conv2D, Dense and BatchNormalization are read in order into our
    convolutions, dense layers and batch norms; layers without weights are passed over. Kernels,
    signs (+1 at zero), zero padding and flattening are the same there and here (with
    ``channels_last``). Latent weights are kept as they are, also outside [-1, 1].

    A weights file does not say everything: strides, padding, quantizers and the batch norms' eps
    (Keras' default is 1e-3) are the model's. Of a whole model's file these are compared, of
    quantizers whether the kernel has one. A softmax at the end is not part of ours: scores are its
    inputs. Larq's examples scale images to [-1, 1],
    ``p/127.5 - 1``: our ``pixels=True``.

    Source: larq 0.13 ``layers.py``; tf.keras 2.15, see :mod:`binjax.deploy.importers.keras`.

    Args:
        model: of the file's architecture, such as ``models.larq_cifar10``; it stays as it is.
        path: of ``save_weights("x.h5")``, ``save("x.h5")`` or ``save_weights("x.weights.h5")``.
            The last does not name the arrays of a layer: a beta without gamma cannot be told from
            a gamma without beta there.

    Returns:
        The filled copy; variables are float32.

    Raises:
        DeployError: h5py is missing; a file that is none such, or damaged; another number of
            layers, arrays of a layer, shape or setting, with both layers; NaN or infinity.
    """
    path = Path(path)
    layers = layers_of(model, "variance", "Keras'")
    saved = keras.read(path, [layer.kind for layer in layers])
    _check_kinds(path, saved, layers)
    values: dict[Place, np.ndarray] = {}
    for theirs, layer in zip(saved, layers, strict=True):
        _check_settings(path, theirs, layer)
        arrays = _by_attribute(path, theirs, layer)
        for attribute, (name, array) in arrays.items():
            shape = layer.shapes[attribute]
            if array.shape != shape:
                raise DeployError(
                    f"{path}: {theirs.name}/{name} has shape {array.shape}, and {layer.name} takes "
                    f"{shape} for its {attribute}"
                )
            what = f"{path}: {theirs.name}/{name}"
            values[layer.path, attribute] = checked(array, what, layer, attribute)
    return fill(model, values)


def _check_kinds(path: Path, saved: Sequence[keras.Saved], layers: Sequence[Layer]) -> None:
    for i, (theirs, ours) in enumerate(zip_longest(saved, layers)):
        if theirs is not None and ours is not None and theirs.kind == ours.kind:
            continue
        found = "it ends" if theirs is None else f"it has {theirs.name} (a {theirs.kind})"
        takes = "ends" if ours is None else f"has {ours.name} (a {ours.kind})"
        raise DeployError(
            f"{path} has {len(saved)} layers with weights, the model {len(layers)}; behind "
            f"{i} of them {found} where the model {takes}"
        )


def _by_attribute(
    path: Path, theirs: keras.Saved, layer: Layer
) -> dict[str, tuple[str, np.ndarray]]:
    """Our attribute to the name of its array in the file, and the array."""
    names = _NORM if isinstance(layer.module, BatchNorm) else _WEIGHTED
    takes = {ours: name for ours, name in names.items() if ours in layer.shapes}
    if theirs.is_named:
        same = set(theirs.arrays) == set(takes.values())
        order = list(takes.values())
    else:
        same = len(theirs.arrays) == len(takes)
        order = list(theirs.arrays)
    if not same:
        has = ", ".join(theirs.arrays) if theirs.is_named else f"{len(theirs.arrays)} arrays"
        raise DeployError(
            f"{path}: {theirs.name} has {has}, and {layer.name} takes {', '.join(takes.values())}; "
            "build the model with the same parameters (use_scale, use_bias)"
        )
    return {ours: (name, theirs.arrays[name]) for ours, name in zip(takes, order, strict=True)}


def _check_settings(path: Path, theirs: keras.Saved, layer: Layer) -> None:
    for name, ours in _settings(layer):
        value = theirs.settings.get(name, ours)
        if name == "kernel_quantizer" and theirs.settings:
            value = theirs.settings.get(name) is not None
        if not _same(value, ours):
            raise DeployError(
                f"{path}: {theirs.name} has {name} {_shown(value)}, and {layer.name} "
                f"{_shown(ours)}; build the model with the same"
            )


def _settings(layer: Layer) -> Iterator[tuple[str, Any]]:
    """What Keras calls settings of ours that change what the layer computes."""
    module = layer.module
    if isinstance(module, BatchNorm):
        yield "epsilon", module.eps
        return
    yield "kernel_quantizer", module.kernel_quantizer is not None
    if isinstance(module, BinaryConv):
        yield "data_format", "channels_last"
        yield "strides", list(module.strides)
        yield "dilation_rate", list(module.dilation)
        yield "padding", str(module.padding).lower()
        if module.padding == "SAME":
            yield "pad_values", module.pad_value


def _same(theirs: Any, ours: Any) -> bool:
    if isinstance(ours, float):
        return isinstance(theirs, int | float) and math.isclose(theirs, ours, rel_tol=1e-6)
    return bool(theirs == ours)


def _shown(value: Any) -> str:
    return {True: "set", False: "not set"}[value] if isinstance(value, bool) else str(value)
