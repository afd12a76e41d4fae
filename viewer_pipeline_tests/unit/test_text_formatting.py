"""Counted nouns."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

import viewer_pipeline
from viewer_pipeline.text_formatting import escape_invisible, pluralize, views_of_vods

PACKAGE = Path(viewer_pipeline.__file__).parent

# A value, and behind it a noun that is counted.
COUNTED = re.compile(
    r"\x00 (?:announced |parked |closed |other )?(?:views|VODs|flushes|batches|counters|keys|rows|days|incidents)\b"
)
NEVER_ONE = {
    "among the first \x00 keys",  # a million
    "no flush is older than \x00 days",
    "\x00 days",  # format_duration: two or more
}


@pytest.mark.parametrize(
    ("number", "noun", "expected"),
    [(0, "view", "0 views"), (1, "view", "1 view"), (2, "view", "2 views"), (2, "batch", "2 batches"),
     (1, "flush", "1 flush"), (3, "flush", "3 flushes"), (2, "announced VOD", "2 announced VODs")],
)  # fmt: skip
def test_pluralize(number: int, noun: str, expected: str) -> None:
    """One is singular; everything else, also nothing, is plural."""
    assert pluralize(number, noun) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("vod \u05d0 🎬", "vod \u05d0 🎬"),
        ("a\nb", "a\\nb"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\u202eevil", "\\u202eevil"),
    ],
)
def test_escape_invisible(text: str, expected: str) -> None:
    """What a terminal or a browser would obey is shown instead; all other characters stay."""
    assert escape_invisible(text) == expected


def test_escapes_of_another_notation() -> None:
    """Those of JSON, in log lines."""
    assert escape_invisible("a\x1b\u202e", json.dumps) == "a\\u001b\\u202e"


def test_views_of_vods() -> None:
    """Each noun follows its own number."""
    assert views_of_vods(5, 1) == "5 views of 1 VOD"
    assert views_of_vods(1, 2) == "1 view of 2 VODs"


def test_no_message_has_a_plural_of_its_own() -> None:
    """Of texts for people: `1 views` is possible wherever a noun in the plural stands behind a number."""
    own = []
    for path in PACKAGE.rglob("*.py"):
        if path.is_relative_to(PACKAGE / "bench"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                text = "".join(str(part.value) if isinstance(part, ast.Constant) else "\x00" for part in node.values)
                if COUNTED.search(text) and not any(allowed in text for allowed in NEVER_ONE):
                    own.append(f"{path.name}:{node.lineno} {text}")
    assert not own, "\n".join(own)
