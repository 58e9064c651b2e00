"""The ``binjax`` command: thin, and the only place that prints."""

from binjax.cli.main import main

__all__ = ["main"]
