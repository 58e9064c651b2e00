"""Run configuration: TOML files checked against frozen pydantic models. Imports no jax.

``load(path, overrides)`` is the one way in. Every mistake becomes a :class:`ConfigError` whose
message is a single line naming the file, the dotted key, what was wanted and what was given.
"""

from binjax.config.dump import dump
from binjax.config.errors import ConfigError
from binjax.config.load import differences, fast, load, validate
from binjax.config.overrides import parse_overrides
from binjax.config.schema import Config

__all__ = [
    "Config",
    "ConfigError",
    "differences",
    "dump",
    "fast",
    "load",
    "parse_overrides",
    "validate",
]
