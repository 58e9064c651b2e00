"""One-line messages for what pydantic finds wrong."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel

from binjax.config.quantizers import KernelQuantizer, Quantizer
from binjax.config.schema import Config

_WANTED = "<wanted>"
_MANY = 8  # kinds, of which a message names the nearest only


class ConfigError(ValueError):
    """A configuration that cannot be used; the message is one line."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.split()))


def explain(errors: Sequence[Any], name: str, origin: Mapping[str, str]) -> str:
    """Pydantic's errors as ``place: dotted.key: what is wrong and what to write``, in one line.

    Of a key that takes several kinds of values there is an error for each kind.
    """
    found: dict[str, list[str]] = {}
    for error in errors:
        problem, wanted = _explain(error, name, origin)
        found.setdefault(problem, []).extend([wanted] if wanted else [])
    return "; ".join(
        problem.replace(_WANTED, " or ".join(wanted), 1) for problem, wanted in found.items()
    )


def _explain(error: Any, name: str, origin: Mapping[str, str]) -> tuple[str, str | None]:
    """The problem, and what stands in it for what is wanted."""
    keys, section = _locate(error["loc"])
    if error["type"].startswith("union_tag"):
        keys = [*keys, "kind"]
    key = ".".join(keys)
    label = _label(key, name, origin)
    match error["type"]:
        case "extra_forbidden":
            near = difflib.get_close_matches(keys[-1], section.model_fields, n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else _known(section)
            return f"{label}: unknown key; {hint}", None
        case "union_tag_not_found":
            return f"{label}: is missing; one of {', '.join(_kinds(keys[:-1]))}", None
        case "union_tag_invalid":
            return f"{label}: {_unknown_kind(error['ctx']['tag'], _kinds(keys[:-1]))}", None
        case "missing":
            return f"{label}: is missing and has no default", None
        case "value_error":
            return f"{label}: {error['ctx']['error']}", None
    wanted = error["msg"].removeprefix("Input should be ").replace("valid tuple", "list")
    if error["type"] in ("model_type", "model_attributes_type"):
        wanted = "a section of keys"
    elif error["type"] == "too_short":
        wanted = "at least one item"
    return f"{label}: wants {_WANTED}, got {error['input']!r}", wanted


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
    plain = False
    for part in map(str, loc):
        if part in tags:
            section, tags = tags[part], {}
            continue
        if plain and not part.isdigit():  # a kind of value, no key
            continue
        keys.append(part)
        if part.isdigit():  # of a list of sections, whose kinds stay known
            continue
        field = section.model_fields.get(part)
        options = _sections(field.annotation) if field else []
        plain = field is not None and not options
        tags = {o.model_fields["kind"].default: o for o in options if "kind" in o.model_fields}
        if len(options) == 1 and not tags:
            section = options[0]
    return keys, section


def _unknown_kind(kind: str, known: Sequence[str]) -> str:
    for use, union in (("inputs", Quantizer), ("kernels", KernelQuantizer)):
        others = [o.model_fields["kind"].default for o in _sections(union)]
        if kind in others and len(set(others) & set(known)) > 1:
            return f"{kind!r} is a quantizer of {use} only"
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
