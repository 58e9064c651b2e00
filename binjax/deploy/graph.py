"""A deployed network as data: integer operations on packed words, and the arrays they use.

A graph is a chain. Between two binary layers there are bits and nothing else: a product's epilogue
compares its integer sum with a threshold per channel, and pooling ORs bits. The last product ends
in float32 scores. Layers that cannot be binary stay float only where that was asked for, as
:class:`Real` and :class:`Affine`. Arrays are named ``<operation>.<array>``:

- ``words`` uint32: weights, packed as in :mod:`binjax.packing`: ``[outputs, W]`` of a dense layer
  or of any layer of 8-bit pixels (there W covers all taps jointly), else ``[outputs, kh, kw, Cw]``;
- ``threshold`` int32 ``[outputs]`` and ``flip`` uint32 (packed bits of ``[outputs]``): bit =
  (sum >= threshold) ^ flip;
- ``bias``, ``mean``, ``factor``, ``offset``, of scaled kernels ``gain``, float32 ``[outputs]``:
  scores, see :class:`Scores`;
- ``kernel`` float32, ``[elements, outputs]`` or HWIO, of a :class:`Real`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from binjax.deploy.operations import (
    AFFINE,
    PIXEL_LEVELS,
    PIXEL_SCALING,
    Affine,
    Conv,
    Dense,
    DeployError,
    Flatten,
    Image,
    MaxPool,
    Op,
    Real,
    Sign,
    Threshold,
    ToFloat,
)
from binjax.packing import WORD, words_for

Tensors = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Graph:
    """A network without its arrays; hashable.

    Attributes:
        image: what comes in.
        ops: one after the other.
    """

    image: Image
    ops: tuple[Op, ...]

    @property
    def classes(self) -> int:
        """Scores per image."""
        return shapes(self)[-1][0]

    @property
    def float_layers(self) -> tuple[str, ...]:
        """Names of the layers that multiply floats."""
        return tuple(op.name for op in self.ops if isinstance(op, Real))


def shapes(graph: Graph) -> list[tuple[int, ...]]:
    """Shape of every operation's result for one image, in elements, and check that they fit.

    Raises:
        DeployError: an operation that does not fit what comes before it.
    """
    found = _results(graph)
    shape, kind = found[-1]
    if kind != "scores" and not (kind == "floats" and isinstance(graph.ops[-1], Affine)):
        raise DeployError("the network does not end in scores")
    if len(shape) != 1:
        raise DeployError(f"the network ends in scores of shape {shape}; expected one per class")
    return [shape for shape, _ in found]


def _results(graph: Graph) -> list[tuple[tuple[int, ...], str]]:
    """Shape and kind of every operation's result: "pixels", "bits", "floats" or "scores"."""
    shape, kind = graph.image.shape, "pixels" if graph.image.dtype == "uint8" else "floats"
    found: list[tuple[tuple[int, ...], str]] = []
    for op in graph.ops:
        found.append(after(op, *(found[-1] if found else (shape, kind))))
    return found


def expected_tensors(graph: Graph) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
    """Names, dtypes and shapes of the arrays that a graph's operations use."""
    expected: dict[str, tuple[np.dtype, tuple[int, ...]]] = {}
    word, real, whole = np.dtype(np.uint32), np.dtype(np.float32), np.dtype(np.int32)
    shapes(graph)
    for op, (shape, kind) in zip(graph.ops, _results(graph), strict=True):
        channels = shape[-1:]
        if isinstance(op, MaxPool) and kind == "bits":
            expected[f"{op.name}.flip"] = (word, (words_for(shape[-1]),))
        elif isinstance(op, Affine):
            expected |= {f"{op.name}.{part}": (real, channels) for part in AFFINE}
        elif isinstance(op, ToFloat) and op.operand == "pixels":
            expected |= {f"{op.name}.{part}": (real, channels) for part in PIXEL_SCALING}
        elif isinstance(op, Real):
            taps = () if op.kernel is None else op.kernel
            inputs = op.elements // math.prod(taps)
            expected[f"{op.name}.kernel"] = (real, (*taps, inputs, op.outputs))
        if not isinstance(op, Dense | Conv):
            continue
        if isinstance(op, Conv) and op.operand == "bits":
            words: tuple[int, ...] = (*op.kernel, words_for(op.geometry.channels))
        else:
            words = (words_for(op.elements),)
        expected[f"{op.name}.words"] = (word, (op.outputs, *words))
        if isinstance(op.rule, Threshold):
            expected[f"{op.name}.threshold"] = (whole, (op.outputs,))
            expected[f"{op.name}.flip"] = (word, (words_for(op.outputs),))
        else:
            expected |= {f"{op.name}.{part}": (real, (op.outputs,)) for part in op.rule.parts}
    return expected


