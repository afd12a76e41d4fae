"""The log lines of a run in the output of its process, as LOG_LEVEL and LOG_FORMAT say."""

import logging
from typing import Any

import dagster as dg
from dagster._core.execution import context_creation_job

from viewer_pipeline.logs import EventRecord, make_stderr_handler
from viewer_pipeline.settings import load_settings

LOG_LINES: dict[str, Any] = {"loggers": {"console": {"config": {}}}}  # the run config that selects this logger


@dg.logger(
    config_schema={"log_level": dg.Field(str, is_required=False, description="debug, info, warning or error")},
    description="Log lines of the run on stderr, in the format of Viewer Pipeline.",
)
def console(context: dg.InitLoggerContext) -> logging.Logger:
    """Return the logger of one run."""
    settings = load_settings()  # a logger gets no resources
    logging.setLogRecordFactory(EventRecord)
    level = context.logger_config.get("log_level") or settings.log_level
    log = logging.Logger("viewer_pipeline.run", level=level.upper())  # noqa: LOG001 - Dagster keeps one for each run
    log.addHandler(make_stderr_handler(settings))
    log.addFilter(_is_not_routine_of_dagster)
    return log


# For runs whose config selects none, as of Materialize in the UI: Dagster has no public setting for these.
context_creation_job.default_system_loggers = lambda _instance: [(console, {})]  # type: ignore[attr-defined, assignment]


def _is_not_routine_of_dagster(record: logging.LogRecord) -> bool:
    """Whether it is more than one of Dagster's fifty events of every run, which the UI shows."""
    return record.levelno >= logging.WARNING or not hasattr(record, "dagster_event")
