"""A resolved config as TOML text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from binjax.config.schema import Config


def dump(config: Config) -> str:
    """The resolved config as TOML text; ``load`` of it gives an equal config."""
    return "\n".join(_toml_lines(config.model_dump(exclude_none=True), ())).strip() + "\n"


def _toml_lines(table: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    values = {k: v for k, v in table.items() if not isinstance(v, dict)}
    lines = [f"\n[{'.'.join(path)}]"] if path and values else []
    lines += [f"{key} = {_toml_value(value)}" for key, value in values.items()]
    for key, value in table.items():
        if isinstance(value, dict):
            lines += _toml_lines(value, (*path, key))
    return lines


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_toml_value, value))}]"
    if isinstance(value, dict):
        items = (f"{key} = {_toml_value(item)}" for key, item in value.items())
        return f"{{{', '.join(items)}}}"
    return repr(value)
