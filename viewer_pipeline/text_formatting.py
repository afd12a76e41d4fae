"""Texts for people in a terminal: counted nouns, wrapped lines. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Callable


def pluralize(number: int, noun: str) -> str:
    """Return a number with its noun: `1 view`, `2 views`, `0 flushes`. The plural of the noun is regular."""
    plural = f"{noun}es" if noun.endswith(("s", "sh", "ch", "x")) else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"


def views_of_vods(views: int, vods: int) -> str:
    """Return `5 views of 1 VOD`."""
    return f"{pluralize(views, 'view')} of {pluralize(vods, 'VOD')}"


def escape_invisible(text: str, quoted: Callable[[str], str] = ascii) -> str:
    """Return a text with escapes for characters that are invisible, move a cursor, or change the direction of text.

    `quoted`: returns a character with its escape in quotes; by default in Python's notation.
    """
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else quoted(character)[1:-1] for character in text)


def wrap(first: str, text: str, width: int) -> str:
    """Return a text in lines of at most `width`, behind `first` and indented by its length. Long words stay whole.

    A character that is not printable, which could move the cursor of a terminal, is replaced by a blank.
    """
    printable = "".join(character if character.isprintable() else " " for character in text)
    indent = " " * len(first)
    lines = textwrap.wrap(printable, max(1, width - len(first)), break_long_words=False, break_on_hyphens=False)
    return "\n".join(f"{indent if number else first}{line}" for number, line in enumerate(lines or [""])).rstrip()
