"""Counting: a row for each layer, and the totals."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from binjax.layers import BatchNorm, Recurrent, ShiftBatchNorm, capture, products
from binjax.layers.base import BinaryLayer
from binjax.layers.recording import Recorded
from binjax.ste import precision
from binjax.summary.cost import Products, arithmetic_effort, energy_model, operations


@dataclass(frozen=True)
class Row:
    """One layer: counts of deployed parameters and of multiply-accumulates for one image.

    ``params_kbit`` are a kernel's parameters of other widths than 1 and 32, of ``kernel_bits``
    each. ``product`` is the kernel that multiplies in training on this machine; with floats also
    why.
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
    params_kbit: int = 0

    @property
    def memory_bytes(self) -> float:
        """Deployed size; single bits are eighths of a byte."""
        others = self.params_kbit * (self.kernel_bits or 0)
        return (self.params_1bit + others) / 8 + self.params_32bit * 4

    @property
    def mac_bits(self) -> int:
        """Precision its products count as: that of the wider operand."""
        return max(self.input_bits or 32, self.kernel_bits or 32)


@dataclass(frozen=True)
class Summary:
    """A network's rows and totals.

    Attributes:
        params: deployed parameters.
        params_1bit, params_32bit: of these widths.
        params_by_bits: of all widths, ``{"1": n, "32": n, ...}``.
        trainable: what an optimizer updates.
        keras_params: trainable and batch statistics, as Keras counts.
        non_trainable: their difference.
        memory_bytes: of the deployed parameters, bits rounded up to a byte.
        macs: by bit width, ``{"1": n, "2": n, "32": n}`` and others in use, for one image.
        binary_macs_ratio: share of the multiply-accumulates that are of 1 by 1 bit.
        ops: multiply-accumulates, those of 1 by 1 bit counted 1/64.
        ace: multiply-accumulates times both bit widths.
        energy_model_pj: a model, see :func:`binjax.summary.energy_model`.
    """

    rows: tuple[Row, ...]
    params: int
    params_1bit: int
    params_32bit: int
    params_by_bits: dict[str, int]
    trainable: int
    keras_params: int
    non_trainable: int
    memory_bytes: int
    macs: dict[str, int]
    binary_macs_ratio: float
    ops: float
    ace: int
    energy_model_pj: Mapping[str, float]

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
    times = _times(model, outputs)
    found = (_row(name, module, outputs, kernels, times) for name, module in in_order(model))
    rows = tuple(row for row in found if row is not None)
    macs = {"1": 0, "2": 0, "32": 0}
    by_bits = {"1": 0, "32": 0}
    for row in rows:
        macs[str(row.mac_bits)] = macs.get(str(row.mac_bits), 0) + row.macs
        by_bits["1"] += row.params_1bit
        by_bits["32"] += row.params_32bit
        if row.params_kbit:
            width = str(row.kernel_bits)
            by_bits[width] = by_bits.get(width, 0) + row.params_kbit
    memory = math.ceil(sum(row.memory_bytes for row in rows))
    work = [Products(row.macs, row.input_bits or 32, row.kernel_bits or 32) for row in rows]
    trainable = _size(nnx.state(model, nnx.Param))
    keras = _size(nnx.state(model, (nnx.Param, nnx.BatchStat)))
    return Summary(
        rows=rows,
        params=sum(by_bits.values()),
        params_1bit=by_bits["1"],
        params_32bit=by_bits["32"],
        params_by_bits=by_bits,
        trainable=trainable,
        keras_params=keras,
        non_trainable=keras - trainable,
        memory_bytes=memory,
        macs=macs,
        binary_macs_ratio=macs["1"] / max(sum(macs.values()), 1),
        ops=operations(work),
        ace=arithmetic_effort(work),
        energy_model_pj=energy_model(work, memory),
    )


def in_order(model: nnx.Module) -> Iterator[tuple[str, nnx.Module]]:
    """Modules by path, each once: chains in their order, others as their attributes were set."""
    seen: set[int] = set()

    def walk(path: str, module: nnx.Module) -> Iterator[tuple[str, nnx.Module]]:
        if id(module) in seen:
            return
        seen.add(id(module))
        yield path, module
        names = getattr(module, "names", None) or list(vars(module))
        for name in names:
            child = vars(module).get(name)
            if isinstance(child, nnx.Module):
                yield from walk(f"{path}/{name}" if path else name, child)

    found = list(walk("", model))
    yield from found
    # What a plain walk does not see, such as modules in lists.
    for path, module in nnx.iter_modules(model):
        if id(module) not in seen:
            yield "/".join(map(str, path)), module


def _times(model: nnx.Module, outputs: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """How often the layers below a recurrent one are called for one input, by its path."""
    return {
        name: outputs[f"{name}:steps"][0]
        for name, module in in_order(model)
        if isinstance(module, Recurrent) and f"{name}:steps" in outputs
    }


def _row(
    name: str,
    module: Any,
    outputs: Mapping[str, tuple[int, ...]],
    kernels: Mapping[str, str],
    times: Mapping[str, int],
) -> Row | None:
    if isinstance(module, BatchNorm | ShiftBatchNorm):
        size = module.mean.size  # n, or that of all repetitions
        return Row(name, type(module).__name__, (module.n,), None, None, 0, 2 * size, 0)
    if not isinstance(module, BinaryLayer):
        own = _own_params(module)
        return Row(name, type(module).__name__, (), None, None, 0, own, 0) if own else None
    kernel = math.prod(module.kernel.shape)
    bias = 0 if module.bias is None else module.bias.size
    kernel_bits = precision(module.kernel_quantizer) or 32
    calls = math.prod(n for path, n in times.items() if name.startswith(path + "/"))
    shape = outputs.get(name, (module.n_out,))
    return Row(
        name=name,
        kind=type(module).__name__,
        output_shape=shape,
        input_bits=precision(module.input_quantizer) or 32,
        kernel_bits=kernel_bits,
        params_1bit=kernel if kernel_bits == 1 else 0,
        params_32bit=bias + (kernel if kernel_bits == 32 else 0),
        macs=module.macs(shape) * calls,
        product=kernels[name],
        params_kbit=0 if kernel_bits in (1, 32) else kernel,
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
    found = {layer: v["output"].shape[1:] for layer, v in recorded.items() if "output" in v}
    steps = {f"{layer}:steps": v["steps"].shape for layer, v in recorded.items() if "steps" in v}
    return found | steps


def _size(state: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state))
