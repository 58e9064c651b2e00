"""Weights files of Keras 2 as layers with named arrays. Two layouts are in use.

- The older one, of ``save_weights("x.h5")`` and of ``save("x.h5")`` (there under
  ``model_weights``): attributes ``layer_names`` and, per layer, ``weight_names`` say the order.
- The newer one, of ``save_weights("x.weights.h5")``: ``layers/<class>_<number>/vars/<number>``.
  Numbers count layers of one class; the order of layers of different classes is not in it.

Source: keras 2.15 ``saving/legacy/hdf5_format.py``, ``saving/saving_lib.py``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from binjax.deploy.importers.fill import KINDS
from binjax.deploy.operations import (
    DeployError,
)


class Saved(NamedTuple):
    """A layer of a file.

    Attributes:
        name: of the layer.
        arrays: by name (``kernel``, ``moving_mean``), or by number in the newer layout.
        settings: the layer's configuration, where the file has it.
    """

    name: str
    arrays: dict[str, np.ndarray]
    settings: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """What its largest array is the kernel of."""
        return KINDS.get(max(array.ndim for array in self.arrays.values()), "layer of another kind")

    @property
    def is_named(self) -> bool:
        """Whether the arrays have names."""
        return "0" not in self.arrays


def read(path: Path, kinds: Sequence[str]) -> list[Saved]:
    """The layers of a file that have weights, in order.

    Args:
        path: of the file.
        kinds: of the model's layers, in order: the order of those of a file that has none.

    Raises:
        DeployError: without h5py; no such file, or damaged; a nested model; layers that cannot be
            put in order.
    """
    try:
        import h5py
    except ImportError:
        raise DeployError(
            f"{path}: reading Keras files takes h5py: pip install 'binjax[larq]'"
        ) from None
    if not path.is_file():
        raise DeployError(f"{path}: no such file")
    try:
        with h5py.File(path, "r") as file:
            if "layers" in file and not len(file.attrs):
                return _in_order(path, list(_numbered(path, file["layers"])), kinds)
            root = file.get("model_weights", file)
            return list(_named(path, root, _settings(file)))
    except DeployError:
        raise
    except (
        OSError,
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        RuntimeError,
        MemoryError,
    ) as error:
        raise DeployError(
            f"{path} is not a weights file of Keras, or is damaged: {error}"
        ) from None


def _named(path: Path, root: Any, settings: Mapping[str, Any]) -> Iterator[Saved]:
    for name in _strings(root, "layer_names"):
        arrays: dict[str, np.ndarray] = {}
        for weight in _strings(root[name], "weight_names"):
            short = weight.rsplit("/", 1)[-1].split(":")[0]
            if short in arrays:
                raise DeployError(
                    f"{path}: {name} has two arrays called {short}: a model inside the model; "
                    "save it with its layers directly in one Sequential"
                )
            arrays[short] = np.asarray(root[name][weight])
        if arrays:
            yield Saved(name, arrays, settings.get(name, {}))


def _strings(group: Any, name: str) -> list[str]:
    """A list of names, which Keras cuts into numbered pieces where it is long."""
    if name in group.attrs:
        pieces = [group.attrs[name]]
    else:
        pieces = []
        while f"{name}{len(pieces)}" in group.attrs:
            pieces.append(group.attrs[f"{name}{len(pieces)}"])
        if not pieces:
            raise KeyError(f"it has no {name}")
    found = [item for piece in pieces for item in piece]
    return [item.decode() if isinstance(item, bytes) else str(item) for item in found]


def _settings(file: Any) -> dict[str, Any]:
    """Configurations of layers by name, of a whole saved model; else none."""
    config = json.loads(file.attrs.get("model_config", "{}"))
    layers = config.get("config", {}).get("layers", [])
    return {layer["config"]["name"]: layer["config"] for layer in layers}


def _numbered(path: Path, root: Any) -> Iterator[Saved]:
    for name, group in root.items():
        datasets: list[str] = []
        group.visititems(
            lambda at, item, to=datasets: to.append(at) if hasattr(item, "shape") else None
        )
        own = [at for at in datasets if re.fullmatch(r"vars/\d+", at)]
        if len(own) != len(datasets):
            other = next(at for at in datasets if at not in own)
            raise DeployError(
                f"{path}: {name} holds {other}: a layer or a quantizer with weights inside a "
                "layer; only plain layers can be read"
            )
        if own:
            numbers = sorted(int(at.removeprefix("vars/")) for at in own)
            yield Saved(name, {str(i): np.asarray(group[f"vars/{i}"]) for i in numbers}, {})


def _in_order(path: Path, found: Sequence[Saved], kinds: Sequence[str]) -> list[Saved]:
    queues = {kind: _of_kind(path, found, kind) for kind in {saved.kind for saved in found}}
    for kind in sorted({*queues, *kinds}):
        theirs, ours = len(queues.get(kind, ())), kinds.count(kind)
        if theirs != ours:
            raise DeployError(f"{path} has {theirs} times a {kind}, the model {ours} times")
    return [queues[kind].pop(0) for kind in kinds]


def _of_kind(path: Path, found: Sequence[Saved], kind: str) -> list[Saved]:
    numbered: list[tuple[str, int, Saved]] = []
    for saved in found:
        stem, _, number = saved.name.rpartition("_")
        if not number.isdecimal():
            stem, number = saved.name, "0"
        if saved.kind == kind:
            numbered.append((stem, int(number), saved))
    classes = sorted({stem for stem, _, _ in numbered})
    if len(classes) > 1:
        raise DeployError(
            f"{path} does not say in which order its {' and '.join(classes)} stand; save it in "
            "Keras' older layout: save_weights('name.h5'), not 'name.weights.h5'"
        )
    return [saved for _, _, saved in sorted(numbered, key=lambda entry: entry[1])]
