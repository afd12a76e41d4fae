"""The file `.env` in the working directory: its names and values, or which line is wrong."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path

from dotenv.parser import Binding, parse_stream
from dotenv.variables import Variable, parse_variables

from viewer_pipeline.errors import SettingsError

ENV_FILE = Path(".env")
# pydantic-settings reads the file for each Settings, and python-dotenv would warn of the same lines each time.
logging.getLogger("dotenv").setLevel(logging.ERROR)


def read_env_file(settings: Collection[str], environment: Collection[str]) -> dict[str, str | None]:
    """Return what `.env` sets; nothing if there is no such file, or a named pipe, which can be read only once.

    Raises SettingsError with the number of a line that is not NAME=value and has the name of one of `settings` in it:
    python-dotenv skips it. So for a setting that refers to a variable which neither this file nor
    `environment` has: python-dotenv replaces it by nothing.
    """
    if not ENV_FILE.is_file():
        return {}
    bindings = _parse_env_file()
    variables = {*environment, *(binding.key for binding in bindings)}
    for binding in bindings:
        if binding.error and any(name in binding.original.string.upper() for name in settings):
            raise _error(binding, "expected NAME=value, or a value between two quotes")
        if (binding.key or "").upper() in settings and not _referenced_variables(binding) <= variables:
            raise _error(binding, f"{binding.key} refers to a variable that is not set")
    return {binding.key: binding.value for binding in bindings if binding.key is not None}


def find_skipped_lines() -> list[int]:
    """Return the numbers of the lines of `.env` that python-dotenv skips, because they are not NAME=value."""
    return [_line_number(binding) for binding in _parse_env_file() if binding.error] if ENV_FILE.is_file() else []


def _parse_env_file() -> list[Binding]:
    with ENV_FILE.open(encoding="utf-8") as stream:
        return list(parse_stream(stream))


def _referenced_variables(binding: Binding) -> set[str]:
    """Return the variables that its value refers to without a default."""
    parts = parse_variables(binding.value or "")
    return {part.name for part in parts if isinstance(part, Variable) and part.default is None}


def _error(binding: Binding, expected: str) -> SettingsError:
    return SettingsError(f"the file .env in the working directory, line {_line_number(binding)}: {expected}")


def _line_number(binding: Binding) -> int:
    """Return the number of its line: python-dotenv counts blank lines in front as a part of it."""
    text = binding.original.string
    return binding.original.line + text[: len(text) - len(text.lstrip())].count("\n")
