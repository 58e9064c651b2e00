"""What a network weighs: parameters by bit width, memory when deployed, multiply-accumulates.

Counted as Larq's ``summary`` does: batch norm deployed is two numbers per channel (mean with
beta, spread with gamma), and a product has the precision of its wider operand, so a first layer
with real inputs and binary kernels counts as 32-bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from binjax.layers import (
    BatchNorm,
    BinaryConv,
    BinaryDense,
    ShiftBatchNorm,
    capture,
    products,
)
from binjax.layers.base import BinaryLayer
from binjax.layers.recording import Recorded
from binjax.ste import precision


@dataclass(frozen=True)
class Row:
    """One layer: counts of deployed parameters and of multiply-accumulates for one image.

    ``product`` is the kernel that multiplies in training on this machine; with floats also why.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...]
    input_bits: int | None
    kernel_bits: int | None
    params_1bit: int
    params_32bit: int
    macs: int
    product: str = ""

    @property
    def memory_bytes(self) -> float:
        """Deployed size; single bits are eighths of a byte."""
        return self.params_1bit / 8 + self.params_32bit * 4

    @property
    def mac_bits(self) -> int:
        """Precision its products count as: that of the wider operand."""
        return max(self.input_bits or 32, self.kernel_bits or 32)


@dataclass(frozen=True)
class Summary:
    """A network's rows and totals.

    Attributes:
        params: deployed parameters, ``params_1bit + params_32bit``.
        trainable: what an optimizer updates.
        keras_params: trainable and batch statistics, as Keras counts.
        memory_bytes: of the deployed parameters, bits rounded up to a byte.
        macs: by bit width, ``{"1": n, "2": n, "32": n}`` and others in use, for one image.
    """

    rows: tuple[Row, ...]
    params: int
    params_1bit: int
    params_32bit: int
    trainable: int
    keras_params: int
    memory_bytes: int
    macs: dict[str, int]

    def as_json(self) -> dict[str, Any]:
        """The totals by name, and the layers as a list."""
        totals = {k: v for k, v in asdict(self).items() if k != "rows"}
        return totals | {"layers": [asdict(row) for row in self.rows]}


def summarize(model: nnx.Module, input_shape: Sequence[int]) -> Summary:
    """Count a network.

    Args:
        model: an NNX module called ``model(images, train=...)``; may be abstract
            (``nnx.eval_shape``), nothing is computed.
        input_shape: of one image, ``(height, width, channels)``.
    """
    graphdef, variables = nnx.split(model)
    outputs = _output_shapes(graphdef, variables, tuple(input_shape))
    kernels = products(model)
    found = [
        _row("/".join(map(str, path)), module, outputs, kernels)
        for path, module in nnx.iter_modules(model)
    ]
    order = {name: i for i, name in enumerate(getattr(model, "names", ()))}
    rows = sorted(
        (row for row in found if row is not None),
        key=lambda row: order.get(row.name.split("/")[0], len(order)),
    )
    macs = {"1": 0, "2": 0, "32": 0}
    for row in rows:
        macs[str(row.mac_bits)] = macs.get(str(row.mac_bits), 0) + row.macs
    one_bit = sum(row.params_1bit for row in rows)
    full = sum(row.params_32bit for row in rows)
    return Summary(
        rows=tuple(rows),
        params=one_bit + full,
        params_1bit=one_bit,
        params_32bit=full,
        trainable=_size(nnx.state(model, nnx.Param)),
        keras_params=_size(nnx.state(model, (nnx.Param, nnx.BatchStat))),
        memory_bytes=math.ceil(one_bit / 8) + 4 * full,
        macs=macs,
    )


