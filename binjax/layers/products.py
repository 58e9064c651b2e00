"""Which kernel each layer of a network multiplies on."""

from __future__ import annotations

from flax import nnx

from binjax.layers.base import BinaryLayer
from binjax.layers.choice import describe


def products(model: nnx.Module) -> dict[str, str]:
    """Per layer with a product, by path and in the network's order: what multiplies in training.

    Such as ``"native (avx512)"`` or ``"float: the input is real"``, on this machine.
    """
    found = {
        "/".join(map(str, path)): describe(module.backend, module.operands, train=True)
        for path, module in nnx.iter_modules(model)
        if isinstance(module, BinaryLayer)
    }
    order = {name: i for i, name in enumerate(getattr(model, "names", ()))}
    return dict(sorted(found.items(), key=lambda kv: order.get(kv[0].split("/")[0], len(order))))