def largest_sum(op: Dense | Conv) -> int:
    """Largest absolute value of a product's integer sums."""
    return op.elements * (PIXEL_LEVELS if op.operand == "pixels" else 1)


def sum_step(op: Dense | Conv) -> int:
    """Distance of neighbouring sums: 2, or 1 where a border of zeros leaves elements out."""
    if not isinstance(op, Conv) or not any(op.geometry.padding):
        return 2
    return 1 if op.operand == "pixels" or op.geometry.pad_value == 0 else 2


def after(op: Op, shape: tuple[int, ...], kind: str) -> tuple[tuple[int, ...], str]:
    """Shape and kind of an operation's result: "pixels", "bits", "floats" or "scores".

    Raises:
        DeployError: it does not take what it gets.
    """
    if isinstance(op, Dense | Conv):
        _check(op, kind == op.operand, f"takes {op.operand}, not {kind}")
        made = "bits" if isinstance(op.rule, Threshold) else "scores"
        if isinstance(op, Dense):
            fits = shape[-1:] == (op.elements,) and len(shape) == 1
            _check(op, fits, f"takes [{op.elements}], not {list(shape)}")
            return (op.outputs,), made
        channels = op.groups * op.geometry.channels
        fits = len(shape) == 3 and shape[2] == channels
        _check(op, fits, f"takes [h, w, {channels}], not {list(shape)}")
        whole = op.groups == 1 or op.geometry.channels % WORD == 0
        _check(op, whole, f"has {op.groups} groups of {op.geometry.channels} channels, no words")
        high, wide = op.geometry.output(shape[:2], op.kernel)
        _check(op, min(high, wide) > 0, f"has a window larger than its {list(shape)} input")
        out = (high, wide, op.outputs)
        scores = made == "scores" and high == wide == 1
        return (out[2:] if scores else out), made
    if isinstance(op, Flatten):
        _check(op, kind in ("bits", "pixels", "floats"), f"does not take {kind}")
        return (math.prod(shape),), kind
    if isinstance(op, ToFloat):
        _check(op, kind == op.operand, f"takes {op.operand}, not {kind}")
        return shape, "floats"
    if isinstance(op, Sign | Affine | Real):
        _check(op, kind == "floats", f"takes floats, not {kind}")
        if isinstance(op, Real):
            return _after_real(op, shape), "floats"
        return shape, "bits" if isinstance(op, Sign) else "floats"
    fits = kind in ("bits", "floats") and len(shape) == 3
    _check(op, fits, f"takes bits or floats [h, w, c], not {kind} {list(shape)}")
    high, wide = (
        (size - window) // stride + 1
        for size, window, stride in zip(shape[:2], op.window, op.strides, strict=True)
    )
    _check(op, min(high, wide) > 0, f"has a window larger than its {list(shape)} input")
    return (high, wide, shape[2]), kind


def _after_real(op: Real, shape: tuple[int, ...]) -> tuple[int, ...]:
    if op.kernel is None or op.geometry is None:
        _check(op, (op.kernel is None) == (op.geometry is None), "is half a convolution")
        _check(op, shape == (op.elements,), f"takes [{op.elements}], not {list(shape)}")
        return (op.outputs,)
    channels = op.geometry.channels
    fits = len(shape) == 3 and shape[2] == channels
    _check(op, fits, f"takes [h, w, {channels}], not {list(shape)}")
    _check(op, op.elements == op.geometry.elements(op.kernel), "sums another number of elements")
    high, wide = op.geometry.output(shape[:2], op.kernel)
    _check(op, min(high, wide) > 0, f"has a window larger than its {list(shape)} input")
    return high, wide, op.outputs


def _check(op: Op, holds: bool, problem: str) -> None:
    if not holds:
        raise DeployError(f"{op.name} ({type(op).__name__.lower()}) {problem}")
