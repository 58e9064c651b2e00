"""The model file: one safetensors file of words, thresholds and a graph, sealed by a digest.

The metadata of the safetensors header hold one text, ``binjax``: JSON with ``version``, ``graph``
and ``sha256``, the digest of the whole file with zeros in place of the digest itself. A file is
believed only when the digest, the graph and the shape of every array fit. The same model gives the
same bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors import numpy as safetensors

from binjax.deploy.graph import Graph, Tensors, expected_tensors, largest_sum, shapes
from binjax.deploy.graph_json import (
    FormatError,
    graph_from_json,
    graph_to_json,
)
from binjax.deploy.operations import (
    Conv,
    Dense,
    DeployError,
    Real,
    Threshold,
)
from binjax.deploy.writing import write_bytes
from binjax.packing import WORD
from binjax.xnor.pixel_scale import LARGEST_K

VERSION = 1
_NO_DIGEST = "0" * 64
_LARGEST_HEADER = 16 << 20
_LARGEST_IMAGE = 1 << 28  # elements that an operation takes or gives, for one image


def write(path: Path, graph: Graph, tensors: Tensors) -> None:
    """Write a model, whole or not at all.

    Raises:
        DeployError: the file cannot be written.
    """
    check_tensors(graph, tensors)
    write_bytes(path, to_bytes(graph, tensors))


def to_bytes(graph: Graph, tensors: Tensors) -> bytes:
    """What :func:`write` writes."""
    arrays = {name: np.ascontiguousarray(tensors[name]) for name in expected_tensors(graph)}
    about = {"version": VERSION, "graph": graph_to_json(graph), "sha256": _NO_DIGEST}
    # One entry: safetensors writes several in any order.
    data: bytes = safetensors.save(arrays, {"binjax": json.dumps(about, separators=(",", ":"))})
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
    about = _about(data)
    digest = about["sha256"]
    sealed = data.replace(digest.encode(), _NO_DIGEST.encode(), 1)
    if hashlib.sha256(sealed).hexdigest() != digest:
        raise FormatError("is damaged: its content is not what was written (sha256)")
    try:
        graph = graph_from_json(about["graph"])
        arrays = safetensors.load(data)
    except FormatError:
        raise
    except DeployError as error:
        raise FormatError(f"does not hold a network: {error}") from None
    except (SafetensorError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise FormatError(f"is damaged: {str(error).splitlines()[0]}") from None
    _check_sizes(graph)
    check_tensors(graph, arrays)
    return graph, arrays


def _check_sizes(graph: Graph) -> None:
    """Refuse what would fill the memory, before anything is allocated."""
    try:
        found = shapes(graph)
    except FormatError:
        raise
    except DeployError as error:
        raise FormatError(f"does not hold a network: {error}") from None
    for op, before, after in zip(graph.ops, [graph.image.shape, *found], found, strict=False):
        count = max(math.prod(before), math.prod(after))
        if isinstance(op, Conv | Real) and op.geometry is not None:
            top, bottom, left, right = op.geometry.padding
            count = max(count, (before[0] + top + bottom) * (before[1] + left + right) * before[2])
        if count >= _LARGEST_IMAGE:
            raise FormatError(f"does not hold a network: {op.name} takes {count:,} elements")
        if isinstance(op, Dense | Conv) and op.operand == "pixels" and op.elements > LARGEST_K:
            raise FormatError(
                f"does not hold a network: {op.name} sums {op.elements} pixels, {LARGEST_K} at most"
            )


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
    for name, found in tensors.items():
        if found.dtype == np.float32 and not np.isfinite(found).all():
            raise FormatError(f"does not hold a network: {name} is not finite")
    for op in graph.ops:
        if isinstance(op, Dense | Conv):
            _check_values(op, tensors)


def _check_values(op: Dense | Conv, tensors: Tensors) -> None:
    channels = op.elements
    if isinstance(op, Conv) and op.operand == "bits":
        channels = op.geometry.channels
    _check_padding(f"{op.name}.words", tensors[f"{op.name}.words"], channels)
    if isinstance(op.rule, Threshold):
        _check_padding(f"{op.name}.flip", tensors[f"{op.name}.flip"], op.outputs)
        threshold, largest = tensors[f"{op.name}.threshold"], largest_sum(op)
        wrong = (threshold < -largest) | (threshold > largest + 1)
        if wrong.any():
            raise FormatError(
                f"does not hold a network: a threshold of {op.name} is {threshold[wrong][0]}, "
                f"outside of [{-largest}, {largest + 1}]"
            )


def _check_padding(name: str, words: np.ndarray, n: int) -> None:
    if n % WORD and (words[..., -1] >> np.uint32(n % WORD)).any():
        raise FormatError(f"does not hold a network: {name} has bits behind the last of {n}")


def _about(data: bytes) -> dict[str, Any]:
    """What the header says: of this version, with a digest."""
    _require(len(data) >= 8, "it is too short")
    (length,) = struct.unpack("<Q", data[:8])
    _require(2 <= length <= min(len(data) - 8, _LARGEST_HEADER), "its header does not fit into it")
    try:
        about = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["binjax"])
        version, digest = about["version"], about["sha256"]
        known = {*about} == {"version", "graph", "sha256"}
    except (ValueError, KeyError, TypeError, RecursionError):
        raise FormatError("is damaged, or no binjax model: its header cannot be read") from None
    if isinstance(version, int) and version > VERSION:
        raise FormatError(
            f"is of format version {version}, this binjax reads up to {VERSION}; upgrade binjax"
        )
    _require(version == VERSION, f"there is no format version {version!r}"[:80])
    _require(known and isinstance(digest, str), "it has no digest")
    _require(re.fullmatch("[0-9a-f]{64}", digest) is not None, "it has no digest")
    found: dict[str, Any] = about
    return found


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise FormatError(f"is damaged, or no binjax model: {problem}")
