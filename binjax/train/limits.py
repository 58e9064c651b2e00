"""How far inputs and latent weights may go before no gradient reaches them."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

from flax import nnx

from binjax.config import optimizers
from binjax.layers import BinaryWeight
from binjax.layers.base import BinaryLayer


class Limits(NamedTuple):
    """By layer's path.

    Attributes:
        inputs: largest magnitude that passes a gradient through the input quantizer; infinite if
            all do.
        weights: where a latent weight counts as dead: at the optimizer's clip or the kernel
            quantizer's limit, whichever is less. Layers whose weights only flip have none.
    """

    inputs: dict[str, float]
    weights: dict[str, float]


def find_limits(model: nnx.Module, options: optimizers.Optimizer) -> Limits:
    """What a model's quantizers and its optimizer say.

    Args:
        model: may be abstract.
        options: the config's section.
    """
    clip = 0.0 if isinstance(options, optimizers.Bop) else options.clip or math.inf
    limits = Limits({}, {})
    for path, layer in nnx.iter_modules(model):
        if isinstance(layer, BinaryLayer):
            name = "/".join(map(str, path))
            if layer.input_quantizer is not None:
                limits.inputs[name] = _limit(layer.input_quantizer)
            if isinstance(layer.kernel, BinaryWeight) and clip:
                limits.weights[name] = min(clip, _limit(layer.kernel_quantizer))
    return limits


def _limit(quantizer: Any) -> float:
    given = quantizer.keywords if isinstance(quantizer, functools.partial) else {}
    limit = given.get("clip_value", given.get("bound", 1.0))
    return math.inf if limit is None else float(limit)