def table(summary: Summary) -> str:
    """The rows and totals as plain text."""
    counts = ("1-bit x 1", "32-bit x 1", "KiB", "MACs")
    header = ("layer", "kind", "output", "in/kernel bits", *counts, "product in training")
    lines = [header]
    for row in summary.rows:
        bits = "-" if row.kernel_bits is None else f"{row.input_bits}/{row.kernel_bits}"
        lines.append(
            (
                row.name,
                row.kind,
                "x".join(map(str, row.output_shape)) or "-",
                bits,
                f"{row.params_1bit:,}",
                f"{row.params_32bit:,}",
                f"{row.memory_bytes / 1024:,.2f}",
                f"{row.macs:,}",
                row.product,
            )
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    texts = [_aligned(line, widths) for line in lines]
    texts.insert(1, "-" * len(texts[0]))
    full_size = 4 * summary.params
    total_macs = sum(summary.macs.values())
    return "\n".join(
        [
            *(text.rstrip() for text in texts),
            "",
            f"parameters            {summary.params:,} "
            f"({summary.params_1bit:,} of 1 bit, {summary.params_32bit:,} of 32)",
            f"trainable             {summary.trainable:,}",
            f"with batch statistics {summary.keras_params:,}",
            f"deployed memory       {summary.memory_bytes / 2**20:.3f} MiB "
            f"(in float32 {full_size / 2**20:.3f} MiB, "
            f"{full_size / max(summary.memory_bytes, 1):.1f} times as much)",
            f"MACs per image        {total_macs:,} "
            f"({summary.macs['1'] / max(total_macs, 1):.2%} binary)",
        ]
    )


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    text = [c.ljust(w) for c, w in zip(cells[:3], widths[:3], strict=True)]
    numbers = [c.rjust(w) for c, w in zip(cells[3:-1], widths[3:-1], strict=True)]
    return "  ".join([*text, *numbers, cells[-1]])


def _row(
    name: str, module: Any, outputs: dict[str, tuple[int, ...]], kernels: dict[str, str]
) -> Row | None:
    if isinstance(module, BatchNorm | ShiftBatchNorm):
        size = module.mean.size  # n, or that of all repetitions
        return Row(name, type(module).__name__, (module.n,), None, None, 0, 2 * size, 0)
    if not isinstance(module, BinaryDense | BinaryConv):
        own = _own_params(module)
        return Row(name, type(module).__name__, (), None, None, 0, own, 0) if own else None
    kernel = math.prod(module.kernel.shape)
    bias = 0 if module.bias is None else module.bias.size
    kernel_bits = precision(module.kernel_quantizer) or 32
    shape = outputs[name]
    return Row(
        name=name,
        kind=type(module).__name__,
        output_shape=shape,
        input_bits=precision(module.input_quantizer) or 32,
        kernel_bits=kernel_bits,
        params_1bit=kernel if kernel_bits == 1 else 0,
        params_32bit=bias + (0 if kernel_bits == 1 else kernel),
        macs=kernel * math.prod(shape[:-1]),
        product=kernels[name],
    )


def _own_params(module: Any) -> int:
    """Parameters that a layer without a product holds itself, such as slopes and factors."""
    if isinstance(module, nnx.List):  # counted with the layer that holds it
        return 0
    held = (
        variable
        for value in vars(module).values()
        for variable in (value if isinstance(value, nnx.List) else (value,))
        if isinstance(variable, nnx.Param)
    )
    return sum(math.prod(variable.shape) for variable in held)


def _output_shapes(
    graphdef: nnx.GraphDef[Any], variables: Any, input_shape: tuple[int, ...]
) -> dict[str, tuple[int, ...]]:
    def run(variables: Any, image: jax.Array) -> Recorded:
        return capture(nnx.merge(graphdef, variables), image)

    modules = nnx.iter_modules(nnx.merge(graphdef, variables))
    pixels = any(isinstance(m, BinaryLayer) and m.pixels for _, m in modules)
    image = jax.ShapeDtypeStruct((1, *input_shape), jnp.uint8 if pixels else jnp.float32)
    recorded = jax.eval_shape(run, variables, image)
    return {layer: v["output"].shape[1:] for layer, v in recorded.items() if "output" in v}


def _size(state: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state))
