"""Weights of BinaryNet's Theano code: ``.npz`` files of arrays in Lasagne's order."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from binjax.deploy.importers.fill import Layer, Model, Place, checked, fill, layers_of
from binjax.deploy.operations import (
    DeployError,
)
from binjax.layers import BatchNorm, BinaryConv

_NORM = {"bias": "beta", "scale": "gamma", "mean": "mean", "spread": "inv_std"}
_WEIGHTED = {"kernel": "W", "bias": "b"}
_DAMAGE = (
    ValueError,
    EOFError,
    KeyError,
    RuntimeError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
)


def load_binarynet(model: Model, path: str | Path) -> Model:
    """A copy of a model with the weights that BinaryNet's training scripts save.

    The file is ``np.savez(path, *lasagne.layers.get_all_param_values(net))``: ``arr_0``,
    ``arr_1``, ... without names, layer by layer: W and b; beta, gamma, mean and inv_std of a batch
    norm. What differs from ours is converted:

    - a convolution's W is ``[out, in, kh, kw]``, and Lasagne convolves with it truly (it flips
      filters), where we correlate;
    - the map in front of the first dense layer is flattened channel first there, last here. (A
      flattening in front of the whole network is taken to be of images with one channel.)

    Batch norms average the inverse standard deviation, which is read as it is: build the model
    with ``norm={"kind": "batch", "running": "inverse_std"}``. (A variance of
    ``inv_std**-2 - eps`` would be cancelled digits, and negative where inv_std was averaged from
    its first value.) Weights may be the real ones or their signs.

    The networks take images scaled to [-1, 1], ``2p/255 - 1``: our ``pixels=True``. Their binary
    values are ±1: files of scripts with H other than 1 hold other units, and cannot be told. The
    training code takes ``round((x + 1) / 2)`` in float32 for the sign: +1 at zero, as we do, but
    also from -2**-25 to 0, where we, and its own run-time code, give -1. (For weights later
    versions of Theano round that half down: -1 from -2**-25 to 2**-24.) Its padding is symmetric;
    ours is the same for odd kernels at stride 1, which is all that its networks have.

    Source: MatthieuCourbariaux/BinaryNet ``Train-time/binary_net.py``, ``Run-time/mnist.py``;
    Lasagne/Lasagne ``layers/normalization.py``, ``layers/conv.py``, ``layers/dense.py``.

    Args:
        model: of the file's architecture, such as ``models.mlp``, ``cifar10_convnet`` or
            ``svhn_convnet``, with biases; it stays as it is.
        path: of the file.

    Returns:
        The filled copy; variables are float32.

    Raises:
        DeployError: a file that is none such, or damaged; another number of arrays, or shape, with
            both; NaN or infinity; inv_std that is not positive.
    """
    layers = layers_of(model, "inverse_std", "BinaryNet's")
    slots = [(layer, attribute) for layer in layers for attribute in _order(layer)]
    arrays = _read(Path(path))
    if len(arrays) != len(slots):
        raise DeployError(
            f"{path} holds {len(arrays)} arrays, the model takes {len(slots)}: W and b per layer, "
            "beta, gamma, mean and inv_std per batch norm; BinaryNet's layers have use_bias=True"
        )
    values: dict[Place, np.ndarray] = {}
    for i, ((layer, attribute), array) in enumerate(zip(slots, arrays, strict=True)):
        theirs = f"{path}: arr_{i} ({_order(layer)[attribute]})"
        ours = _converted(array, layer, attribute, theirs)
        values[layer.path, attribute] = checked(ours, theirs, layer, attribute)
    return fill(model, values)


def _order(layer: Layer) -> dict[str, str]:
    """Our attribute to Lasagne's name, in the order of Lasagne's layer."""
    names = _NORM if isinstance(layer.module, BatchNorm) else _WEIGHTED
    return {ours: theirs for ours, theirs in names.items() if ours in layer.shapes}


def _converted(array: np.ndarray, layer: Layer, attribute: str, theirs: str) -> np.ndarray:
    shape = layer.shapes[attribute]
    is_kernel = isinstance(layer.module, BinaryConv) and attribute == "kernel"
    expected = tuple(shape[axis] for axis in (3, 2, 0, 1)) if is_kernel else shape
    if array.shape != expected:
        raise DeployError(
            f"{theirs} has shape {array.shape}, and {layer.name} takes {expected} "
            f"for its {attribute}{' as [out, in, kh, kw]' if is_kernel else ''}"
        )
    if is_kernel:
        return array[:, :, ::-1, ::-1].transpose(2, 3, 1, 0)
    if attribute == "kernel" and layer.channels > 1:
        rows = array.reshape(layer.channels, -1, shape[1])  # [channels, places, outputs]
        return rows.transpose(1, 0, 2).reshape(shape)
    return array


def _read(path: Path) -> list[np.ndarray]:
    """``arr_0``, ``arr_1``, ... of a file, and nothing else in it."""
    try:
        # np.load leaves a damaged file open if it opened it itself.
        with path.open("rb") as opened:
            file = np.load(opened, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise DeployError(f"{path} is one array; expected an .npz of arr_0, arr_1, ...")
            names = [f"arr_{i}" for i in range(len(file.files))]
            if not names or set(names) != set(file.files):
                found = ", ".join(sorted(file.files)[:4]) or "nothing"
                raise DeployError(f"{path} holds {found}; expected arrays arr_0, arr_1, ...")
            return [file[name] for name in names]
    except DeployError:
        raise
    except OSError as error:
        raise DeployError(f"{path}: cannot be read: {error.strerror or error}") from None
    except _DAMAGE as error:
        raise DeployError(f"{path} is not an .npz of numbers, or is damaged: {error}") from None
