"""Files of TensorFlow Lite: tensors and operators as data, and their tables as a FlatBuffer.

Source: TensorFlow ``tensorflow/compiler/mlir/lite/schema/schema.fbs`` (version 3): a field's number
is its place in its table, codes and types are the enumerations' values.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Literal

import numpy as np

from binjax.deploy.operations import (
    DeployError,
)

VERSION, IDENTIFIER = 3, b"TFL3"
ALIGNMENT = 16
"""Of constants, as the schema asks for; and of custom options, as TensorFlow's own writer does."""
ABSENT = -1
"""Index of an optional input that is left out."""

TYPES = {"float32": 0, "int32": 2, "uint8": 3}
CODES = {
    "ADD": 0,
    "CONV_2D": 3,
    "FULLY_CONNECTED": 9,
    "MAX_POOL_2D": 17,
    "MUL": 18,
    "RESHAPE": 22,
    "CUSTOM": 32,
    "PAD": 34,
    "SUB": 41,
    "CAST": 53,
    "PADV2": 60,
}
VERSIONS = {"FULLY_CONNECTED": 5}
"""Of operators, where it is not 1: the first that keeps the number of axes."""
SAME, VALID = 0, 1

Kind = Literal["int8", "int32", "bool"]
_OPTIONS: Mapping[str, tuple[int, Mapping[str, tuple[int, Kind, int]]]] = {
    "CONV_2D": (
        1,
        {
            "padding": (0, "int8", 0),
            "stride_w": (1, "int32", 0),
            "stride_h": (2, "int32", 0),
            "dilation_w_factor": (4, "int32", 1),
            "dilation_h_factor": (5, "int32", 1),
        },
    ),
    "MAX_POOL_2D": (
        5,
        {
            "padding": (0, "int8", 0),
            "stride_w": (1, "int32", 0),
            "stride_h": (2, "int32", 0),
            "filter_width": (3, "int32", 0),
            "filter_height": (4, "int32", 0),
        },
    ),
    "FULLY_CONNECTED": (8, {"keep_num_dims": (2, "bool", 0)}),
    "ADD": (11, {}),
    "RESHAPE": (17, {}),
    "MUL": (21, {}),
    "PAD": (22, {}),
    "SUB": (28, {}),
    "CAST": (37, {"in_data_type": (0, "int8", 0), "out_data_type": (1, "int8", 0)}),
    "PADV2": (43, {}),
}
"""Of each operator: its member of the union of options; fields by name: number, type, default."""


@dataclass(frozen=True)
class Tensor:
    """A tensor of the file.

    Attributes:
        name: for readers.
        shape: for one image.
        dtype: a key of ``TYPES``.
        data: of a constant.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    data: np.ndarray | None = None


@dataclass(frozen=True)
class Operator:
    """An operator of the file.

    Attributes:
        code: a key of ``CODES``, or the name of a custom operator.
        inputs, outputs: indices of tensors.
        options: of a built-in operator fields of its table, of a custom one its map.
    """

    code: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, int] = field(default_factory=dict)


def flatbuffers(module: str = "flatbuffers") -> ModuleType:
    """The package that lays out the tables.

    Raises:
        DeployError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise DeployError(
            "a .tflite file is written with the package flatbuffers, which is not installed: "
            "pip install 'binjax[export]'"
        ) from None


def serialize(
    tensors: Sequence[Tensor],
    operators: Sequence[Operator],
    inputs: Sequence[int],
    outputs: Sequence[int],
    description: str,
) -> bytes:
    """A file with one subgraph.

    Raises:
        DeployError: flatbuffers is not installed, or the file would be too large for it.
    """
    size = sum(tensor.data.nbytes for tensor in tensors if tensor.data is not None)
    if size >= 1 << 30:
        raise DeployError(f"a .tflite file cannot hold {size} bytes of constants")
    builder = flatbuffers().Builder(size + 4096)
    codes = list(dict.fromkeys(operator.code for operator in operators))
    # Buffer 0 is empty by convention: of tensors without data.
    constants = [tensor.data for tensor in tensors if tensor.data is not None]
    buffers = [_table(builder, {})]
    buffers += [_table(builder, {0: _bytes(builder, np.asarray(data))}) for data in constants]
    places = iter(range(1, len(buffers)))
    tables = [
        _tensor(builder, tensor, 0 if tensor.data is None else next(places)) for tensor in tensors
    ]
    subgraph = {
        0: _tables(builder, tables),
        1: _integers(builder, inputs),
        2: _integers(builder, outputs),
        3: _tables(builder, [_operator(builder, op, codes.index(op.code)) for op in operators]),
        4: builder.CreateString("main"),
    }
    model = {
        1: _tables(builder, [_code(builder, code) for code in codes]),
        2: _tables(builder, [_table(builder, subgraph)]),
        3: builder.CreateString(description),
        4: _tables(builder, buffers),
    }
    builder.Finish(_table(builder, model, {0: ("uint32", VERSION, 0)}), IDENTIFIER)
    return bytes(builder.Output())


