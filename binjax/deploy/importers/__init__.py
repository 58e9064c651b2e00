"""Published weights of other frameworks, read into our networks of the same architecture."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from flax import nnx

from binjax.deploy.importers.binarynet import load_binarynet
from binjax.deploy.importers.larq import load_larq
from binjax.deploy.operations import (
    DeployError,
)

IMPORTERS: Mapping[str, Callable[[nnx.Module, str | Path], nnx.Module]] = MappingProxyType(
    {".h5": load_larq, ".hdf5": load_larq, ".npz": load_binarynet}
)
"""Who reads a file with this suffix."""


def import_weights(model: nnx.Module, path: str | Path) -> nnx.Module:
    """A copy of a model with the weights of a file, whose suffix says what it is.

    Args:
        model: of the file's architecture; it stays as it is.
        path: ``.h5`` or ``.hdf5``, see :func:`load_larq`; ``.npz``, see :func:`load_binarynet`.

    Raises:
        DeployError: another suffix; as those functions.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in IMPORTERS:
        raise DeployError(
            f"{path}: weights are imported from {', '.join(IMPORTERS)} files, not from "
            f"{suffix or 'a file without a suffix'}; in Keras: model.save_weights('name.h5')"
        )
    return IMPORTERS[suffix](model, path)


__all__ = ["IMPORTERS", "import_weights", "load_binarynet", "load_larq"]
