"""Products of packed models as operators of :mod:`binjax.deploy.tflite_ops`."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from binjax.deploy.graph import Tensors, largest_sum
from binjax.deploy.operations import (
    PIXEL_LEVELS,
    Conv,
    Dense,
    DeployError,
    Scores,
    Threshold,
)
from binjax.deploy.tflite_ops import Program, is_same, packed_signs
from binjax.deploy.words import unpack_last
from binjax.packing import WORD
from binjax.xnor.geometry import Geometry, matrix_geometry

MOST = 1 << 24
"""Float32 holds every whole number up to here."""


@dataclass(frozen=True)
class Value:
    """What an operation leaves.

    Attributes:
        tensor: ``[1, height, width, channels]``.
        shape: (height, width, channels).
        flips: bool ``[channels]`` of bits, else None: where the tensor holds the opposite bit.
        flat: whether bits were flattened since; their words may have gaps, so they are not moved.
    """

    tensor: int
    shape: tuple[int, int, int]
    flips: np.ndarray | None = None
    flat: bool = False


def bits_product(program: Program, op: Dense | Conv, x: Value, tensors: Tensors) -> Value:
    """A product of bits."""
    words, name = tensors[f"{op.name}.words"], op.name
    flips = _flips(x)
    if isinstance(op, Dense):
        # A window as large as the image; 1x1 behind another dense layer.
        positive = unpack_last(words, op.elements).reshape(op.outputs, *x.shape)
        geometry, groups, kernel = matrix_geometry(x.shape[2]), 1, (x.shape[0], x.shape[1])
    else:
        positive = unpack_last(words, op.geometry.channels)
        geometry, groups, kernel = op.geometry, op.groups, op.kernel
        if groups > 1 and geometry.channels % WORD:
            raise DeployError(
                f"{name} has groups of {geometry.channels} channels; LCE takes groups of whole "
                f"words of {WORD} only"
            )
    high, wide = geometry.output(x.shape[:2], kernel)
    zeros = any(geometry.padding) and geometry.pad_value == 0
    if isinstance(op.rule, Scores) or zeros:
        _check_sums(op)
    same: int | None = None
    shifts: np.ndarray | None = None
    if zeros and is_same(x.shape[:2], kernel, geometry):
        same = 0
    elif any(geometry.padding) and not zeros:
        x, same = _bordered(program, x, kernel, geometry, name)
        flips = _flips(x)
    positive = positive ^ _of_groups(flips, groups, op.outputs)
    bias, turned = _bias(op, tensors)
    positive ^= turned[:, None, None, None]
    if zeros and same is None:
        bordered = program.pad(x.tensor, geometry.padding, 0, f"{name}-border")
        x = replace(x, tensor=bordered)
        shifts = _border_sums(positive, geometry, x.shape[:2])
    bits = isinstance(op.rule, Threshold) and not zeros
    sums = program.binary_conv(
        x.tensor, positive, geometry, same, bias, name, bits=bits, groups=groups
    )
    if shifts is not None:
        sums = program.combine("SUB", sums, shifts, f"{name}-inside")
    shape = (high, wide, op.outputs)
    if bits:
        return Value(sums, shape, np.zeros(op.outputs, bool))
    return _finish(program, op, sums, shape, tensors)


def pixels_product(program: Program, op: Dense | Conv, x: Value, tensors: Tensors) -> Value:
    """A product of pixels, each as 2p - 255, in floats."""
    _check_sums(op)
    name = op.name
    floats = program.cast(x.tensor, "float32", f"{name}-cast")
    floats = program.combine("MUL", floats, np.array([2]), f"{name}-double")
    floats = program.combine("SUB", floats, np.array([PIXEL_LEVELS]), f"{name}-centered")
    positive = unpack_last(tensors[f"{name}.words"], op.elements)
    bias, turned = _bias(op, tensors)
    positive ^= turned[:, None]
    if isinstance(op, Conv):
        weights = np.where(positive, np.float32(1), np.float32(-1))
        weights = weights.reshape(op.outputs, *op.kernel, op.geometry.channels)
        geometry = op.geometry._replace(pad_value=0)
        sums = program.conv(floats, weights, bias, geometry, name)
        shape = (*op.geometry.output(x.shape[:2], op.kernel), op.outputs)
    else:
        kernel = program.constant(f"{name}.kernel", packed_signs(positive))
        unpacked = program.dequantize(kernel, op.elements, f"{name}.signs")
        flat = flattened(program, replace(x, tensor=floats), f"{name}-flat")
        sums = program.dense(flat.tensor, unpacked, bias, name)
        shape = (1, 1, op.outputs)
    return _finish(program, op, sums, shape, tensors)


def _finish(
    program: Program,
    op: Dense | Conv,
    sums: int,
    shape: tuple[int, int, int],
    tensors: Tensors,
) -> Value:
    """Float sums, with :func:`_bias` added, as bits or scores."""
    if isinstance(op.rule, Threshold):
        return quantized(program, sums, shape, f"{op.name}-sign")
    if op.rule.scale != 1:
        sums = program.combine("MUL", sums, np.array([op.rule.scale]), f"{op.name}-scaled")
    if op.rule.gain:
        sums = program.combine("MUL", sums, tensors[f"{op.name}.gain"], f"{op.name}-gain")
    return Value(affine(program, op.name, sums, tensors), shape)


def affine(program: Program, name: str, x: int, tensors: Tensors) -> int:
    """``((x + bias) - mean) * factor + offset``, without what changes no number."""
    steps = (("ADD", "bias"), ("SUB", "mean"), ("MUL", "factor"), ("ADD", "offset"))
    for code, part in steps:
        values = tensors[f"{name}.{part}"]
        if not np.all(values == (code == "MUL")):
            x = program.combine(code, x, values, f"{name}-{part}")
    return x


def _bordered(
    program: Program, x: Value, kernel: tuple[int, int], geometry: Geometry, name: str
) -> tuple[Value, int | None]:
    """Bits with what a border of ±1 still lacks, and what LCE's own border counts as."""
    flips = _flips(x)
    minus = flips ^ (geometry.pad_value < 0)  # as the tensor holds it
    if not minus.any() and is_same(x.shape[:2], kernel, geometry):
        return x, 1
    label = f"{name}-border"
    whole = x.shape[2] % WORD == 0
    if not minus.any() or (minus.all() and whole):
        words = -1 if minus.any() else 0
        return replace(x, tensor=program.pad(x.tensor, geometry.padding, words, label)), None
    floats = plain_floats(program, x, f"{label}-floats")
    floats = program.pad(floats, geometry.padding, geometry.pad_value, f"{label}-signs")
    return quantized(program, floats, x.shape, label), None


