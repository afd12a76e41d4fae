"""Log lines: one event each, as key=value or JSON, never a password.

A message is an `event`, so the same call reads well in a terminal, as JSON, and among the events of a Dagster run.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import traceback
from datetime import UTC, datetime
from typing import Any

from viewer_pipeline.redaction import without_password
from viewer_pipeline.settings import Settings
from viewer_pipeline.timestamps import format_timestamp

QUIET = ("alembic",)  # four lines for each of two schemas, at every start
_NEEDS_QUOTES = re.compile(r'[\s"=\\]|[^\x20-\x7e]|^$')


class Event:
    """What happened, in a few words, and its figures. As text: `words key=value …`."""

    def __init__(self, words: str, fields: dict[str, Any]) -> None:
        self.words, self.fields = words, fields

    def __str__(self) -> str:
        return " ".join([self.words, *(f"{key}={_quoted(value)}" for key, value in self.fields.items())])


def event(words: str, **fields: Any) -> Event:
    """Return a message for a logger: `log.info(event("folded", segment=3, views=120))`."""
    return Event(words, fields)


class Record(logging.LogRecord):
    """Remembers its event: Dagster puts a text of its own in place of the message while a run goes on."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.said = self.msg if isinstance(self.msg, Event) else None


class TextFormatter(logging.Formatter):
    """`time=… level=… logger=… event="…" key=value …`, one line an event."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return " ".join(f"{key}={_quoted(value)}" for key, value in _fields(record).items())


class JsonFormatter(logging.Formatter):
    """One JSON object a line, with the same keys."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return json.dumps(_fields(record), ensure_ascii=False, default=str)


def formatter(settings: Settings) -> logging.Formatter:
    """Return what LOG_FORMAT asks for."""
    return JsonFormatter() if settings.log_format == "json" else TextFormatter()


def log_to_stderr(settings: Settings) -> None:
    """Send the lines of all loggers of this process to stderr, as LOG_LEVEL and LOG_FORMAT say."""
    logging.setLogRecordFactory(Record)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(settings))
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    said = record.said if isinstance(record, Record) else None
    words, fields = (said.words, said.fields) if said else (record.getMessage(), {})
    found: dict[str, Any] = {
        "time": format_timestamp(datetime.fromtimestamp(record.created, UTC)),
        "level": record.levelname.lower(),
        "logger": record.name,
        "event": words,
        **fields,
    }
    if record.exc_info and record.exc_info[0] is not None:
        found["exception"] = "".join(traceback.format_exception(*record.exc_info)).strip()
    return {key: without_password(value) if isinstance(value, str) else _plain(value) for key, value in found.items()}


def _plain(value: Any) -> Any:
    return value if isinstance(value, int | float | bool | None) else without_password(str(value))


def _quoted(value: Any) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if _NEEDS_QUOTES.search(text) else text
