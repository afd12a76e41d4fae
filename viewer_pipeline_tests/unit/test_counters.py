"""What is a count, what is an id, and how counters are found."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from viewer_pipeline.flush.counter_validation import (
    MAX_COUNT,
    count_error,
    counter_pattern,
    id_error,
)


@pytest.mark.parametrize(
    ("prefix", "pattern"),
    [
        ("vod:views:", "vod:views:*"),
        ("", "*"),
        ("v*", r"v\**"),
        ("v?", r"v\?*"),
        ("v[1]", r"v\[1\]*"),
        ("v\\", r"v\\*"),
        ("v^-!", "v^-!*"),
    ],
)
def test_counter_pattern(prefix: str, pattern: str) -> None:
    """Characters that mean something to SCAN stand for themselves."""
    assert counter_pattern(prefix) == pattern


@given(prefix=st.text("ab:*?[]\\^-"))
def test_counter_pattern_means_its_prefix(prefix: str) -> None:
    """Read as Redis reads it, every pattern is just the prefix and one free end."""
    tokens = re.findall(r"\\.|[^\\]", counter_pattern(prefix))
    *fixed, end = tokens
    assert end == "*"
    assert "".join(token[-1] for token in fixed) == prefix
    assert [token for token in fixed if token in {"*", "?", "[", "]"}] == []


@pytest.mark.parametrize("value", [b"0", b"1", b"9", b"10", b"1234567890123456789", b"9223372036854775807"])
def test_counts(value: bytes) -> None:
    """Up to nineteen digits, the most that int64 has."""
    assert count_error(value) is None


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "value is not an integer"),
        (b"abc", "value is not an integer"),
        (b"1.0", "value is not an integer"),
        (b"1e3", "value is not an integer"),
        (b"01", "value is not an integer"),
        (b"00", "value is not an integer"),
        (b"+1", "value is not an integer"),
        (b" 1", "value is not an integer"),
        (b"1 ", "value is not an integer"),
        (b"1\n", "value is not an integer"),
        (b"1\n2", "value is not an integer"),
        (b"1_000", "value is not an integer"),
        (b"-0", "value is not an integer"),
        (b"-01", "value is not an integer"),
        (b"--1", "value is not an integer"),
        ("\u0661".encode(), "value is not an integer"),  # a digit for int(), not for Redis
        (b"\xff", "value is not an integer"),
        (b"1\x00", "value is not an integer"),
        (b"-1", "value is negative"),
        (b"-9223372036854775809", "value is negative"),
        (b"12345678901234567890", "value is over int64"),
        (b"9" * 5000, "value is over int64"),
    ],
)
def test_values_that_are_no_count(value: bytes, reason: str) -> None:
    """Each is refused, and with the reason that fits."""
    assert count_error(value) == reason


def test_int64_ends_within_nineteen_digits() -> None:
    """Nineteen digits alone do not make an int64; the reason for those above is the same."""
    assert MAX_COUNT == 9_223_372_036_854_775_807
    assert count_error(str(MAX_COUNT).encode()) is None
    assert count_error(str(MAX_COUNT + 1).encode()) == "value is over int64"


@pytest.mark.parametrize("vod_id", ["a", " ", "\n", "a:b", "😀", "\uffff", "x" * 255, "😀" * 255])
def test_good_ids(vod_id: str) -> None:
    """Any text of 1 to 255 characters, however many bytes they have."""
    assert id_error(vod_id) is None


@pytest.mark.parametrize(
    ("vod_id", "reason"),
    [
        ("", "empty id"),
        ("x" * 256, "id longer than 255 characters"),
        ("\x00" * 256, "id longer than 255 characters"),
        ("\x00", "id holds a NUL character"),
        ("a\x00b", "id holds a NUL character"),
    ],
)
def test_bad_ids(vod_id: str, reason: str) -> None:
    """What PostgreSQL or we cannot keep, with the reason."""
    assert id_error(vod_id) == reason
