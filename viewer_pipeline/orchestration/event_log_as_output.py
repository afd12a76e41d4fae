"""What the tabs `stdout` and `stderr` of a run show in Dagster's UI: its log lines, from its event log.

The output of a run's process is not captured for them, which would cost each run time, and files that nothing deletes.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime

from dagster import EventLogEntry
from dagster._core.storage.compute_log_manager import ComputeIOType
from dagster._core.storage.noop_compute_log_manager import NoOpComputeLogManager

from viewer_pipeline.redaction import redact_text
from viewer_pipeline.time_formatting import format_timestamp

STDOUT = """The steps of this pipeline print nothing. Their log lines are in the tab `stderr`, all events in `Events`.
What a library prints is in the log of the code server.
"""
NO_LINES = "This run has logged nothing yet: reload the page.\n"


class EventLogAsOutput(NoOpComputeLogManager):
    """Captures nothing; reads what a run has logged when somebody looks."""

    def get_log_data_for_type(
        self, log_key: Sequence[str], io_type: ComputeIOType, offset: int, max_bytes: int | None
    ) -> tuple[bytes | None, int]:
        """Return the text from `offset` on, and where it ends. Ticks of sensors and schedules have none."""
        run_id, *kind = log_key
        if kind[:1] != ["compute_logs"]:
            return None, 0
        text = STDOUT if io_type is ComputeIOType.STDOUT else self._log_lines(run_id)
        part = text.encode()[offset:][:max_bytes]
        return part, offset + len(part)

    def _log_lines(self, run_id: str) -> str:
        entries = [entry for entry in self._instance.all_logs(run_id) if _is_log_line(entry)]
        return "".join(map(_line, entries)) or NO_LINES


def _is_log_line(entry: EventLogEntry) -> bool:
    """Whether it is a log line, or an event of Dagster that is no routine."""
    return not entry.is_dagster_event or int(entry.level) >= logging.WARNING


def _line(entry: EventLogEntry) -> str:
    time = format_timestamp(datetime.fromtimestamp(entry.timestamp, UTC))
    step = f" {entry.step_key}" if entry.step_key else ""
    error = entry.error_info or (
        entry.dagster_event and getattr(entry.dagster_event.event_specific_data, "error", None)
    )
    cause = f"\n{error.to_string().rstrip()}" if error else ""
    return redact_text(f"{time} {logging.getLevelName(entry.level).lower()}{step} {entry.user_message}{cause}") + "\n"
