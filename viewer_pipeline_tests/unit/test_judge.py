"""A history is accepted if every view counts once; an error planted in it is reported with kind, VOD and line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tools import judge

Lines = list[dict[str, Any]]


def sound() -> Lines:
    """Return a history of two VODs in which every view counts once."""
    return [
        {"type": "start", "format": 1, "system": "test", "baseline": {"a": 100}},
        {"type": "send", "begin": 1.0, "end": 1.3, "outcome": "ok", "views": {"a": 5, "b": 2}},
        {"type": "read", "begin": 1.2, "end": 1.25, "persisted": {"a": 103, "b": 0}, "pending": {"a": 0, "b": 1}},
        {"type": "fault", "begin": 1.3, "end": 1.3, "name": "kill redis"},
        # Between a commit and the subtraction: the sum has 3 views of b twice.
        {"type": "read", "begin": 2.0, "end": 2.1, "persisted": {"a": 105, "b": 2}, "pending": {"a": 0, "b": 2}},
        {"type": "read", "begin": 2.2, "end": 2.3, "persisted": {"a": 105, "b": 2}, "pending": {"a": 0, "b": 0}},
        {"type": "send", "begin": 2.4, "end": 9.0, "outcome": "unknown", "views": {"b": 3}},
        {"type": "send", "begin": 3.0, "end": 3.3, "outcome": "ok", "views": {"a": 7}},
        {"type": "read", "begin": 4.0, "end": 4.5, "persisted": {"b": 4}},
        {"type": "read", "begin": 4.2, "end": 4.6, "persisted": {"b": 3}, "parked": {"a": 1}},
        {
            "type": "final", "begin": 20, "end": 21,
            "persisted": {"a": 110, "b": 4}, "parked": {"a": 1}, "rejected": {"a": 1},
        },
    ]  # fmt: skip


def violations(tmp_path: Path, lines: Lines) -> list[tuple[str, str, int, int, int]]:
    """Return kind, VOD, views, limit and line of each violation."""
    path = tmp_path / "history"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return [(v.kind, v.vod, v.views, v.limit, v.line) for v in judge.check(judge.read_history(path))]


def test_a_sound_history_is_accepted(tmp_path: Path) -> None:
    """Overlapping reads, sums that are too high for a moment, and requests without a reply are no violations."""
    assert violations(tmp_path, sound()) == []


def test_the_order_of_lines_does_not_matter(tmp_path: Path) -> None:
    """Several writers append to one file."""
    assert violations(tmp_path, [sound()[0], *reversed(sound()[1:])]) == []


def change(at: int, key: str, vod: str, views: int) -> Callable[[Lines], None]:
    """Return a change that adds views to a number of one line."""

    def apply(lines: Lines) -> None:
        lines[at].setdefault(key, {}).setdefault(vod, 0)
        lines[at][key][vod] += views

    return apply


PLANTED = {
    "a lost view": (change(10, "persisted", "a", -1), [("lost", "a", 11, 12, 11)]),
    "a lost VOD": (change(7, "views", "c", 1), [("lost", "c", 0, 1, 11)]),
    "a doubled view": (change(10, "persisted", "a", 1), [("doubled", "a", 13, 12, 11)]),
    "a doubled view of an unknown request": (change(10, "persisted", "b", 2), [("doubled", "b", 6, 5, 11)]),
    "a view that nobody sent": (change(10, "persisted", "c", 1), [("doubled", "c", 1, 0, 11)]),
    "a view that is persisted and parked": (change(10, "parked", "a", 1), [("doubled", "a", 13, 12, 11)]),
    "a view left in Redis": (
        change(10, "pending", "c", 1), [("doubled", "c", 1, 0, 11), ("undrained", "c", 1, 0, 11)],
    ),
    "a total read before its views were sent": (change(5, "persisted", "a", 1), [("doubled", "a", 6, 5, 6)]),
    "a counter above what was sent": (change(2, "pending", "b", 2), [("doubled", "b", 3, 2, 3)]),
    "a total that goes backwards": (
        change(5, "persisted", "a", -1), [("backwards", "a", 104, 105, 6), ("missing", "a", 4, 5, 6)],
    ),
    "a total that is gone, and its views in Redis again": (
        lambda lines: lines[5].update(persisted={"a": 105}, pending={"a": 0, "b": 2}), [("backwards", "b", 0, 2, 6)],
    ),
    "a total of a reader of totals that goes backwards": (
        change(8, "persisted", "b", -3), [("backwards", "b", 1, 2, 9)],
    ),
    "a final total that went backwards": (change(8, "persisted", "b", 1), [("backwards", "b", 4, 5, 11)]),
    "a sum that misses a view": (change(4, "persisted", "a", -1), [("missing", "a", 4, 5, 5)]),
    "a total below the baseline": (
        change(2, "persisted", "a", -4), [("backwards", "a", 99, 100, 3), ("missing", "a", -1, 0, 3)],
    ),
    "a baseline that is gone": (
        change(0, "baseline", "c", 1), [("backwards", "c", 0, 1, 11), ("lost", "c", -1, 0, 11)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_error_is_reported(tmp_path: Path, name: str) -> None:
    """With the numbers that contradict each other, and no other violation."""
    apply, expected = PLANTED[name]
    lines = sound()
    apply(lines)
    assert violations(tmp_path, lines) == expected


def test_what_touches_in_time_has_no_order(tmp_path: Path) -> None:
    """A send that ends when a read begins need not be in it; one that begins when it ends may be; reads may cross."""
    lines = [
        sound()[0],
        {"type": "send", "begin": 1, "end": 2, "outcome": "ok", "views": {"b": 1}},
        {"type": "read", "begin": 2, "end": 3, "persisted": {"b": 0}, "pending": {"b": 0}},
        {"type": "send", "begin": 3, "end": 4, "outcome": "ok", "views": {"b": 1}},
        {"type": "read", "begin": 3, "end": 4, "persisted": {"b": 2}},
        {"type": "read", "begin": 4, "end": 4, "persisted": {"b": 1}},
        {"type": "final", "begin": 5, "end": 5, "persisted": {"a": 100, "b": 2}},
    ]
    assert violations(tmp_path, lines) == []
    lines[2]["begin"], lines[2]["end"] = 2.01, 2.9
    lines[4]["end"] = 3.99
    kinds = [violation[0] for violation in violations(tmp_path, lines)]
    assert kinds == ["missing", "backwards"]
    lines[2]["persisted"]["b"] = 2
    assert ("doubled", "b", 2, 1, 3) in violations(tmp_path, lines)


SEND = '{"type": "send", "begin": 1, "end": 2, "outcome": "ok", "views": {"a": 1}}'
MALFORMED = {
    "no JSON": (SEND[:-1], "line 2: JSONDecodeError"),
    "no UTF-8": ('{"type": "\udcff"}', "line 2: UnicodeDecodeError"),
    "an empty line": ("", "line 2: JSONDecodeError"),
    "no object": ("[]", "line 2: "),
    "no type": ("{}", "line 2: KeyError: 'type'"),
    "an unknown type": ('{"type": "sent"}', "line 2: KeyError: 'sent'"),
    "a missing key": (SEND.replace(', "end": 2', ""), "line 2: `send`: missing, unknown or invalid: end"),
    "an unknown key": (SEND.replace("views", "view"), "line 2: `send`: missing, unknown or invalid: view, views"),
    "a key twice": (SEND.replace('"a": 1', '"a": 1, "a": 2'), "line 2: ValueError: an object has a key twice"),
    "an unknown outcome": (SEND.replace("ok", "failed"), "line 2: `send`: missing, unknown or invalid: outcome"),
    "negative views": (SEND.replace(": 1}", ": -1}"), "line 2: `send`: missing, unknown or invalid: views"),
    "views that are no integer": (SEND.replace(": 1}", ": 1.0}"), "line 2: `send`: missing, unknown or invalid: views"),
    "an infinite time": (SEND.replace(": 2", ": 1e999"), "line 2: `send`: missing, unknown or invalid: end"),
    "a time that is no number": (SEND.replace(": 2", ': "2"'), "line 2: `send`: missing, unknown or invalid: end"),
    "a time that runs backwards": (SEND.replace(": 2", ": 0"), "line 2: begin 1 is after end 0"),
    "a send after the final read": (SEND.replace(": 2", ": 30"), "line 2: the send ends at 30"),
    "a second start": (json.dumps(sound()[0]), "line 3: not one `start`"),
    "a second final read": (json.dumps(sound()[-1]), "line 3: not one `start`"),
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_line_is_named(tmp_path: Path, name: str) -> None:
    """With what is wrong with it."""
    line, message = MALFORMED[name]
    path = tmp_path / "history"
    text = "\n".join([json.dumps(sound()[0]), line, json.dumps(sound()[-1])]) + "\n"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(judge.HistoryError, match="^" + re.escape(message)):
        judge.read_history(path)


@pytest.mark.parametrize("lines", [[], sound()[:-1], sound()[1:], [{**sound()[0], "format": 2}, *sound()[1:]]])
def test_an_incomplete_history_is_refused(tmp_path: Path, lines: Lines) -> None:
    """Nothing can be decided without the first and the last line, or in another format."""
    with pytest.raises(judge.HistoryError):
        violations(tmp_path, lines)


def run(path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the program with nothing but the standard library."""
    command = [sys.executable, "-I", "-S", str(judge.__file__), *options, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_program_needs_nothing_but_the_standard_library(tmp_path: Path) -> None:
    """It shares no code with the package that it checks; its exit status and its output tell the result."""
    path, lines = tmp_path / "history", sound()
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    accepted = run(path)
    assert (accepted.returncode, accepted.stderr) == (0, "")
    assert accepted.stdout == (
        "system test, sent 14, unknown 3, persisted 14, reads 6, faults 1, "
        "lost 0, doubled 0, backwards 0, missing 0, undrained 0\n"
    )
    lines[5]["persisted"]["a"] -= 1
    lines[10]["persisted"]["a"] += 1
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    rejected = run(path)
    assert rejected.returncode == 1
    assert rejected.stdout.splitlines()[:3] == [
        "backwards a: 104 views read (line 6, 2.200 to 2.300 s); line 5, ended at 2.100 s, had: 105",
        "missing a: 4 views read (line 6, 2.200 to 2.300 s); acknowledged before it began: 5",
        "doubled a: 13 views read (line 11, 20.000 to 21.000 s); sent before it ended, at most: 12",
    ]
    result = json.loads(run(path, "--json").stdout)
    assert (result["lost"], result["doubled"], result["backwards"]) == ({}, {"a": 1}, {"a": 1})
    assert result["faults"] == {"kill redis": 1}
    assert [violation["kind"] for violation in result["violations"]] == ["backwards", "missing", "doubled"]


def test_a_file_that_is_no_history_has_a_status_of_its_own(tmp_path: Path) -> None:
    """2, with the line on stderr; also for a file that does not exist."""
    path = tmp_path / "history"
    assert run(path).returncode == 2
    path.write_text("\n".join([*map(json.dumps, sound()), '{"type": "re']), encoding="utf-8")
    result = run(path)
    assert (result.returncode, result.stdout) == (2, "")
    assert "line 12: JSONDecodeError" in result.stderr
