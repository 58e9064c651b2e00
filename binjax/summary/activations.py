"""Memory of activations: what a training step keeps, and what an evaluation holds at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
from flax import nnx

from binjax.layers import Sequential, apply, split
from binjax.layers.base import BinaryLayer
from binjax.layers.sequential import MEMORIES, check_sums
from binjax.summary.steps import Program, written_out
from binjax.summary.trace import Call, Trace, example

_FLOAT_BITS = 32
_RESHAPING = frozenset({"reshape", "split", "squeeze"})
_ARRANGING = _RESHAPING | {"broadcast_in_dim", "pad", "slice"}


@dataclass(frozen=True)
class Activations:
    """Bytes of activations.

    Attributes:
        batch: images of ``training``.
        training: what the forward pass of a step hands to its backward pass, the residuals of
            ``jax.vjp``, beside parameters, images and what does not depend on images: with
            products of floats (``"float"``), and packed with each ``memory`` of
            :class:`binjax.layers.Sequential`; None where sums do not fit ``"int16"``. A packed
            product keeps its bits also where its quantizer's derivative (``approx_sign``) or
            another layer keeps the floats that they were made of. A compiler may keep less, and
            compute the rest again.
        inference: of one image, the most that is held at a product: its input (``"packed"``: of as
            many bits as its quantizer has; ``"float"``: of 32), its output of 32 bits, and what is
            needed later. Where that is the input in front of its quantizer, such as for a shortcut,
            both are held. What stands between products is taken to work in place. A model, not a
            measurement.
    """

    batch: int
    training: dict[str, int | None]
    inference: dict[str, int]


def training_bytes(
    model: nnx.Module, input_shape: Sequence[int], batch: int
) -> dict[str, int | None]:
    """See :class:`Activations`; traces, computes nothing."""
    images = example(model, tuple(input_shape), batch)
    settings = {"float": ("float", "full")} | {memory: (None, memory) for memory in MEMORIES}
    found: dict[str, int | None] = {}
    for name, (backend, memory) in settings.items():
        copy = _with(model, backend, memory)
        found[name] = None if copy is None else _kept(copy, images)
    return found


def _with(model: nnx.Module, backend: str | None, memory: str) -> nnx.Module | None:
    """A copy with another back end and memory; None if its sums do not fit."""
    copy: nnx.Module = nnx.merge(*nnx.split(model))
    for _, module in nnx.iter_modules(copy):
        if isinstance(module, BinaryLayer) and backend is not None:
            module.backend = backend
        if isinstance(module, Sequential):
            module.memory = memory  # type: ignore[assignment]
            try:
                for name in module.names:
                    check_sums(name, getattr(module, name), memory)
            except ValueError:
                return None
    return copy


def _kept(model: nnx.Module, images: jax.ShapeDtypeStruct) -> int:
    graphdef, params, stats = split(model)

    def run(params: Any, stats: Any, images: jax.Array) -> Any:
        key = jax.random.key(0)
        objective = partial(apply, graphdef, stats=stats, images=images, train=True, key=key)
        _, backward, _ = jax.vjp(lambda p: objective(params=p), params, has_aux=True)
        return backward

    program = written_out(jax.make_jaxpr(run)(params, stats, images))
    image = program.inputs[-1]
    varying = program.reached_from([image]) - {image}
    reshaped = _reshaped(program)
    kept = {reshaped.get(v, v) for v in program.outputs if v is not None}
    return sum(program.bytes_of(v) for v in kept & varying)


def _reshaped(program: Program) -> dict[int, int]:
    """Values that are others in another shape, or in one piece, and those others."""
    found: dict[int, int] = {}
    for step in program.steps:
        if step.name in _RESHAPING and len(step.reads) == len(step.writes) == 1:
            found[step.writes[0]] = found.get(step.reads[0], step.reads[0])
    return found


class _Reader(NamedTuple):
    """What reads a value.

    Attributes:
        at: step.
        bits: of the value as a product takes it; None of another operation, which takes it whole.
        quantized: whether the product takes another array, which its quantizer makes of the value.
    """

    at: float
    bits: int | None = None
    quantized: bool = False


def inference_bytes(trace: Trace, input_bits: Mapping[str, int | None], *, packed: bool) -> int:
    """See :class:`Activations`.

    Args:
        trace: of a batch of one image.
        input_bits: of the quantizers of layers that have one, by path; None if undeclared.
        packed: count inputs of products by these bits.
    """
    program = trace.program
    made = {value: at for at, step in enumerate(program.steps) for value in step.writes}
    products: list[tuple[int, int]] = []  # step, output
    inside: set[int] = set()
    readers: dict[int, list[_Reader]] = {}
    for path, calls in trace.calls.items():
        for call in calls:
            if call.given not in made:
                continue
            products.append((made[call.given], call.given))
            taken = _taken(trace, made, path, call)
            if taken is not None:
                inside |= _steps_between(program, made, trace.varying, taken, call.given)
                width = _FLOAT_BITS
                if packed:
                    width = input_bits.get(path) or 8 * int(program.values[taken].dtype.itemsize)
                reader = _Reader(made[call.given], width, path in input_bits)
                readers.setdefault(taken, []).append(reader)
    for at, step in enumerate(program.steps):
        if at not in inside:
            for value in step.reads:
                readers.setdefault(value, []).append(_Reader(at))
    ends = [value for value in program.outputs[:1] if value is not None]
    for value in ends:
        readers.setdefault(value, []).append(_Reader(math.inf))
    results = {given for _, given in products}
    held = [
        (made.get(value, -1), value)
        for value in trace.varying
        if value in readers and (value in results or made.get(value, -1) not in inside)
    ]
    most = max(program.bytes_of(value) for value in (trace.image, *ends))
    for at, given in products:
        bits = int(program.values[given].size) * _FLOAT_BITS
        bits += sum(
            _bits(program, value, at, [r for r in readers[value] if r.at >= at])
            for start, value in held
            if start < at
        )
        most = max(most, math.ceil(bits / 8))
    return most


def _bits(program: Program, value: int, at: int, readers: Sequence[_Reader]) -> int:
    """A value's size at a product while these are to come: itself, and quantized.

    What still needs the value keeps it, and it is quantized when its product comes; else what is
    kept is quantized.
    """
    size, own = int(program.values[value].size), 8 * int(program.values[value].dtype.itemsize)
    whole = max((r.bits or own for r in readers if not r.quantized), default=0)
    made_of_it = (r.bits or own for r in readers if r.quantized and (not whole or r.at == at))
    return size * (whole + max(made_of_it, default=0))


def _taken(trace: Trace, made: Mapping[int, int], path: str, call: Call) -> int | None:
    """A product's input: what it recorded, else what its kernel first meets, as it came."""
    if call.taken is not None or len(trace.calls[path]) > 1:
        return call.taken
    at = trace.met.get(f"{path}/kernel".removeprefix("/"))
    if at is None:
        return None
    step = trace.program.steps[at]
    while True:
        value = next(value for value in step.reads if value in trace.varying)
        if value not in made or trace.program.steps[made[value]].name not in _ARRANGING:
            return value
        step = trace.program.steps[made[value]]


def _steps_between(
    program: Program, made: dict[int, int], varying: frozenset[int], taken: int, given: int
) -> set[int]:
    """Steps from an input to the output that depends on it."""
    found: set[int] = set()
    todo = [given]
    while todo:
        value = todo.pop()
        at = made.get(value, -1)
        if value == taken or value not in varying or at <= made.get(taken, -1) or at in found:
            continue
        found.add(at)
        todo.extend(program.steps[at].reads)
    return found
