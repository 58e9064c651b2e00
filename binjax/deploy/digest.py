"""Digests that name a network and a packed model in a certificate."""

from __future__ import annotations

import hashlib
import json

import numpy as np
from flax import nnx

from binjax.deploy.graph import Tensors
from binjax.deploy.graph_json import graph_to_json
from binjax.deploy.packed import PackedModel


def digest_of_variables(model: nnx.Module) -> str:
    """sha256 of a network's parameters and statistics, with their names."""
    flat = {
        "/".join(map(str, p)): np.asarray(v[...]) for p, v in nnx.to_flat_state(nnx.state(model))
    }
    return digest_of_arrays(flat)


def digest_of_model(packed: PackedModel) -> str:
    """sha256 of a packed model's graph and arrays."""
    graph = json.dumps(graph_to_json(packed.graph), sort_keys=True)
    return hashlib.sha256((graph + digest_of_arrays(packed.tensors)).encode()).hexdigest()


def digest_of_arrays(arrays: Tensors) -> str:
    """sha256 of arrays with their names, dtypes and shapes."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype} {list(array.shape)}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
