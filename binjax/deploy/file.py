"""The model file: one safetensors file of words, thresholds and a graph, sealed by a digest.

The metadata of the safetensors header holds ``format`` ("binjax"), ``version``, ``graph`` (JSON)
and ``sha256``: of the whole file with zeros in place of the digest itself. A file is believed only
when the digest, the graph and the shape of every array fit.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import struct
import uuid
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors import numpy as safetensors

from binjax.deploy.graph import (
    Conv,
    Dense,
    DeployError,
    Flatten,
    Graph,
    Image,
    MaxPool,
    Op,
    Scores,
    Sign,
    Tensors,
    Threshold,
    expected_tensors,
    largest_sum,
)
from binjax.xnor.geometry import Geometry

VERSION = 1
_NO_DIGEST = "0" * 64
_LARGEST_HEADER = 16 << 20
_LARGEST_SIZE = 1 << 31  # of any number in a graph
_KINDS: dict[str, type[Op]] = {
    "dense": Dense,
    "conv": Conv,
    "max_pool": MaxPool,
    "flatten": Flatten,
    "sign": Sign,
}


class FormatError(DeployError):
    """A file that is no model, is damaged, or is of another version; the message is one line."""


def write(path: Path, graph: Graph, tensors: Tensors) -> None:
    """Write a model, whole or not at all.

    Raises:
        DeployError: the file cannot be written.
    """
    check_tensors(graph, tensors)
    data = to_bytes(graph, tensors)
    temporary = path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise DeployError(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)


def to_bytes(graph: Graph, tensors: Tensors) -> bytes:
    """What :func:`write` writes."""
    arrays = {name: np.ascontiguousarray(tensors[name]) for name in expected_tensors(graph)}
    metadata = {
        "format": "binjax",
        "version": str(VERSION),
        "graph": json.dumps(graph_to_json(graph), separators=(",", ":")),
        "sha256": _NO_DIGEST,
    }
    data = safetensors.save(arrays, metadata)
    digest = hashlib.sha256(data).hexdigest()
    return data.replace(_NO_DIGEST.encode(), digest.encode(), 1)


def read(path: Path) -> tuple[Graph, dict[str, np.ndarray]]:
    """A model's graph and arrays.

    Raises:
        FormatError: not such a file, damaged, of a newer version, or one whose parts do not fit.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror or error}") from None
    try:
        return from_bytes(data)
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from None


def from_bytes(data: bytes) -> tuple[Graph, dict[str, np.ndarray]]:
    """As :func:`read`, from a file's content."""
    metadata = _metadata(data)
    digest = metadata.get("sha256", "")
    _require(len(digest) == 64, "it has no digest")
    sealed = data.replace(digest.encode(), _NO_DIGEST.encode(), 1)
    if hashlib.sha256(sealed).hexdigest() != digest:
        raise FormatError("is damaged: its content is not what was written (sha256)")
    try:
        graph = graph_from_json(json.loads(metadata["graph"]))
        arrays = safetensors.load(data)
    except FormatError:
        raise
    except DeployError as error:
        raise FormatError(f"does not hold a network: {error}") from None
    except (SafetensorError, ValueError, TypeError, KeyError) as error:
        raise FormatError(f"is damaged: {str(error).splitlines()[0]}") from None
    check_tensors(graph, arrays)
    return graph, arrays


