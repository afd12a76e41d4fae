"""The set-up of a process that runs a stack of its own and removes it: demo, soak, bench runs."""

from __future__ import annotations

import logging
import signal
import sys
from typing import NoReturn

from viewer_pipeline.broken_stream_tolerance import tolerate_write_errors
from viewer_pipeline.stop_signals import install_stop_signal_handlers


def configure_logging_and_sigterm(log_level: int) -> None:
    """Log to stderr, which may close; SIGTERM leaves this process, so that the stack it runs is stopped in order."""

    def leave(number: int) -> NoReturn:
        raise SystemExit(128 + number)

    tolerate_write_errors("stderr")
    logging.basicConfig(level=log_level, stream=sys.stderr)
    install_stop_signal_handlers(leave, leave, [signal.SIGTERM])
