"""Deployment: a trained network as packed integers, in one file, proven equal to it."""

from pathlib import Path

from binjax.deploy.file import read
from binjax.deploy.graph import Graph
from binjax.deploy.graph_json import FormatError
from binjax.deploy.operations import (
    DeployError,
)
from binjax.deploy.pack import pack
from binjax.deploy.packed import PackedModel


def load(path: str | Path, *, backend: str | None = None) -> PackedModel:
    """The model of a file that :meth:`PackedModel.save` or ``binjax export`` wrote.

    Args:
        path: of the file.
        backend: who multiplies, see ``packed_matmul``.

    Raises:
        FormatError: not such a file, damaged, or of a newer version.
        ValueError: a back end that cannot be used.
    """
    graph, tensors = read(Path(path))
    return PackedModel(graph, tensors, backend=backend)


__all__ = ["DeployError", "FormatError", "Graph", "PackedModel", "load", "pack"]
