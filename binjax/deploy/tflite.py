"""A packed model as a ``.tflite`` file for Larq Compute Engine (LCE): its operators on packed bits.

What is exact there: every sum is a whole number below 2^24 (more products are refused), also where
TensorFlow Lite holds it as float32, so that any order of summation and any fused product gives it;
it is compared with whole thresholds. So all bits are those of the packed model, on kernels that
multiply and add (not on transformed convolutions, as some GPU delegates compute them). Scores are
computed as :class:`~binjax.deploy.graph.Scores` says, each operation rounded. Layers that stayed
float are rounded as their runtime pleases.

How:

- pixels: ``CAST``, times 2, minus 255; a first layer of pixels multiplies floats (a dense one's
  weights are packed in the file all the same, and unpacked by ``LceDequantize``);
- a dense layer of bits is a convolution whose window is the whole image;
- flips are negated weights: of the layer itself, or of the one behind a pooling;
- a border of zeros leaves LCE's sums float, compared in ``LceQuantize``; one that is not
  TensorFlow's SAME is a border of +1, minus a constant for each position;
- a border of -1, or one behind a pooling that flips, is made of floats (``LceDequantize``,
  ``PADV2``, ``LceQuantize``) unless it is whole words.

LCE has three kernels for its convolution (``tflite/kernels/bconv2d.cc``). All take these files, but
for groups, which the usual one refuses, and a SAME border of zeros around an odd number of
channels, which the reference refuses.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from binjax.deploy.graph import Tensors
from binjax.deploy.operations import (
    Affine,
    Conv,
    Dense,
    DeployError,
    Flatten,
    MaxPool,
    Op,
    Real,
    Sign,
    ToFloat,
)
from binjax.deploy.packed import PackedModel
from binjax.deploy.tflite_ops import Program
from binjax.deploy.tflite_products import (
    Value,
    affine,
    bits_product,
    flattened,
    pixels_product,
    plain_floats,
    quantized,
)
from binjax.deploy.words import unpack_last
from binjax.deploy.writing import write_bytes


def to_tflite(packed: PackedModel) -> bytes:
    """The model as a file's bytes: uint8 or float32 images in, ``float32[n, classes]`` out.

    Shapes are those of one image. Nothing but an ``LceDequantize`` inside the network, whose shape
    LCE cannot change, fixes the number of images.

    Raises:
        DeployError: flatbuffers is not installed, or an operation that cannot be expressed, by
            name.
    """
    graph = packed.graph
    image = graph.image
    program = Program("pixels" if image.dtype == "uint8" else "image", image.shape, image.dtype)
    value = Value(0, image.shape)
    for op in graph.ops:
        value = _apply(program, op, value, packed.tensors)
    scores = program.reshape(value.tensor, (1, graph.classes), "scores")
    size = "x".join(map(str, image.shape))
    return program.serialize(
        scores,
        f"binjax for Larq Compute Engine; takes {image.dtype} [n, height, width, channels] of "
        f"{size}{', pixels as they are in the file' if image.dtype == 'uint8' else ''}; "
        "gives float32 scores",
    )


def write_tflite(packed: PackedModel, path: str | Path) -> None:
    """Write what :func:`to_tflite` gives.

    Raises:
        DeployError: as :func:`to_tflite`, or the file cannot be written.
    """
    write_bytes(Path(path), to_tflite(packed))


def _apply(program: Program, op: Op, x: Value, tensors: Tensors) -> Value:
    if isinstance(op, Dense | Conv):
        product = pixels_product if op.operand == "pixels" else bits_product
        return product(program, op, x, tensors)
    if isinstance(op, Flatten):
        return flattened(program, x, op.name) if x.flips is None else replace(x, flat=True)
    if isinstance(op, MaxPool):
        return _pool(program, op, x, tensors)
    if isinstance(op, Sign):
        return quantized(program, x.tensor, x.shape, op.name)
    if isinstance(op, ToFloat):
        return _to_float(program, op, x, tensors)
    if isinstance(op, Affine):
        return replace(x, tensor=affine(program, op.name, x.tensor, tensors))
    if isinstance(op, Real):
        return _real(program, op, x, tensors[f"{op.name}.kernel"])
    raise DeployError(f"{op.name} ({type(op).__name__.lower()}) has no form in a .tflite file")


def _pool(program: Program, op: MaxPool, x: Value, tensors: Tensors) -> Value:
    if x.flips is not None and x.flips.any():
        floats = plain_floats(program, x, f"{op.name}-floats")
        x = quantized(program, floats, x.shape, f"{op.name}-input")
    pooled = program.max_pool(x.tensor, op.window, op.strides, op.name)
    high, wide = program.shape(pooled)[1:3]
    shape = (high, wide, x.shape[2])
    if x.flips is None:
        return Value(pooled, shape)
    return Value(pooled, shape, unpack_last(tensors[f"{op.name}.flip"], x.shape[2]))


def _to_float(program: Program, op: ToFloat, x: Value, tensors: Tensors) -> Value:
    if op.operand == "bits":
        value = Value(plain_floats(program, x, op.name), x.shape)
        return flattened(program, value, f"{op.name}-flat") if x.flat else value
    floats = program.cast(x.tensor, "float32", f"{op.name}-cast")
    for code, part in (("MUL", "gain"), ("SUB", "mean"), ("MUL", "inverse")):
        values = tensors[f"{op.name}.{part}"]
        floats = program.combine(code, floats, values, f"{op.name}-{part}")
    return Value(floats, x.shape)


def _real(program: Program, op: Real, x: Value, kernel: np.ndarray) -> Value:
    """A product of floats."""
    bias = np.zeros(op.outputs, np.float32)
    if op.geometry is None:
        x = flattened(program, x, f"{op.name}-flat")
        weights = program.constant(f"{op.name}.kernel", np.ascontiguousarray(kernel.T))
        return Value(program.dense(x.tensor, weights, bias, op.name), (1, 1, op.outputs))
    product = program.conv(x.tensor, np.moveaxis(kernel, 3, 0), bias, op.geometry, op.name)
    high, wide = program.shape(product)[1:3]
    return Value(product, (high, wide, op.outputs))
