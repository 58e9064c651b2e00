"""A network's evaluation of one image, traced: which layer is called when, and on what."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from binjax.layers.base import BinaryLayer
from binjax.layers.recording import record_calls
from binjax.summary.steps import Program, Step, written_out


class Call(NamedTuple):
    """One call of a layer that records its output, as numbers of the program's values.

    Attributes:
        taken: the input in front of its quantizer; None if it was not recorded.
        given: the output.
    """

    taken: int | None
    given: int


class Trace(NamedTuple):
    """A traced evaluation of a batch of one image.

    Attributes:
        program: its steps.
        image: number of the image.
        variables: path, such as ``"conv1/kernel"``, to the number of a variable's value.
        calls: path of a layer to its calls.
        varying: values that depend on the image.
        met: path of a variable to the first step where it meets a value that depends on the image.
    """

    program: Program
    image: int
    variables: Mapping[str, int]
    calls: Mapping[str, list[Call]]
    varying: frozenset[int]
    met: Mapping[str, int]

    def place(self, path: str) -> float:
        """When a module is first called, a step: for sorting. Infinite if it is not."""
        inside = (at for name, at in self.met.items() if within(name, path))
        return min(inside, default=math.inf)

    def output_shapes(self, path: str) -> list[tuple[int, ...]]:
        """Of each call, without the batch of 1 if that is the first axis."""
        shapes = (self.program.values[call.given].shape for call in self.calls.get(path, ()))
        return [tuple(shape[1:] if shape[0] == 1 else shape) for shape in shapes]

    def first_shape(self, path: str) -> tuple[int, ...]:
        """Of what comes out where the module's variables first meet data; ``()`` if unknown."""
        at = self.place(path)
        if at == math.inf:
            return ()
        return tuple(self.program.values[self.program.steps[int(at)].writes[0]].shape[1:])

    def macs_of_variables(self, names: set[str]) -> int:
        """Multiply-accumulates of ordinary products with these variables, for one image."""
        own = self.program.reached_from(self.variables[name] for name in names) - self.varying
        return sum(
            _macs(step) * step.times
            for step in self.program.steps
            if not own.isdisjoint(step.reads) and not self.varying.isdisjoint(step.reads)
        )


def trace(model: nnx.Module, input_shape: tuple[int, ...]) -> Trace:
    """Trace a model; nothing is computed, and the model may be abstract.

    Args:
        model: called ``model(images, train=...)``.
        input_shape: of one image.
    """
    graphdef, state = nnx.split(model)
    pure = nnx.to_pure_dict(state)

    def run(variables: Any, image: jax.Array) -> Any:
        return record_calls(nnx.merge(graphdef, variables), image)

    closed, out = jax.make_jaxpr(run, return_shape=True)(pure, example(model, input_shape, 1))
    program = written_out(closed)
    *inputs, image = program.inputs
    names = jax.tree_util.tree_flatten_with_path(pure)[0]
    variables = {
        jax.tree_util.keystr(path, simple=True, separator="/"): number
        for (path, _), number in zip(names, inputs, strict=True)
    }
    varying = frozenset(program.reached_from([image]))
    _, recorded = jax.tree.unflatten(jax.tree.structure(out), program.outputs)
    # What is recorded inside a loop cannot be seen from outside of it.
    calls = {
        path: [call for call in _calls(values) if call.given in varying]
        for path, values in recorded.items()
        if "output" in values
    }
    met = _first_met(program, variables, varying)
    return Trace(program, image, variables, calls, varying, met)


def example(model: nnx.Module, input_shape: tuple[int, ...], batch: int) -> jax.ShapeDtypeStruct:
    """Images such as the model takes: uint8 where a layer takes 8-bit pixels, else float32."""
    modules = (module for _, module in nnx.iter_modules(model))
    pixels = any(isinstance(module, BinaryLayer) and module.pixels for module in modules)
    return jax.ShapeDtypeStruct((batch, *input_shape), jnp.uint8 if pixels else jnp.float32)


def within(name: str, path: str) -> bool:
    """Whether a path is that of a module or of something inside it."""
    return not path or name == path or name.startswith(path + "/")


def _calls(values: Mapping[str, Any]) -> list[Call]:
    given = values["output"]
    taken = values.get("preactivation", (None,) * len(given))
    if len(taken) != len(given):
        taken = (None,) * len(given)
    return [Call(*pair) for pair in zip(taken, given, strict=True)]


def _first_met(
    program: Program, variables: Mapping[str, int], varying: frozenset[int]
) -> dict[str, int]:
    # What is made of variables alone, such as a quantized kernel, stands for each of them.
    made_of: dict[int, frozenset[str]] = {
        number: frozenset({name}) for name, number in variables.items()
    }
    met: dict[str, int] = {}
    for at, step in enumerate(program.steps):
        names = frozenset[str]().union(*(made_of.get(value, frozenset()) for value in step.reads))
        if not names:
            continue
        if varying.isdisjoint(step.reads):
            for value in step.writes:
                made_of[value] = names
        elif step.name != "scan":
            for name in names:
                met.setdefault(name, at)
    return met


def _macs(step: Step) -> int:
    """Multiply-accumulates of a product of floats; 0 for another operation."""
    if step.name == "dot_general":
        (contracted, _), _ = step.params["dimension_numbers"]
        summed = math.prod(step.shapes[0][axis] for axis in contracted)
    elif step.name == "conv_general_dilated":
        # Every input of a group is multiplied by its whole kernel: the kernel's size without the
        # axis of its outputs.
        numbers = step.params["dimension_numbers"]
        kernel = step.shapes[1]
        summed = math.prod(kernel) // kernel[numbers.rhs_spec[0]]
        summed //= math.prod(step.params["lhs_dilation"])
    else:
        return 0
    return int(math.prod(step.result) * summed)
