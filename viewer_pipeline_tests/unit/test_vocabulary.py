"""The vocabulary checker finds coined words wherever they can stand."""

from __future__ import annotations

import pytest

from tools.vocabulary import Allowed, Vocabulary, split_words

VOCABULARY = Vocabulary.load()


def words_of(file: str, text: str) -> list[str]:
    """Return the words that the checker finds in a file with this text."""
    return [violation.word for violation in Vocabulary(VOCABULARY.terms, ()).check(file, text)]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("why = 1", "why"),
        ("def why_nothing(): ...", "why_nothing"),
        ("def f(said): ...", "said"),
        ("f(on_said=1)", "on_said"),
        ("class _Figures: ...", "Figures"),
        ("self._heard_ms = 1", "heard_ms"),
        ("for found in rows: ...", "found"),
        ("with f() as some: ...", "some"),
        ("try: ...\nexcept OSError as what: ...", "what"),
        ("import json as look", "look"),
        ("match x:\n    case [one]: ...", "one"),
        ("ROWS_AT_ONCE = 5", "ROWS_AT_ONCE"),
        ("x = {'said': 1}", "said"),
        ("x['why']", "why"),
        ("TAG = 'viewer/why'", "why"),
        ("NAME = 'viewer_mended_rows_total'", "viewer_mended_rows_total"),
        ("SQL = 'SELECT said FROM viewer.incident'", "said"),
        ('def f():\n    """Say that it is done."""', "Say"),
        ("raise ValueError('the verdict is lost')", "verdict"),
        ("x = f'{x} is told'", "is told"),
        ("x = 1  # whose fault it is", "whose fault"),
    ],
)
def test_python_is_checked(text: str, word: str) -> None:
    """Names that it defines, keywords, string keys, metrics, SQL, docstrings, messages and comments."""
    assert words_of("a.py", text) == [word]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("-- name: mend_rows\nSELECT 1", "mend_rows"),
        ("-- What the subscriber heard.\nSELECT 1", "heard"),
        ("SELECT said FROM viewer.incident", "said"),
        ("WITH found AS (SELECT 1) SELECT * FROM found", "found"),
        ("SELECT 1 AS why", "why"),
        ("SELECT %(one)s", "one"),
    ],
)
def test_sql_is_checked(text: str, word: str) -> None:
    """Names of queries, tables, columns, aliases and parameters, and comments; not its string literals."""
    assert set(words_of("a.sql", text + " WHERE x = 'said'")) == {word}


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("local answer = {1}", "answer"),
        ("redis.call('HGET', KEYS[1], 'heard')", "heard"),
        ("-- who asks is told so\nreturn 1", "is told"),
    ],
)
def test_lua_is_checked(text: str, word: str) -> None:
    """Names, fields in string literals, and comments."""
    assert word in words_of("a.lua", text)


@pytest.mark.parametrize(("file", "word"), [("a/mend.py", "mend"), ("lua/forget.lua", "forget"), ("why.sql", "why")])
def test_file_names_are_checked(file: str, word: str) -> None:
    """A module is a name, too."""
    assert words_of(file, "") == [word]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("It reaches only who listens then.", "who listens"),
        ("The column `said` of it.", "said"),
        ("```sql\nSELECT lost_figures FROM t\n```", "lost_figures"),
    ],
)
def test_pages_are_checked(text: str, word: str) -> None:
    """Coined phrases in prose, and names in code."""
    assert words_of("a.md", text) == [word]


def test_comments_of_other_files_are_checked() -> None:
    """Settings, manifests, units: whatever people read."""
    assert words_of("env.example", "# The patience of a worker\n") == ["patience"]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("a.md", "One worker holds it; what some others found, and which day it was, does not matter."),
        ("a.py", "not_found = one_day = somewhere = lookup = task = 1  # one of those found"),
        ("a.sql", "-- Some of what was found.\nSELECT taken_at FROM viewer.flush"),
    ],
)
def test_ordinary_english_is_not_reported(file: str, text: str) -> None:
    """Words that are vague as names are good in sentences and in longer names."""
    assert words_of(file, text) == []


def test_a_violation_names_the_line_and_the_replacement() -> None:
    """In a form that editors open."""
    (violation,) = VOCABULARY.check("a.py", '"""Text\n\nthat was untold."""\n')
    assert str(violation) == "a.py:3: untold → reported, unreported, MAX_REPORTED"


def test_an_exception_applies_to_its_files() -> None:
    """Elsewhere the word is reported; an exception that nothing needs is named."""
    allowed, unneeded = Allowed("said", "old/*", "of 0.1.0"), Allowed("why", "old/*", "of 0.1.0")
    vocabulary = Vocabulary(VOCABULARY.terms, (allowed, unneeded))
    assert vocabulary.check("old/a.py", "said = 1") == []
    assert [violation.word for violation in vocabulary.check("new/a.py", "said = 1")] == ["said"]
    assert vocabulary.unneeded() == [unneeded]


def test_every_exception_has_a_reason() -> None:
    """In the word list, where the next reader looks."""
    assert all(allowed.reason for allowed in VOCABULARY.exceptions)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("last_words", ["last", "words"]),
        ("LastWords", ["last", "words"]),
        ("ROWS_AT_ONCE", ["rows", "at", "once"]),
        ("HTTPServer2", ["http", "server", "2"]),
    ],
)
def test_names_split_into_words(name: str, words: list[str]) -> None:
    """Whatever their case."""
    assert split_words(name) == words
