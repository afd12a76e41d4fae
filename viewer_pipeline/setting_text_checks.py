"""What no value of a setting may contain: what its reader does not see, or takes for a part of the file. Pure.

As a part of the value they would name another channel, key or host, which works and which nobody uses.
"""

from __future__ import annotations

import re
import unicodedata

QUOTES = frozenset("'\"`")
TYPOGRAPHIC_QUOTES = ("Pi", "Pf")  # Unicode categories
SQL_QUOTE = '"'
UNREPLACED_VARIABLE = re.compile(r"\$(\{[A-Z_][A-Z0-9_]*\}|\([A-Z_][A-Z0-9_]*\))")  # of a shell, of Kubernetes
CAUSES = {
    "\r": "; the file it comes from probably has Windows line endings",
    "\n": "; where it comes from `echo`, as in many Kubernetes Secrets, use `printf`",
}
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
    if " #" in text:
        raise ValueError("expected no comment behind the value; `docker --env-file` and systemd take it literally")
    if UNREPLACED_VARIABLE.search(text):
        raise ValueError("expected a value; nothing has replaced the variable in it")
    if any(_is_quote(character) and not (is_sql_name and character == SQL_QUOTE) for character in (text[0], text[-1])):
        raise ValueError("expected no quotes around the value; `docker --env-file` and Kubernetes take them literally")


def _is_quote(character: str) -> bool:
    return character in QUOTES or unicodedata.category(character) in TYPOGRAPHIC_QUOTES


def _describe_invisible_character(text: str) -> str:
    character = next(character for character in text if not character.isprintable())
    name = CONTROL_CHARACTERS.get(character) or unicodedata.name(character, "invisible character")
    return f"expected no {name} (U+{ord(character):04X}){CAUSES.get(character, '')}"
