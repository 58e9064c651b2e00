"""Which kernel each layer of a network multiplies on."""

from __future__ import annotations

from flax import nnx

from binjax.layers.base import BinaryLayer
from binjax.layers.binary import BinaryDense
from binjax.layers.choice import describe
from binjax.xnor.geometry import matrix_geometry
from binjax.xnor.gradient_ops import floats_instead


def products(model: nnx.Module, batch: int | None = None) -> dict[str, str]:
    """Per layer with a product, by path and in the network's order: what multiplies in training.

    Such as ``"native (avx512)"`` or ``"float: the input is real"``, on this machine; with a batch
    size, also where a gradient is a product of floats because the batch is small.
    """
    found = {
        "/".join(map(str, path)): _described(module, batch)
        for path, module in nnx.iter_modules(model)
        if isinstance(module, BinaryLayer)
    }
    order = {name: i for i, name in enumerate(getattr(model, "names", ()))}
    return dict(sorted(found.items(), key=lambda kv: order.get(kv[0].split("/")[0], len(order))))


def _described(layer: BinaryLayer, batch: int | None) -> str:
    kernel = describe(layer.backend, layer.operands, train=True)
    rows = batch if isinstance(layer, BinaryDense) else None
    if rows is None or not kernel.startswith("native"):
        return kernel
    why = floats_instead("kernel", rows, matrix_geometry(layer.n_in), (1, 1), 1)
    return kernel if why is None else f"{kernel}, gradient of the kernel float: {why}"
