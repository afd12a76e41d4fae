"""What no value of a setting may contain: blanks around it, invisible characters, literal quotes. Pure.

As a part of the value they would name another channel, key or host, which works and which nobody uses.
"""

from __future__ import annotations

import re
import unicodedata

QUOTES = frozenset("'\"`")
TYPOGRAPHIC_QUOTES = ("Pi", "Pf")  # Unicode categories
SQL_QUOTE = '"'
CONTROL_CHARACTERS = {"\r": "carriage return", "\n": "newline", "\t": "tab"}


def check_setting_text(text: str, *, is_sql_name: bool = False) -> None:
    """Check that a value is what a reader sees. Raises ValueError with what is expected, and the probable cause.

    `is_sql_name`: the double quotes that SQL has around a name belong to it.
    """
    if not text.isprintable():
        raise ValueError(_describe_invisible_character(text))
    if not text.strip():
        raise ValueError("expected a value; leave it empty for the default")
    if text != text.strip():
        raise ValueError("expected no blanks around the value")
    if any(_is_quote(character) and not (is_sql_name and character == SQL_QUOTE) for character in (text[0], text[-1])):
        raise ValueError("expected no quotes around the value; `docker --env-file` and Kubernetes take them literally")


def check_whole_number(value: object) -> object:
    """Return the value. Raises ValueError for text with anything but digits: pydantic accepts `1_000` and `1.0`."""
    if isinstance(value, str) and not re.fullmatch(r"-?[0-9]+", value):
        raise ValueError("expected a whole number in digits, such as 1000")
    return value


def check_day(value: object) -> object:
    """Return the value. Raises ValueError for text that is no day: pydantic takes `0` for a time, the first of 1970."""
    if isinstance(value, str) and not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value):
        raise ValueError("expected a day, such as 2026-01-31")
    return value


def _is_quote(character: str) -> bool:
    return character in QUOTES or unicodedata.category(character) in TYPOGRAPHIC_QUOTES


def _describe_invisible_character(text: str) -> str:
    character = next(character for character in text if not character.isprintable())
    name = CONTROL_CHARACTERS.get(character) or unicodedata.name(character, "invisible character")
    cause = "; the file it comes from probably has Windows line endings" if character == "\r" else ""
    return f"expected no {name} (U+{ord(character):04X}){cause}"
