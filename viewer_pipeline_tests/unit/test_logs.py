"""One event a line, as text or JSON, and never a password."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from viewer_pipeline.logs import JsonFormatter, Record, TextFormatter, event, log_to_stderr
from viewer_pipeline.settings import Settings

URL = "postgresql://user:Geheim7@host:5432/db"


@pytest.fixture(autouse=True)
def _loggers_as_before() -> Iterator[None]:
    """Put back what `log_to_stderr` changes."""
    root = logging.getLogger()
    handlers, level, factory = root.handlers[:], root.level, logging.getLogRecordFactory()
    # A run in this process has set levels of its own: Dagster does, for its logger and for those that it manages.
    levels = {logger: logger.level for logger in map(logging.getLogger, ("viewer_pipeline", "dagster"))}
    for logger in levels:
        logger.setLevel(logging.NOTSET)
    yield
    for logger, before in levels.items():
        logger.setLevel(before)
    root.handlers[:], root.level = handlers, level
    logging.setLogRecordFactory(factory)


def record(message: Any, *arguments: Any, **more: Any) -> logging.LogRecord:
    """Make the record of a line."""
    made = Record("viewer_pipeline.test", logging.WARNING, "file", 1, message, arguments, None)
    made.created = 1_800_000_000.25
    made.__dict__.update(more)
    return made


def test_text() -> None:
    """Keys in front are the same for all; values with blanks or quotes are quoted."""
    line = TextFormatter().format(record(event("not listening", channel="a b", tries=3, empty="", none=None)))
    assert line == (
        'time=2027-01-15T08:00:00.250Z level=warning logger=viewer_pipeline.test event="not listening"'
        ' channel="a b" tries=3 empty="" none=None'
    )


@pytest.mark.parametrize("value", ["two\nlines", 'quo"te', "a=b", "back\\slash", "\x1b[31mred", "ü"])
def test_one_event_is_one_line(value: str) -> None:
    """Whatever a producer put into a value: nobody can forge a line."""
    line = TextFormatter().format(record(event("rejected", subject=value)))
    assert "\n" not in line
    assert "\x1b" not in line
    assert json.loads(line.partition(" subject=")[2]) == value


def test_json() -> None:
    """The same keys, figures as figures."""
    found = json.loads(JsonFormatter().format(record(event("folded", segment=3, ratio=0.5, ok=True, reason=None))))
    assert found == {
        "time": "2027-01-15T08:00:00.250Z",
        "level": "warning",
        "logger": "viewer_pipeline.test",
        "event": "folded",
        "segment": 3,
        "ratio": 0.5,
        "ok": True,
        "reason": None,
    }


def test_lines_of_others() -> None:
    """A library's line becomes an event as it is."""
    assert json.loads(JsonFormatter().format(record("%s took %d s", "it", 3)))["event"] == "it took 3 s"


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_no_password(formatter: logging.Formatter) -> None:
    """Neither in words, nor in values, errors, arguments or tracebacks."""
    error = ValueError(f"cannot connect to {URL}")
    lines = [
        record(event(f"lost {URL}", url=URL, reason=error)),
        record("lost %s", URL),
        record(event("failed"), exc_info=(ValueError, error, None)),
    ]
    for line in lines:
        said = formatter.format(line)
        assert "Geheim7" not in said
        assert "user:***@host" in said
        assert "\n" not in said


def test_as_an_event_of_a_run() -> None:
    """Dagster shows the text of the message, and puts its own in place of it."""
    line = record(event("settled", flush=3))
    assert line.getMessage() == "settled flush=3"
    line.msg = "flush_views - 4711 - settled flush=3"
    found = json.loads(JsonFormatter().format(line))
    assert (found["event"], found["flush"]) == ("settled", 3)


@pytest.mark.parametrize(("level", "heard"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_level(level: str, heard: int, capsys: pytest.CaptureFixture[str]) -> None:
    """LOG_LEVEL holds for all loggers, ours and others."""
    log_to_stderr(Settings(log_level=level, log_format="json"))
    for number, logger in enumerate(("viewer_pipeline.a", "dagster", "else", "viewer_pipeline.b")):
        logging.getLogger(logger).log((10, 20, 30, 40)[number], event("said"))
    lines = capsys.readouterr().err.splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["said"] * heard
