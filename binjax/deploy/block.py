"""A block: a product, what follows it, and where its bits are needed.

A block is one binary layer with everything up to the next layer's sign. It can say, of any integer
sum of its product, which bit the trained network makes of it: the network's own modules are called
for that, so every rounding is theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from binjax.deploy.modules import Named
from binjax.deploy.operations import Conv, Dense
from binjax.layers import (
    Activation,
    BatchNorm,
    BinaryConv,
    BinaryDense,
    DPReLU,
    LearnedScale,
    PReLU,
    RPReLU,
    Shift,
    ShiftBatchNorm,
)
from binjax.layers.base import plus_bias, scaled
from binjax.layers.quantize import quantize
from binjax.rounding import apart
from binjax.ste import Quantizer, Stochastic

Layer = BinaryDense | BinaryConv
Norm = BatchNorm | ShiftBatchNorm
Function = Activation | DPReLU | LearnedScale | PReLU | RPReLU | Shift
Between = Norm | Function
"""What may stand between a product and the next sign: functions of one number, per channel."""
SignQuantizer = Quantizer | Stochastic


@dataclass(frozen=True)
class Block:
    """A binary layer and what follows it, in the network's order.

    Its functions of sums take ``variables`` as an argument: as constants of a compiled program the
    compiler would compute with them itself, and round otherwise than the network does.

    Attributes:
        op: the layer as an operation.
        layer: the layer itself.
        weights: its binarized kernel, ±1; where it multiplies floats, the kernel.
        scale: of these signs, ``[outputs]`` or a scalar; None if they have none.
        before: norms and functions up to the pooling, or to the end where there is none.
        pools: pooling layers, next to each other.
        after: norms and functions behind the pooling.
        flatten: name of a flattening behind all of them, if there is one.
        quantizer: the next layer's sign; None behind the last layer, and where the next layer takes
            floats.
        floats: why the layer multiplies floats; None if it multiplies bits or pixels. The functions
            of sums are of no use then.
    """

    op: Dense | Conv
    layer: Layer
    weights: np.ndarray
    scale: jax.Array | None
    before: tuple[Between, ...]
    pools: tuple[Named, ...]
    after: tuple[Between, ...]
    flatten: str | None
    quantizer: SignQuantizer | None
    floats: str | None = None

    @property
    def variables(self) -> Any:
        """What the functions of sums depend on: a pytree of arrays."""
        bias = self.layer.bias
        return {
            "bias": None if bias is None else bias[...],
            "columns": self.weights.reshape(-1, self.op.outputs).astype(np.int32).sum(0),
            "scale": self.scale,
            "before": [nnx.split(module)[1] for module in self.before],
            "after": [nnx.split(module)[1] for module in self.after],
            "quantizer": _state(self.quantizer),
        }

    @property
    def functions(self) -> list[Function]:
        """What stands between product and sign beside norms."""
        return [m for m in (*self.before, *self.after) if isinstance(m, Function)]

    def result(self, variables: Any, sums: jax.Array) -> jax.Array:
        """What the trained layer makes of integer sums ``int32[..., outputs]``: its real output."""
        dtype = self.layer.dtype if self.layer.dtype is not None else jnp.float32
        scale = self.layer.pixels
        if scale is None:
            real = sums.astype(jnp.float32)
        else:
            real = scale.outputs(sums, variables["columns"])
        real = real.astype(dtype)
        if variables["scale"] is not None:
            real = apart(scaled(real, variables["scale"]))
        return plus_bias(real, variables["bias"])

    def pooled_values(self, variables: Any, sums: jax.Array) -> jax.Array:
        """What the pooling takes the maximum of, per sum."""
        return _through(self.before, variables["before"], self.result(variables, sums))

    def values(self, variables: Any, sums: jax.Array) -> jax.Array:
        """What the next sign, or the caller, gets, per sum."""
        return _through(self.after, variables["after"], self.pooled_values(variables, sums))

    def bits(self, variables: Any, sums: jax.Array) -> jax.Array:
        """Whether the next layer's input is +1, per sum."""
        quantizer = self.quantizer
        if isinstance(quantizer, nnx.Module):
            quantizer = nnx.merge(nnx.split(quantizer)[0], variables["quantizer"])
        return quantize(quantizer, self.values(variables, sums), train=False, key=None) > 0


def _through(modules: Sequence[Between], states: Sequence[Any], x: jax.Array) -> jax.Array:
    for module, state in zip(modules, states, strict=True):
        x = nnx.merge(nnx.split(module)[0], state)(x, train=False)
    return x


def _state(quantizer: SignQuantizer | None) -> Any:
    return nnx.split(quantizer)[1] if isinstance(quantizer, nnx.Module) else None