def _border_sums(positive: np.ndarray, geometry: Geometry, image: tuple[int, int]) -> np.ndarray:
    """What a border of +1 adds to the sums: float32 ``[1, high, wide, outputs]``."""
    taps = np.where(positive, 1, -1).sum(3)  # [outputs, kh, kw]
    top, bottom, left, right = geometry.padding
    outside = np.pad(np.zeros(image, int), ((top, bottom), (left, right)), constant_values=1)
    high, wide = geometry.output(image, taps.shape[1:])
    found = np.zeros((1, high, wide, len(taps)), np.float32)
    for i, j in np.ndindex(taps.shape[1:]):
        rows = i * geometry.dilation[0] + geometry.strides[0] * np.arange(high)
        columns = j * geometry.dilation[1] + geometry.strides[1] * np.arange(wide)
        found[0] += outside[np.ix_(rows, columns)][..., None] * taps[:, i, j]
    return found


def _bias(op: Dense | Conv, tensors: Tensors) -> tuple[np.ndarray, np.ndarray]:
    """What to add to the sums so that bits are +1 from 0 on, and whose weights to negate.

    Returns:
        int64 and bool ``[outputs]``. For scores, nothing.
    """
    if isinstance(op.rule, Scores):
        return np.zeros(op.outputs, np.int64), np.zeros(op.outputs, bool)
    largest = largest_sum(op)
    least = np.clip(tensors[f"{op.name}.threshold"].astype(np.int64), -largest, largest + 1)
    turned = unpack_last(tensors[f"{op.name}.flip"], op.outputs)
    # Not sum >= least is -sum >= 1 - least.
    return np.where(turned, least - 1, -least), turned


def _of_groups(flips: np.ndarray, groups: int, outputs: int) -> np.ndarray:
    """Flips of the channels that each output multiplies: ``[outputs, 1, 1, channels]``."""
    return np.repeat(flips.reshape(groups, -1), outputs // groups, 0)[:, None, None]


def _flips(x: Value) -> np.ndarray:
    assert x.flips is not None
    return x.flips


def plain_floats(program: Program, x: Value, name: str) -> int:
    """Bits, as they are without flips, as ±1.0."""
    flips = _flips(x)
    floats = program.dequantize(x.tensor, x.shape[2], name)
    if flips.any():
        floats = program.combine("MUL", floats, np.where(flips, -1, 1), f"{name}-flip")
    return floats


def quantized(program: Program, x: int, shape: tuple[int, int, int], name: str) -> Value:
    """Floats as bits without flips."""
    return Value(program.quantize(x, name), shape, np.zeros(shape[2], bool))


def flattened(program: Program, x: Value, name: str) -> Value:
    """``[1, 1, 1, elements]``."""
    elements = x.shape[0] * x.shape[1] * x.shape[2]
    if x.shape == (1, 1, elements):
        return x
    return Value(program.reshape(x.tensor, (1, 1, 1, elements), name), (1, 1, elements))


def _check_sums(op: Dense | Conv) -> None:
    """Sums that float32 holds, with a threshold beyond them subtracted.

    Raises:
        DeployError: too many products.
    """
    largest = 2 * largest_sum(op) + 2
    if largest >= MOST:
        raise DeployError(
            f"{op.name} sums {op.elements} products of {op.operand}: too many for a .tflite file, "
            f"where float32 has to hold whole numbers up to {largest}"
        )
