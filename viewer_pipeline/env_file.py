"""The file `.env` in the working directory: its names and values, or which line is wrong."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from dotenv.parser import Binding, parse_stream

from viewer_pipeline.errors import SettingsError

ENV_FILE = Path(".env")


def read_env_file(settings: Collection[str]) -> dict[str, str | None]:
    """Return what `.env` sets; nothing if there is no such file, or a named pipe, which can be read only once.

    Raises SettingsError with the number of a line that is not NAME=value and has the name of one of `settings` in it:
    python-dotenv logs its number, and skips it.
    """
    if not ENV_FILE.is_file():
        return {}
    with ENV_FILE.open(encoding="utf-8") as stream:
        bindings = list(parse_stream(stream))
    for binding in bindings:
        if binding.error and any(name in binding.original.string.upper() for name in settings):
            raise SettingsError(
                f"the file .env in the working directory, line {_line_number(binding)}: expected NAME=value,"
                " or a value between two quotes"
            )
    return {binding.key: binding.value for binding in bindings if binding.key is not None}


def _line_number(binding: Binding) -> int:
    """Return its line: python-dotenv counts blank lines in front as a part of it."""
    text = binding.original.string
    return binding.original.line + text[: len(text) - len(text.lstrip())].count("\n")
