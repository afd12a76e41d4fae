"""One event a line, as text or JSON, and never a password."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from viewer_pipeline.logs import (
    EventRecord,
    LineFormatter,
    configure_package_logging,
    configure_stderr_logging,
    event,
)
from viewer_pipeline.settings import Settings

URL = "postgresql://user:Geheim7@host:5432/db"


@pytest.fixture(autouse=True)
def _loggers_as_before() -> Iterator[None]:
    """Restore what `configure_stderr_logging` changes."""
    root = logging.getLogger()
    handlers, level, factory = root.handlers[:], root.level, logging.getLogRecordFactory()
    # An earlier run in this process has set levels: Dagster does, for its own logger and for managed ones.
    levels = {logger: logger.level for logger in map(logging.getLogger, ("viewer_pipeline", "dagster"))}
    handlers_of = {logger: logger.handlers[:] for logger in levels}
    for logger in levels:
        logger.setLevel(logging.NOTSET)
    yield
    for logger, its_handlers in handlers_of.items():
        logger.handlers[:] = its_handlers
    for logger, before in levels.items():
        logger.setLevel(before)
    root.handlers[:], root.level = handlers, level
    logging.setLogRecordFactory(factory)


def record(message: Any, *arguments: Any, **more: Any) -> logging.LogRecord:
    """Make the record of a line."""
    made = EventRecord("viewer_pipeline.test", logging.WARNING, "file", 1, message, arguments, None)
    made.created = 1_800_000_000.25
    made.__dict__.update(more)
    return made


def test_text_line() -> None:
    """The first keys are the same in all lines; values with blanks or quotes are quoted."""
    line = LineFormatter("text").format(record(event("not_listening", channel="a b", tries=3, empty="", none=None)))
    assert line == (
        "time=2027-01-15T08:00:00.250Z level=warning logger=viewer_pipeline.test event=not_listening"
        ' channel="a b" tries=3 empty="" none=None'
    )


@pytest.mark.parametrize(
    "value",
    ["two\nlines", 'quo"te', "a=b", "back\\slash", "\x1b[31mred", "ü", "\u2028", "\x85", "\x9b1m", "\u202e", "\ud800"],
)
def test_one_event_is_one_line(value: str) -> None:
    """A value from a producer cannot forge a line, nor change how a terminal shows it."""
    message = record(event("messages_rejected", example=value))
    line, in_json = (LineFormatter(log_format).format(message) for log_format in ("text", "json"))
    assert line.isprintable()
    assert in_json.isprintable()
    assert json.loads(line.partition(" example=")[2]) == json.loads(in_json)["example"] == value


def test_json_line() -> None:
    """The same keys; numbers stay numbers."""
    line = json.loads(LineFormatter("json").format(record(event("folded", segment=3, ratio=0.5, ok=True, reason=None))))
    assert line == {
        "time": "2027-01-15T08:00:00.250Z",
        "level": "warning",
        "logger": "viewer_pipeline.test",
        "event": "folded",
        "segment": 3,
        "ratio": 0.5,
        "ok": True,
        "reason": None,
    }


def test_lines_of_other_libraries() -> None:
    """A library's line becomes an event as it is."""
    assert json.loads(LineFormatter("json").format(record("%s took %d s", "it", 3)))["event"] == "it took 3 s"


@pytest.mark.parametrize("formatter", [LineFormatter("text"), LineFormatter("json")])
def test_no_password(formatter: logging.Formatter) -> None:
    """Neither in names, nor in fields, errors, arguments or tracebacks."""
    error = ValueError(f"cannot connect to {URL}")
    lines = [
        record(event(f"lost {URL}", url=URL, reason=error)),
        record("lost %s", URL),
        record(event("failed"), exc_info=(ValueError, error, None)),
    ]
    for line in lines:
        text = formatter.format(line)
        assert "Geheim7" not in text
        assert "user:***@host" in text
        assert "\n" not in text


def test_event_of_a_run() -> None:
    """Dagster stores the text of the message, redacted, and overwrites it with its own."""
    line = record(event("settled", seq=3, url=URL))
    assert line.getMessage() == "settled seq=3 url=postgresql://user:***@host:5432/db"
    line.msg = "flush_views - 4711 - settled seq=3"
    line.dagster_meta = {"run_id": "4711", "job_name": "flush_views", "step_key": None, "orig_message": "settled seq=3"}
    fields = json.loads(LineFormatter("json").format(line))
    assert (fields["event"], fields["seq"], fields["run_id"], fields["job"]) == ("settled", 3, "4711", "flush_views")
    assert "step" not in fields


def test_line_of_a_library_in_a_run() -> None:
    """Without the prefix that Dagster puts before it: run, job and step are fields."""
    meta = {"run_id": "4711", "job_name": "flush_views", "step_key": "drain", "orig_message": "it took 3 s"}
    line = record("flush_views - 4711 - drain - it took 3 s", dagster_meta=meta)
    fields = json.loads(LineFormatter("json").format(line))
    assert (fields["event"], fields["run_id"], fields["step"]) == ("it took 3 s", "4711", "drain")


@pytest.mark.parametrize(
    ("level", "own", "others"), [("debug", 4, 2), ("info", 3, 2), ("warning", 2, 2), ("error", 1, 1)]
)
def test_level(level: str, own: int, others: int, capsys: pytest.CaptureFixture[str]) -> None:
    """LOG_LEVEL applies to our loggers; those of libraries log warnings and errors at most."""
    configure_stderr_logging(Settings(log_level=level, log_format="json"))
    for logger in ("viewer_pipeline.a", "redis.connection"):
        for number in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
            logging.getLogger(logger).log(number, event("started"))
    loggers = [json.loads(line)["logger"] for line in capsys.readouterr().err.splitlines()]
    assert loggers == ["viewer_pipeline.a"] * own + ["redis.connection"] * others


def test_lines_beside_those_of_dagster(capsys: pytest.CaptureFixture[str]) -> None:
    """Dagster calls `logging.warning`, which must not print lines a second time, nor in another format."""
    own, of_dagster, root = map(logging.getLogger, ("viewer_pipeline.a", "dagster.daemon", ""))
    root.handlers.clear()  # those of pytest: without one, `logging.warning` adds one
    logging.getLogger("dagster").addHandler(logging.NullHandler())
    configure_package_logging(Settings(log_format="json"))
    logging.warning("Retrying failed %s", "connection")  # noqa: LOG015 - as Dagster does
    own.warning(event("started"))
    of_dagster.error("of dagster")
    logging.getLogger("redis").warning("of redis")
    logging.getLogger("redis").info("routine")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["logger"], line["event"]) for line in lines] == [
        ("root", "Retrying failed connection"),
        ("viewer_pipeline.a", "started"),
        ("redis", "of redis"),
    ]
