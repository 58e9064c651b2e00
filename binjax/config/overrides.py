"""Overrides on the command line: ``--dotted.key value``."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Sequence
from typing import Any

from binjax.config.errors import ConfigError


def parse_overrides(words: Sequence[str]) -> list[tuple[str, Any]]:
    """``["--a.b-c", "1", "2"]`` to ``[("a.b_c", [1, 2])]``; ``--a.b=1`` also works."""
    found: list[tuple[str, list[str]]] = []
    for word in words:
        if word.startswith("--") and len(word) > 2:
            key, equals, value = word[2:].partition("=")
            found.append((key.replace("-", "_"), [value] if equals else []))
        elif found:
            found[-1][1].append(word)
        else:
            raise ConfigError(f"unexpected argument {word!r}; overrides look like --seed 1")
    return [(key, _value(key, values)) for key, values in found]


def _value(key: str, words: Sequence[str]) -> Any:
    if not words:
        raise ConfigError(f"--{key}: a value is missing")
    values = [_literal(word) for word in words]
    return values[0] if len(values) == 1 else values


def _literal(word: str) -> Any:
    try:
        return tomllib.loads(f"value = {word}")["value"]
    except tomllib.TOMLDecodeError:
        return word


def apply_overrides(table: dict[str, Any], settings: Iterable[tuple[str, Any]]) -> None:
    """Set dotted keys in a nested table, in place.

    Choosing another ``kind`` starts that section from the kind's own defaults, so the kinds are
    set first.

    Raises:
        ConfigError: a key leads through a value that is not a section.
    """
    for key, value in sorted(settings, key=_kinds_first):
        _set(table, key, value)


def _kinds_first(setting: tuple[str, Any]) -> tuple[bool, int]:
    *parents, last = setting[0].split(".")
    return (last != "kind", len(parents) if last == "kind" else 0)


def _set(table: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        inner = table.setdefault(parent, {})
        if isinstance(inner, str):  # the name alone of a section with a kind
            inner = table[parent] = {"kind": inner}
        if not isinstance(inner, dict):
            raise ConfigError(f"--{key}: {parent} is a value, not a section")
        table = inner
    if last == "kind" and table.get("kind") != value:
        table.clear()
    table[last] = value
