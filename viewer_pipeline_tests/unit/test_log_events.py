"""The names of log events: documented, and of one style, so that people and programs can search for them."""

from __future__ import annotations

import ast
import re

import pytest

from tools.log_events import MEANINGS, LogEvent, events_of, log_events


def test_every_event_is_documented() -> None:
    """And no other."""
    assert [event.name for event in log_events()] == sorted(MEANINGS)


def test_names_are_identifiers() -> None:
    """In lower case, as fields are."""
    names = {event.name for event in log_events()}
    assert [name for name in names if not re.fullmatch("[a-z]+(_[a-z]+)*", name)] == []
    fields = {field for event in log_events() for field in event.fields}
    assert [field for field in fields if not re.fullmatch("[a-z]+(_[a-z]+)*|…", field)] == []


def test_an_event_has_level_and_fields_of_its_calls() -> None:
    """Of each name that it may have."""
    code = 'log.warning(event("lost" if bad else "held", seq=1, **more))\nlog.exception(event("failed"))'
    events = {event.name: event for event in events_of(ast.parse(code), "code.py")}
    assert events == {
        "lost": LogEvent("lost", ("warning",), ("seq", "…")),
        "held": LogEvent("held", ("warning",), ("seq", "…")),
        "failed": LogEvent("failed", ("error",), ("exception",)),
    }


@pytest.mark.parametrize(
    "code", ['log.info(event(f"lost {n}"))', "log.info(event(name))", 'line = event("lost")\nlog.info(line)']
)
def test_events_that_cannot_be_found_are_refused(code: str) -> None:
    """The documentation would lack them."""
    with pytest.raises(ValueError, match=r"code\.py:1: "):
        list(events_of(ast.parse(code), "code.py"))