def sha256_of(path: Path) -> str:
    """Digest of a file's bytes, as sha256sum prints it."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def check_tensors(graph: Graph, tensors: Tensors) -> None:
    """Check arrays against the operations that use them.

    Raises:
        FormatError: missing or superfluous ones, other shapes or dtypes, thresholds out of range,
            scores that are not numbers.
    """
    expected = expected_tensors(graph)
    for name in sorted({*expected, *tensors}):
        if name not in tensors:
            raise FormatError(f"does not hold a network: {name} is missing")
        if name not in expected:
            raise FormatError(f"does not hold a network: nothing uses {name}")
        found = tensors[name]
        if (found.dtype, found.shape) != expected[name]:
            dtype, shape = expected[name]
            raise FormatError(
                f"does not hold a network: {name} is {found.dtype}{list(found.shape)}, its "
                f"operation needs {dtype}{list(shape)}"
            )
    for op in graph.ops:
        if isinstance(op, Dense | Conv):
            _check_values(op, tensors)


def _check_values(op: Dense | Conv, tensors: Tensors) -> None:
    if isinstance(op.rule, Threshold):
        threshold, largest = tensors[f"{op.name}.threshold"], largest_sum(op)
        wrong = (threshold < -largest) | (threshold > largest + 1)
        if wrong.any():
            raise FormatError(
                f"does not hold a network: a threshold of {op.name} is {threshold[wrong][0]}, "
                f"outside of [{-largest}, {largest + 1}]"
            )
        return
    for part in ("bias", "mean", "factor", "offset"):
        if not np.isfinite(tensors[f"{op.name}.{part}"]).all():
            raise FormatError(f"does not hold a network: {op.name}.{part} is not finite")


def _metadata(data: bytes) -> dict[str, str]:
    _require(len(data) >= 8, "it is too short")
    (length,) = struct.unpack("<Q", data[:8])
    _require(2 <= length <= min(len(data) - 8, _LARGEST_HEADER), "it is no binjax model")
    try:
        header = json.loads(data[8 : 8 + length])
        metadata = header["__metadata__"]
        version = int(metadata["version"])
        _require(metadata["format"] == "binjax", "it is no binjax model")
    except (ValueError, KeyError, TypeError, RecursionError):
        raise FormatError("is damaged, or no binjax model: its header cannot be read") from None
    if version > VERSION:
        raise FormatError(
            f"is of format version {version}, this binjax reads up to {VERSION}; upgrade binjax"
        )
    _require(version == VERSION, f"there is no format version {version}")
    _require(all(isinstance(v, str) for v in metadata.values()), "its metadata are no strings")
    return dict(metadata)


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise FormatError(f"is damaged, or no binjax model: {problem}")


# Graphs as JSON


def graph_to_json(graph: Graph) -> dict[str, Any]:
    """A graph as what JSON can hold."""
    names = {kind: name for name, kind in _KINDS.items()}
    ops = []
    for op in graph.ops:
        entry: dict[str, Any] = {"kind": names[type(op)]}
        for field in dataclasses.fields(op):
            value = getattr(op, field.name)
            if isinstance(value, Threshold):
                value = {"kind": "threshold"}
            elif isinstance(value, Scores):
                value = {"kind": "scores", **value._asdict()}
            elif isinstance(value, Geometry):
                value = value._asdict()
            entry[field.name] = value
        ops.append(entry)
    return {"image": dataclasses.asdict(graph.image), "ops": ops}


def graph_from_json(value: Any) -> Graph:
    """The graph that JSON holds.

    Raises:
        FormatError: something else.
    """
    top = _fields("graph", value, {"image", "ops"})
    image = _fields("image", top["image"], {"shape", "dtype", "scaling"})
    scaling, dtype = _text("image.scaling", image["scaling"]), image["dtype"]
    if dtype not in ("uint8", "float32"):
        raise FormatError(f"does not hold a network: images of dtype {dtype!r}")
    height, width, channels = _sizes("image.shape", image["shape"], 3)
    if not isinstance(top["ops"], list) or not top["ops"]:
        raise FormatError("does not hold a network: it has no operations")
    ops = tuple(_op(i, entry) for i, entry in enumerate(top["ops"]))
    names = [op.name for op in ops]
    if len({*names}) < len(names):
        raise FormatError("does not hold a network: two operations have one name")
    return Graph(Image((height, width, channels), dtype, scaling), ops)


def _op(i: int, value: Any) -> Op:
    kind = value.get("kind") if isinstance(value, dict) else None
    if not isinstance(kind, str) or kind not in _KINDS:
        raise FormatError(
            f"does not hold a network that this binjax knows: operation {i} is {kind!r}; known: "
            f"{', '.join(_KINDS)}"
        )
    made = _KINDS[kind]
    names = {field.name for field in dataclasses.fields(made)}
    found = _fields(f"operation {i}", value, {"kind", *names})
    name = _text(f"operation {i}", found["name"])
    if made is Flatten or made is Sign:
        return made(name)
    if made is MaxPool:
        down, right = _sizes(name, found["window"], 2)
        vertical, horizontal = _sizes(name, found["strides"], 2)
        return MaxPool(name, (down, right), (vertical, horizontal))
    operand = found["operand"]
    if operand not in ("pixels", "bits"):
        raise FormatError(f"does not hold a network: {name} multiplies {operand!r}")
    outputs = _size(name, found["outputs"])
    rule = _rule(name, found["rule"])
    if made is Dense:
        return Dense(name, operand, _size(name, found["elements"]), outputs, rule)
    high, wide = _sizes(name, found["kernel"], 2)
    geometry = _geometry(name, found["geometry"])
    groups = _size(name, found["groups"])
    if outputs % groups or (operand == "pixels" and groups > 1):
        raise FormatError(f"does not hold a network: {name} has {groups} groups")
    return Conv(name, operand, outputs, (high, wide), geometry, groups, rule)


def _rule(name: str, value: Any) -> Threshold | Scores:
    if isinstance(value, dict) and value.get("kind") == "threshold":
        _fields(f"{name}.rule", value, {"kind"})
        return Threshold()
    found = _fields(f"{name}.rule", value, {"kind", "scale", "fused"})
    scale, fused = found["scale"], found["fused"]
    if found["kind"] != "scores" or not isinstance(fused, bool):
        raise FormatError(f"does not hold a network: {name}.rule")
    if not isinstance(scale, int | float) or isinstance(scale, bool) or not 0 < scale <= 1:
        raise FormatError(f"does not hold a network: {name} has the scale {scale!r}")
    return Scores(float(scale), fused)


def _geometry(name: str, value: Any) -> Geometry:
    found = _fields(f"{name}.geometry", value, {*Geometry._fields})
    strides, dilation = (_sizes(name, found[f], 2) for f in ("strides", "dilation"))
    top, bottom, left, right = _sizes(name, found["padding"], 4, least=0)
    if found["pad_value"] not in (-1, 0, 1) or isinstance(found["pad_value"], bool):
        raise FormatError(f"does not hold a network: {name} has a border of {found['pad_value']!r}")
    return Geometry(
        _size(name, found["channels"]),
        (strides[0], strides[1]),
        (dilation[0], dilation[1]),
        (top, bottom, left, right),
        int(found["pad_value"]),
    )


def _fields(what: str, value: Any, names: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict) or {*value} != names:
        raise FormatError(f"does not hold a network: {what} wants {', '.join(sorted(names))}")
    return value


def _text(what: str, value: Any) -> str:
    if not isinstance(value, str):
        raise FormatError(f"does not hold a network: {what} wants a text, not {value!r}")
    return value


def _sizes(what: str, value: Any, count: int, least: int = 1) -> list[int]:
    if not isinstance(value, list) or len(value) != count:
        raise FormatError(f"does not hold a network: {what} wants {count} numbers, not {value!r}")
    return [_size(what, v, least) for v in value]


def _size(what: str, value: Any, least: int = 1) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < _LARGEST_SIZE:
        raise FormatError(
            f"does not hold a network: {what} has the size {value!r}, outside of [{least}, 2**31)"
        )
    return value
