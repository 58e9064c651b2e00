"""A graph as JSON, and back, with every number looked at before it is believed."""

from __future__ import annotations

import dataclasses
from typing import Any

from binjax.deploy.graph import Graph
from binjax.deploy.operations import (
    Affine,
    Conv,
    Dense,
    DeployError,
    Flatten,
    Image,
    MaxPool,
    Op,
    Real,
    Scores,
    Sign,
    Threshold,
    ToFloat,
)
from binjax.xnor.geometry import Geometry

LARGEST_SIZE = 1 << 31
"""What no number in a graph reaches."""

_KINDS: dict[str, type[Op]] = {
    "dense": Dense,
    "conv": Conv,
    "max_pool": MaxPool,
    "flatten": Flatten,
    "sign": Sign,
    "to_float": ToFloat,
    "real": Real,
    "affine": Affine,
}


class FormatError(DeployError):
    """A file that is no model, is damaged, or is of another version; the message is one line."""


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
        raise FormatError(f"does not hold a network: images of dtype {_short(dtype)}")
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
            f"does not hold a network that this binjax knows: operation {i} is {_short(kind)}; "
            f"known: {', '.join(_KINDS)}"
        )
    made = _KINDS[kind]
    names = {field.name for field in dataclasses.fields(made)}
    found = _fields(f"operation {i}", value, {"kind", *names})
    name = _text(f"operation {i}", found["name"])
    if made is Flatten or made is Sign or made is Affine:
        return made(name)
    if made is MaxPool:
        down, right = _sizes(name, found["window"], 2)
        vertical, horizontal = _sizes(name, found["strides"], 2)
        return MaxPool(name, (down, right), (vertical, horizontal))
    if made is Real:
        return _real(name, found)
    operand = found["operand"]
    if operand not in ("pixels", "bits"):
        raise FormatError(f"does not hold a network: {name} multiplies {_short(operand)}")
    if made is ToFloat:
        return ToFloat(name, operand)
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


def _real(name: str, found: dict[str, Any]) -> Real:
    elements, outputs = _size(name, found["elements"]), _size(name, found["outputs"])
    if found["kernel"] is None and found["geometry"] is None:
        return Real(name, elements, outputs, None, None)
    high, wide = _sizes(name, found["kernel"], 2)
    return Real(name, elements, outputs, (high, wide), _geometry(name, found["geometry"]))


def _rule(name: str, value: Any) -> Threshold | Scores:
    if isinstance(value, dict) and value.get("kind") == "threshold":
        _fields(f"{name}.rule", value, {"kind"})
        return Threshold()
    found = _fields(f"{name}.rule", value, {"kind", "scale", "gain"})
    scale, gain = found["scale"], found["gain"]
    if found["kind"] != "scores":
        raise FormatError(f"does not hold a network: {name}.rule")
    if not isinstance(scale, int | float) or isinstance(scale, bool) or not 0 < scale < 1e6:
        raise FormatError(f"does not hold a network: {name} has the scale {_short(scale)}")
    if not isinstance(gain, bool):
        raise FormatError(f"does not hold a network: {name} has the gain {_short(gain)}")
    return Scores(float(scale), gain)


def _geometry(name: str, value: Any) -> Geometry:
    found = _fields(f"{name}.geometry", value, {*Geometry._fields})
    strides, dilation = (_sizes(name, found[f], 2) for f in ("strides", "dilation"))
    top, bottom, left, right = _sizes(name, found["padding"], 4, least=0)
    if found["pad_value"] not in (-1, 0, 1) or isinstance(found["pad_value"], bool):
        raise FormatError(
            f"does not hold a network: {name} has a border of {_short(found['pad_value'])}"
        )
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
    if not isinstance(value, str) or not value.isprintable() or len(value) > 1000:
        raise FormatError(f"does not hold a network: {what} wants a text, not {_short(value)}")
    return value


def _sizes(what: str, value: Any, count: int, least: int = 1) -> list[int]:
    if not isinstance(value, list) or len(value) != count:
        raise FormatError(
            f"does not hold a network: {what} wants {count} numbers, not {_short(value)}"
        )
    return [_size(what, v, least) for v in value]


def _size(what: str, value: Any, least: int = 1) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < LARGEST_SIZE:
        raise FormatError(
            f"does not hold a network: {what} has the size {_short(value)}, outside of "
            f"[{least}, 2**31)"
        )
    return value


def _short(value: Any) -> str:
    text = ascii(value)
    return text if len(text) < 60 else f"{text[:50]}..."
