"""A packed model as serialized StableHLO: portable operations, any batch, CPUs and CUDA devices."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
from jax import export

from binjax.deploy.operations import (
    DeployError,
)
from binjax.deploy.packed import PackedModel, run
from binjax.deploy.writing import write_bytes

PLATFORMS = ("cpu", "cuda")


def to_stablehlo(packed: PackedModel) -> export.Exported:
    """The model as a function of images ``[n, h, w, c]``, n symbolic, weights inside.

    It holds no custom call of ours: whoever runs StableHLO runs it, with the same integers. Another
    compiler than XLA may round scores otherwise.

    Raises:
        DeployError: the model cannot be lowered for any batch size.
    """
    image = packed.graph.image
    (n,) = export.symbolic_shape("n")
    arguments = jax.ShapeDtypeStruct((n, *image.shape), jnp.dtype(image.dtype))

    def scores(images: jax.Array) -> jax.Array:
        out: jax.Array = run(packed.graph, "xla", packed.arrays, images)
        return out

    try:
        return export.export(jax.jit(scores), platforms=PLATFORMS)(arguments)
    except (ValueError, TypeError) as error:
        why = str(error).splitlines()[0]
        raise DeployError(f"the network cannot be exported to StableHLO: {why}") from None


def write_stablehlo(packed: PackedModel, path: str | Path) -> None:
    """Write what :func:`to_stablehlo` gives.

    Read it with ``jax.export.deserialize(bytearray(data)).call(images)``; its ``mlir_module()`` is
    the StableHLO text.

    Raises:
        DeployError: it cannot be lowered, or the file not be written; flatbuffers is missing.
    """
    if importlib.util.find_spec("flatbuffers") is None:
        raise DeployError("serialized StableHLO needs flatbuffers: pip install 'binjax[export]'")
    write_bytes(Path(path), bytes(to_stablehlo(packed).serialize()))
