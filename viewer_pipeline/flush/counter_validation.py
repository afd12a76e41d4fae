"""Counters: key names, and which ids and values are valid. Pure."""

from __future__ import annotations

import re

MAX_ID_CHARACTERS = 255
MAX_COUNT = 2**63 - 1  # what a Redis counter and a PostgreSQL bigint hold

# What Redis accepts for INCR: no blank, leading zero or underscore, all of which int() accepts.
_is_integer = re.compile(rb"-?[1-9][0-9]*|0").fullmatch
_surrogate = re.compile("[\ud800-\udfff]").search  # which UTF-8 cannot encode
_GLOB_CHARACTERS = re.compile(r"([*?\[\]\\])")


def counter_pattern(prefix: str) -> str:
    """Return the SCAN pattern that matches every key with this prefix, whatever characters it has."""
    return _GLOB_CHARACTERS.sub(r"\\\1", prefix) + "*"


def id_error(vod_id: str) -> str | None:
    """Return why PostgreSQL or this program cannot store an id; None for a valid one."""
    if not vod_id:
        return "empty id"
    if len(vod_id) > MAX_ID_CHARACTERS:
        return f"id longer than {MAX_ID_CHARACTERS} characters"
    if "\x00" in vod_id:
        return "id holds a NUL character"
    if _surrogate(vod_id):
        return "id is not UTF-8"
    return None


def count_error(value: bytes) -> str | None:
    """Return why the value of a counter is no count of 0 to MAX_COUNT; None for a valid one."""
    if not _is_integer(value):
        return "value is not an integer"
    if value.startswith(b"-"):
        return "value is negative"
    if len(value) > len(str(MAX_COUNT)) or int(value) > MAX_COUNT:
        return "value is over int64"
    return None