def _tensor(builder: Any, tensor: Tensor, buffer: int) -> int:
    offsets = {0: _integers(builder, tensor.shape), 3: builder.CreateString(tensor.name)}
    scalars = {1: ("int8", TYPES[tensor.dtype], 0), 2: ("uint32", buffer, 0)}
    return _table(builder, offsets, scalars)


def _code(builder: Any, name: str) -> int:
    code = CODES.get(name, CODES["CUSTOM"])
    offsets = {} if name in CODES else {1: builder.CreateString(name)}
    version = ("int32", VERSIONS.get(name, 1), 1)
    # Readers of before 2020 know the code as a byte, field 0.
    return _table(builder, offsets, {0: ("int8", code, 0), 2: version, 3: ("int32", code, 0)})


def _operator(builder: Any, operator: Operator, code: int) -> int:
    offsets = {1: _integers(builder, operator.inputs), 2: _integers(builder, operator.outputs)}
    scalars = {0: ("uint32", code, 0)}
    if operator.code not in _OPTIONS:
        offsets[5] = _bytes(builder, _flexible(operator.options))
        return _table(builder, offsets, scalars)
    member, fields = _OPTIONS[operator.code]
    values = {}
    for name, value in operator.options.items():
        number, kind, default = fields[name]
        values[number] = (kind, value, default)
    offsets[4] = _table(builder, {}, values)
    return _table(builder, offsets, scalars | {3: ("uint8", member, 0)})


def _flexible(options: Mapping[str, int]) -> np.ndarray:
    """Custom options: a FlexBuffer map of integers, or nothing."""
    if not options:
        return np.zeros(0, np.uint8)
    builder = flatbuffers("flatbuffers.flexbuffers").Builder()
    with builder.Map():
        for name, value in options.items():
            builder.Int(name, value)
    return np.frombuffer(bytes(builder.Finish()), np.uint8)


def _table(
    builder: Any,
    offsets: Mapping[int, int],
    scalars: Mapping[int, tuple[str, int, int]] | None = None,
) -> int:
    """A table: fields by number, of offsets, and of scalars with type and default."""
    scalars = scalars or {}
    builder.StartObject(max([*offsets, *scalars], default=-1) + 1)
    for number, field_offset in offsets.items():
        builder.PrependUOffsetTRelativeSlot(number, field_offset, 0)
    slots = {
        "int8": builder.PrependInt8Slot,
        "uint8": builder.PrependUint8Slot,
        "int32": builder.PrependInt32Slot,
        "uint32": builder.PrependUint32Slot,
        "bool": builder.PrependBoolSlot,
    }
    for number, (kind, value, default) in scalars.items():
        slots[kind](number, value, default)
    offset: int = builder.EndObject()
    return offset


def _tables(builder: Any, offsets: Sequence[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):  # a FlatBuffer is written from its end
        builder.PrependUOffsetTRelative(offset)
    vector: int = builder.EndVector()
    return vector


def _integers(builder: Any, values: Sequence[int]) -> int:
    builder.StartVector(4, len(values), 4)
    for value in reversed(values):
        builder.PrependInt32(value)
    vector: int = builder.EndVector()
    return vector


def _bytes(builder: Any, array: np.ndarray) -> int:
    """An array's bytes, little-endian, aligned."""
    data = array.astype(array.dtype.newbyteorder("<")).tobytes()
    builder.StartVector(1, len(data), ALIGNMENT)
    builder.head = builder.head - len(data)
    builder.Bytes[builder.Head() : builder.Head() + len(data)] = data
    vector: int = builder.EndVector()
    return vector
