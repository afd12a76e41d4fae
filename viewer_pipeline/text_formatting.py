"""Counted nouns in texts for people. Pure."""

from __future__ import annotations


def pluralize(number: int, noun: str) -> str:
    """Return a number with its noun: `1 view`, `2 views`, `0 flushes`. The plural of the noun is regular."""
    plural = f"{noun}es" if noun.endswith(("s", "sh", "ch", "x")) else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"


def views_of_vods(views: int, vods: int) -> str:
    """Return `5 views of 1 VOD`."""
    return f"{pluralize(views, 'view')} of {pluralize(vods, 'VOD')}"
