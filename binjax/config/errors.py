"""One-line messages for what pydantic finds wrong."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel

from binjax.config.schema import Config

_MANY = 8  # kinds, of which a message names the nearest only


class ConfigError(ValueError):
    """A configuration that cannot be used; the message is one line."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.split()))


def explain(error: Any, name: str, origin: Mapping[str, str]) -> str:
    """One pydantic error as ``place: dotted.key: what is wrong and what to write``."""
    keys, section = _locate(error["loc"])
    if error["type"].startswith("union_tag"):
        keys = [*keys, "kind"]
    key = ".".join(keys)
    label = _label(key, name, origin)
    match error["type"]:
        case "extra_forbidden":
            near = difflib.get_close_matches(keys[-1], section.model_fields, n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else _known(section)
            return f"{label}: unknown key; {hint}"
        case "union_tag_not_found":
            return f"{label}: is missing; one of {', '.join(_kinds(keys[:-1]))}"
        case "union_tag_invalid":
            return f"{label}: {_unknown_kind(error['ctx']['tag'], _kinds(keys[:-1]))}"
        case "missing":
            return f"{label}: is missing and has no default"
    wanted = error["msg"].removeprefix("Input should be ").replace("valid tuple", "list")
    if error["type"] in ("model_type", "model_attributes_type"):
        wanted = "a section of keys"
    elif error["type"] == "too_short":
        wanted = "at least one item"
    return f"{label}: wants {wanted}, got {error['input']!r}"


def _label(key: str, name: str, origin: Mapping[str, str]) -> str:
    """The flag that set a key, set the section it is in, or set something below it; else file."""
    for given, flag in origin.items():
        if key == given or given.startswith(key + "."):
            return flag
        if key.startswith(given + "."):
            return flag + key.removeprefix(given)
    return f"{name}: {key}"


def _known(section: type[BaseModel]) -> str:
    return f"known here: {', '.join(section.model_fields)}"


def _locate(loc: Sequence[str | int]) -> tuple[list[str], type[BaseModel]]:
    """Dotted path (without union tags) and the innermost section of an error's location."""
    section: type[BaseModel] = Config
    keys: list[str] = []
    tags: dict[str, type[BaseModel]] = {}
    for part in map(str, loc):
        if part in tags:
            section, tags = tags[part], {}
            continue
        keys.append(part)
        if part.isdigit():  # of a list of sections, whose kinds stay known
            continue
        field = section.model_fields.get(part)
        options = _sections(field.annotation) if field else []
        tags = {o.model_fields["kind"].default: o for o in options if "kind" in o.model_fields}
        if len(options) == 1 and not tags:
            section = options[0]
    return keys, section


def _unknown_kind(kind: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(kind, known, n=3, cutoff=0.5)
    if near and len(known) > _MANY:
        return f"{kind!r} is not known here; did you mean {' or '.join(near)}?"
    return f"{kind!r} is not one of {', '.join(known)}"


def _kinds(keys: Sequence[str]) -> list[str]:
    """The kinds a union at this path knows."""
    section: type[BaseModel] = Config
    options: list[type[BaseModel]] = []
    for key in keys:
        if key.isdigit():
            continue
        field = section.model_fields.get(key) or _field_of_any(options, key)
        options = _sections(field.annotation) if field else []
        section = options[0] if options else section
    return [o.model_fields["kind"].default for o in options]


def _field_of_any(options: Sequence[type[BaseModel]], key: str) -> Any:
    return next((o.model_fields[key] for o in options if key in o.model_fields), None)


def _sections(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, Annotated, tuple):
        return [s for a in typing.get_args(annotation) for s in _sections(a)]
    return []
