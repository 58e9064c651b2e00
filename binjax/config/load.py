"""From a TOML file and command-line overrides to a checked :class:`Config`."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from binjax.config.errors import ConfigError, explain
from binjax.config.overrides import apply_overrides, parse_overrides
from binjax.config.schema import Config


def load(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Config:
    """Read a TOML file, apply ``--dotted.key value`` overrides, check the result.

    Args:
        path: the file.
        overrides: command-line words: ``["--optimizer.learning-rate", "0.001"]``. A value is
            read as TOML, else as a string; several values make a list. ``-`` and ``_`` are the
            same in keys.

    Raises:
        ConfigError: unreadable file, bad TOML, unknown key, wrong type or range.
    """
    name = os.fspath(path)
    try:
        table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        hint = "" if name.endswith(".toml") else "; CONFIG comes first, overrides behind it"
        raise ConfigError(f"{name}: no such file{hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name}: cannot be read: {error}") from None
    except RecursionError:
        raise ConfigError(f"{name}: nested too deep") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name}: not valid TOML: {error}") from None
    settings = parse_overrides(overrides)
    apply_overrides(table, settings)
    return validate(table, name, {key: f"--{key}" for key, _ in settings})


def validate(
    table: Mapping[str, Any], name: str, origin: Mapping[str, str] | None = None
) -> Config:
    """Check a table of settings.

    Args:
        table: as parsed from TOML.
        name: what an error message calls it.
        origin: for a dotted key, what to call the place it came from instead.

    Raises:
        ConfigError: unknown key, wrong type or range.
    """
    try:
        # By way of JSON, whose arrays a strict model takes as tuples; true and "12" are no numbers.
        return Config.model_validate_json(json.dumps(table, default=str))
    except ValidationError as error:
        raise ConfigError(explain(error.errors(), name, origin or {})) from None


def fast(config: Config) -> Config:
    """The smoke-run variant of any config: one epoch of eight batches, two of evaluation."""
    data = config.data.model_copy(
        update={
            "limit_train": min(config.data.limit_train or 10**9, 8 * config.batch_size),
            "limit_test": min(config.data.limit_test or 10**9, 2 * config.batch_size),
        }
    )
    optimizer = _without_warmup(config.optimizer)
    return config.model_copy(update={"epochs": 1, "data": data, "optimizer": optimizer})


def _without_warmup(section: Any) -> Any:
    """The optimizer's section with schedules that begin at their full rate."""
    update: dict[str, Any] = {}
    for key in ("schedule", "gamma_schedule", "threshold_schedule"):
        if getattr(getattr(section, key, None), "warmup_epochs", 0):
            update[key] = getattr(section, key).model_copy(update={"warmup_epochs": 0})
    if getattr(section, "others", None) is not None:
        update["others"] = _without_warmup(section.others)
    if getattr(section, "cases", None):
        update["cases"] = tuple(_without_warmup(case) for case in section.cases)
    return section.model_copy(update=update)


def differences(old: Config, new: Config, ignore: Iterable[str] = ()) -> list[str]:
    """Dotted keys whose values differ, except those below a prefix in ``ignore``."""
    before, after = _leaves(old.model_dump()), _leaves(new.model_dump())
    keys = [k for k in {**before, **after} if before.get(k) != after.get(k)]
    return [k for k in keys if not any(k == p or k.startswith(p + ".") for p in ignore)]


def _leaves(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            leaves.update(_leaves(value, f"{prefix}{key}."))
        else:
            leaves[prefix + key] = value
    return leaves
