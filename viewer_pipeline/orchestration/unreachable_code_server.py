"""One line in place of the traceback that Dagster prints when its daemon or UI cannot reach the code server.

Dagster connects by itself as soon as the code server runs, so all that an operator has to do is to start it.
"""

import logging
import re
import time

from viewer_pipeline.command_to_type import command_to_type
from viewer_pipeline.logs import event
from viewer_pipeline.redaction import redact_text

log = logging.getLogger("viewer_pipeline.dagster")

WARNING_LOGGERS = ("py.warnings", "dagster")  # of Python; of Dagster, once it has configured its logging
SILENT_SECONDS = 60.0  # after a line; Dagster tries, and warns, more often
_UNREACHABLE = re.compile(r"Error loading repository location .*: Could not reach user code server\.", re.DOTALL)
_DETAILS = re.compile(r'details = "([^"]*)"')  # of gRPC: the address and what the system reports


def log_unreachable_code_server_in_one_line() -> None:
    """Have this process log warnings, and this one as an event. Call it after the logging was configured."""
    logging.captureWarnings(True)
    unreachable = _UnreachableCodeServer()
    for name in WARNING_LOGGERS:
        logging.getLogger(name).addFilter(unreachable)


class _UnreachableCodeServer(logging.Filter):
    """Passes all other warnings."""

    def __init__(self) -> None:
        super().__init__()
        self._silent_until = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        """Log an event in place of the warning, unless it was logged a moment ago."""
        text = record.getMessage()
        if _UNREACHABLE.search(text) is None:
            return True
        if (now := time.monotonic()) >= self._silent_until:
            self._silent_until = now + SILENT_SECONDS
            details = _DETAILS.search(text)
            log.warning(
                event(
                    "code_server_unreachable",
                    reason=redact_text(details[1]) if details else "no answer",
                    remedy=f"start `{command_to_type('code-server')}`, or correct --code-server; this process"
                    " connects as soon as it runs",
                )
            )
        return False
