"""A row for each layer that holds variables or multiplies."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flax import nnx

from binjax.layers import BatchNorm, ShiftBatchNorm
from binjax.layers.base import BinaryLayer
from binjax.ste import precision
from binjax.summary.cost import Products
from binjax.summary.trace import Trace


@dataclass(frozen=True)
class Row:
    """One layer: counts of deployed parameters and of multiply-accumulates for one image.

    Attributes:
        name: path, such as ``"stage2/conv1"``.
        kind: the class.
        output_shape: of one image, at the first call; ``()`` if unknown.
        input_bits, kernel_bits: of what its product multiplies, as Larq counts them: an input
            without a quantizer has 32; None without a product.
        params_1bit, params_32bit: deployed parameters of these widths.
        macs: of all calls.
        product: the kernel that multiplies in training on this machine; with floats also why.
        params_kbit: a kernel's parameters of other widths than 1 and 32, of ``kernel_bits`` each.
        trainable, non_trainable: its variables as Keras counts them.
        calls: how often it is called.
        operand_bits: of the input as its cost is counted: 8 of a layer that takes 8-bit pixels,
            else ``input_bits``.
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
    trainable: int = 0
    non_trainable: int = 0
    calls: int = 1
    operand_bits: int | None = None

    @property
    def params_by_bits(self) -> dict[int, int]:
        """Deployed parameters by width."""
        found = {1: self.params_1bit, 32: self.params_32bit}
        if self.params_kbit:
            found[self.kernel_bits or 32] = self.params_kbit
        return found

    @property
    def memory_bytes(self) -> float:
        """Deployed size; single bits are eighths of a byte."""
        return sum(bits * count for bits, count in self.params_by_bits.items()) / 8

    @property
    def mac_bits(self) -> int:
        """Precision its products count as: that of the wider operand."""
        return max(self.input_bits or 32, self.kernel_bits or 32)

    @property
    def products(self) -> Products:
        """What its cost is computed from."""
        return Products(self.macs, self.operand_bits or 32, self.kernel_bits or 32)


def rows_of(model: nnx.Module, trace: Trace, kernels: Mapping[str, str]) -> tuple[Row, ...]:
    """Rows in the order in which layers are first called; those that are not come last.

    A layer is any module that holds parameters or batch statistics itself, or has a method
    ``macs(output_shape) -> int``, the multiply-accumulates of one call. Its ``kernel`` counts with
    the bits of its ``kernel_quantizer`` (none: 32), all other variables as 32-bit. It has to record
    its output (:func:`binjax.layers.record`) for its shape to be known. Ordinary products of
    modules without that method are counted from the traced program.

    Args:
        model: what was traced.
        trace: of one image.
        kernels: what multiplies, by layer.
    """
    rank = {id(module): i for i, module in enumerate(_as_defined(model))}
    seen: set[int] = set()
    found: list[tuple[float, int, Row]] = []
    for path, module in nnx.iter_modules(model):
        if isinstance(module, nnx.List | nnx.Dict):  # counted with the layer that holds it
            continue
        name = "/".join(map(str, path))
        held = [(n, v) for n, v in _variables(module) if id(v) not in seen]
        seen.update(id(variable) for _, variable in held)
        if held or hasattr(module, "macs"):
            row = _row(name, module, dict(held), trace, kernels.get(name, ""))
            found.append((trace.place(name), rank.get(id(module), len(rank)), row))
    return tuple(row for _, _, row in sorted(found, key=lambda entry: entry[:2]))


def input_bits(model: nnx.Module) -> dict[str, int | None]:
    """Bits of what each module quantizes its input to, by path; None without a quantizer."""
    return {
        "/".join(map(str, path)): precision(quantizer)
        for path, module in nnx.iter_modules(model)
        if (quantizer := getattr(module, "input_quantizer", None)) is not None
    }


def _row(name: str, module: Any, held: dict[str, Any], trace: Trace, product: str) -> Row:
    trainable = sum(_size(v) for v in held.values() if isinstance(v, nnx.Param))
    both = sum(_size(v) for v in held.values())
    shapes = trace.output_shapes(name)
    multiplies = hasattr(module, "macs")
    place = trace.place(name)
    if multiplies:
        macs = sum(module.macs(shape) for shape in shapes)
        calls = len(shapes)
        if not shapes and place < math.inf:  # in a loop nothing can be recorded
            calls = trace.program.steps[int(place)].times
            macs = module.macs((module.n_out,)) * calls
            shapes = [(module.n_out,)]
    else:
        paths = {f"{name}/{variable}".removeprefix("/") for variable in held}
        macs = trace.macs_of_variables(paths & trace.variables.keys())
        calls = len(shapes) or int(place < math.inf)
        multiplies = macs > 0
    deployed = both
    if isinstance(module, BatchNorm | ShiftBatchNorm):
        deployed = 2 * _size(module.mean)  # mean with beta, spread with gamma
    kernel_bits = precision(getattr(module, "kernel_quantizer", None)) or 32
    input_bits = precision(getattr(module, "input_quantizer", None)) or 32
    pixels = isinstance(module, BinaryLayer) and module.pixels is not None
    kernel = _size(held["kernel"]) if "kernel" in held and kernel_bits != 32 else 0
    return Row(
        name=name,
        kind=type(module).__name__,
        output_shape=shapes[0] if shapes else trace.first_shape(name),
        input_bits=input_bits if multiplies else None,
        kernel_bits=kernel_bits if multiplies else None,
        params_1bit=kernel if kernel_bits == 1 else 0,
        params_32bit=deployed - kernel,
        macs=macs,
        product=product,
        params_kbit=0 if kernel_bits == 1 else kernel,
        trainable=trainable,
        non_trainable=both - trainable,
        calls=calls,
        operand_bits=(8 if pixels else input_bits) if multiplies else None,
    )


def _variables(holder: Any) -> Iterator[tuple[str, Any]]:
    """Parameters and statistics that a module holds itself, also in lists."""
    for name, value in vars(holder).items():
        if isinstance(value, nnx.Param | nnx.BatchStat):
            yield name, value
        elif isinstance(value, nnx.List | nnx.Dict):
            yield from ((f"{name}/{inner}", held) for inner, held in _variables(value))


def _as_defined(model: nnx.Module) -> list[nnx.Module]:
    """Modules in the order in which attributes were set, chains in theirs."""
    found: dict[int, nnx.Module] = {}

    def walk(module: nnx.Module) -> None:
        if id(module) in found:
            return
        found[id(module)] = module
        held = vars(module)
        for name in getattr(module, "names", None) or held:
            if isinstance(held.get(name), nnx.Module):
                walk(held[name])

    walk(model)
    return list(found.values())


def _size(variable: Any) -> int:
    return math.prod(variable.shape)
