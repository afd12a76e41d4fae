"""Log lines: one event each, as key=value or JSON, never a password.

A message is an `event`, so that the same call reads well in a terminal, as JSON, and in the event log of a Dagster run
(docs/adr/0015).
"""

from __future__ import annotations

import json
import logging
import re
import sys
import traceback
from datetime import UTC, datetime
from typing import Any

from viewer_pipeline.redaction import redact_text
from viewer_pipeline.setting_types import LogFormat
from viewer_pipeline.settings import Settings
from viewer_pipeline.text_formatting import escape_invisible
from viewer_pipeline.time_formatting import format_timestamp

PACKAGE_LOGGER = "viewer_pipeline"  # of all loggers of this package
LOGGERS_WITH_HANDLERS = {PACKAGE_LOGGER, "dagster", "dagster-webserver"}  # in processes in which Dagster logs its own
RUN_FIELDS = {"run_id": "run_id", "job_name": "job", "step_key": "step"}  # Dagster's name: ours
_NEEDS_QUOTES = re.compile(r'[\s"=\\]|[^\x20-\x7e]|^$')


class Event:
    """The name of an event and its fields. As text: `name key=value …`."""

    def __init__(self, name: str, fields: dict[str, Any]) -> None:
        self.name, self.fields = name, fields

    def __str__(self) -> str:
        pairs = (f"{key}={_quoted(value)}" for key, value in self.fields.items())
        return redact_text(" ".join([self.name, *pairs]))


def event(event_name: str, /, **fields: Any) -> Event:
    """Return a message for a logger: `log.info(event("folded", segment=3, views=120))`."""
    return Event(event_name, fields)


class EventRecord(logging.LogRecord):
    """Keeps its event: during a run Dagster overwrites the message with a text of its own.

    Dagster passes the attribute on, because records without an event do not have it.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if isinstance(self.msg, Event):
            self.viewer_event = self.msg


class LineFormatter(logging.Formatter):
    """One line for each event: `time=… level=… logger=… event=… key=value …`, or as JSON with the same keys."""

    def __init__(self, log_format: LogFormat) -> None:
        super().__init__()
        self._log_format = log_format

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        fields = _fields(record)
        if self._log_format == "json":
            return _to_json(fields)
        return " ".join(f"{key}={_quoted(value)}" for key, value in fields.items())


def make_stderr_handler(settings: Settings) -> logging.Handler:
    """Return a handler that writes to stderr, with LOG_FORMAT."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter(settings.log_format))
    return handler


def configure_stderr_logging(settings: Settings) -> None:
    """Send the lines of this process to stderr, with LOG_FORMAT: ours from LOG_LEVEL on, of others only warnings."""
    level = getattr(logging, settings.log_level.upper())
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[make_stderr_handler(settings)], force=True)
    logging.getLogger(PACKAGE_LOGGER).setLevel(level)


def configure_package_logging(settings: Settings) -> None:
    """Send our own lines to stderr, with LOG_LEVEL and LOG_FORMAT. For processes in which Dagster logs its own."""
    log = logging.getLogger(PACKAGE_LOGGER)
    log.setLevel(settings.log_level.upper())
    log.addHandler(make_stderr_handler(settings))
    configure_root_logging(settings)


def configure_root_logging(settings: Settings) -> None:
    """Send warnings of other libraries to stderr, with LOG_FORMAT. For processes in which Dagster logs its own.

    Dagster calls `logging.warning`, e.g. when PostgreSQL is away. That gives a root logger without a handler one of
    Python's, which from then on prints all lines a second time, in its own format.
    """
    handler = make_stderr_handler(settings)
    handler.addFilter(lambda record: record.name.partition(".")[0] not in LOGGERS_WITH_HANDLERS)
    level = max(getattr(logging, settings.log_level.upper()), logging.WARNING)
    logging.basicConfig(level=level, handlers=[handler], force=True)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    name, fields = _event_name_and_fields(record)
    line: dict[str, Any] = {
        "time": format_timestamp(datetime.fromtimestamp(record.created, UTC)),
        "level": record.levelname.lower(),
        "logger": record.name,
        "event": name,
        **fields,
    }
    if record.exc_info and record.exc_info[0] is not None:
        line["exception"] = "".join(traceback.format_exception(*record.exc_info)).strip()
    return {key: _redacted(value) for key, value in line.items()}


def _event_name_and_fields(record: logging.LogRecord) -> tuple[str, dict[str, Any]]:
    """Return them, in a run with its id, job and step. Lines of other libraries have a text as their name."""
    run = getattr(record, "dagster_meta", {})
    fields = {ours: run[theirs] for theirs, ours in RUN_FIELDS.items() if run.get(theirs)}
    event = getattr(record, "viewer_event", record.msg)
    if isinstance(event, Event):
        return event.name, fields | event.fields
    if of_dagster := run.get("dagster_event"):
        error = getattr(of_dagster.event_specific_data, "error", None)
        fields |= {"message": run["orig_message"]} | ({"exception": error.to_string()} if error else {})
        return of_dagster.event_type.name.lower(), fields
    return run.get("orig_message") or record.getMessage(), fields


def _redacted(value: Any) -> Any:
    return value if isinstance(value, int | float | bool | None) else redact_text(str(value))


def _quoted(value: Any) -> str:
    text = str(value)
    return _to_json(text) if _NEEDS_QUOTES.search(text) else text


def _to_json(value: Any) -> str:
    """Return JSON with escapes for what ends a line, is invisible, moves a cursor, or is not UTF-8."""
    return escape_invisible(json.dumps(value, ensure_ascii=False, default=str), json.dumps)
