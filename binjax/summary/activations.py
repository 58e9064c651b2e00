"""Memory of activations: what a training step keeps, and what an evaluation holds at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
from flax import nnx

from binjax.layers import Sequential, apply, split
from binjax.layers.base import BinaryLayer
from binjax.layers.sequential import MEMORIES, check_sums
from binjax.summary.steps import Program, written_out
from binjax.summary.trace import Call, Trace, example

_FLOAT_BITS = 32


@dataclass(frozen=True)
class Activations:
    """Bytes of activations.

    Attributes:
        batch: images of ``training``.
        training: what the forward pass of a step hands to its backward pass, beside parameters,
            images and what depends on neither: with products of floats (``"float"``), and packed
            with each ``memory`` of :class:`binjax.layers.Sequential`; None where sums do not fit
            ``"int16"``. A compiler may keep less, and compute the rest again.
        inference: of one image, the most that is held at a product: its input (``"packed"``: of as
            many bits as its quantizer has; ``"float"``: of 32), its output of 32 bits, and what is
            needed later. What stands between products is taken to work in place. A model, not a
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
    return sum(program.bytes_of(v) for v in {*program.outputs} if v in varying)


def inference_bytes(trace: Trace, input_bits: Callable[[str], int | None], *, packed: bool) -> int:
    """See :class:`Activations`.

    Args:
        trace: of a batch of one image.
        input_bits: of a layer's quantizer, by path; None without one.
        packed: count inputs of products by these bits.
    """
    program = trace.program
    made = {value: at for at, step in enumerate(program.steps) for value in step.writes}
    products: list[tuple[int, int]] = []  # step, output
    inside: set[int] = set()
    readers: dict[int, list[tuple[float, int | None]]] = {}  # step; bits, if it is a product
    for path, calls in trace.calls.items():
        for call in calls:
            if call.given not in made:
                continue
            products.append((made[call.given], call.given))
            taken = _taken(trace, path, call)
            if taken is not None:
                inside |= _steps_between(program, made, trace.varying, taken, call.given)
                width = _FLOAT_BITS
                if packed:
                    width = input_bits(path) or 8 * int(program.values[taken].dtype.itemsize)
                readers.setdefault(taken, []).append((made[call.given], width))
    for at, step in enumerate(program.steps):
        if at not in inside:
            for value in step.reads:
                readers.setdefault(value, []).append((at, None))
    ends = [value for value in program.outputs[:1] if value is not None]
    for value in ends:
        readers.setdefault(value, []).append((math.inf, None))
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
            _bits(program, value, [r for r in readers[value] if r[0] >= at])
            for start, value in held
            if start < at
        )
        most = max(most, math.ceil(bits / 8))
    return most


def _bits(program: Program, value: int, readers: Sequence[tuple[float, int | None]]) -> int:
    """A value's size while these are to come: whole for other operations, packed for products."""
    whole = 8 * program.bytes_of(value) if any(width is None for _, width in readers) else 0
    widest = max((width for _, width in readers if width is not None), default=0)
    packed = int(program.values[value].size) * widest
    wide = widest >= 8 * int(program.values[value].dtype.itemsize)
    return max(whole, packed) if wide else whole + packed


def _taken(trace: Trace, path: str, call: Call) -> int | None:
    """A product's input: what it recorded, else what its kernel first meets."""
    if call.taken is not None or len(trace.calls[path]) > 1:
        return call.taken
    at = trace.met.get(f"{path}/kernel".removeprefix("/"))
    if at is None:
        return None
    step = trace.program.steps[at]
    return next(value for value in step.reads if value in trace.varying)


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
