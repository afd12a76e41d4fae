"""Dagster's daemon, which does not stop working when the clock of its machine is set back.

Dagster compares timestamps, stored and in memory, with the clock to decide what is due: sensors, schedules, the queue
of runs and heartbeats would wait until the clock reaches the old time again. So the daemon restarts itself when the
clock is set back, and at each start moves stored timestamps in the future to now.
"""

import logging
import os
import sys
import time
from threading import Thread
from typing import NoReturn

from dagster._daemon.cli import main as run_daemon

from viewer_pipeline.errors import ViewerPipelineError
from viewer_pipeline.logs import configure_package_logging, event
from viewer_pipeline.orchestration.dagster_instance import open_instance
from viewer_pipeline.orchestration.exit_with_error import exit_with_error
from viewer_pipeline.orchestration.future_timestamps import move_or_delete_future_timestamps
from viewer_pipeline.orchestration.unreachable_code_server import log_unreachable_code_server_in_one_line
from viewer_pipeline.settings import load_settings

log = logging.getLogger("viewer_pipeline.daemon")

POLL_SECONDS = 1.0
MAX_SECONDS_BACK = 10.0  # a smaller change only delays what is due by as much


def main() -> None:
    """Run Dagster's daemon with the arguments of this process."""
    settings = load_settings()
    configure_package_logging(settings)
    log_unreachable_code_server_in_one_line()
    try:
        with open_instance(settings) as instance:
            moved = move_or_delete_future_timestamps(settings, instance, time.time())
    except ViewerPipelineError as error:
        exit_with_error(error)
    if any(moved):
        log.warning(event("future_timestamps_moved", **moved._asdict()))
    Thread(target=_restart_when_clock_is_set_back, name="clock", daemon=True).start()
    run_daemon()


def _restart_when_clock_is_set_back() -> NoReturn:
    latest = time.time()
    while (now := time.time()) > latest - MAX_SECONDS_BACK:
        latest = max(latest, now)
        time.sleep(POLL_SECONDS)
    log.warning(event("clock_set_back", seconds=round(latest - now)))
    sys.stdout.flush()
    sys.stderr.flush()
    # Not as it was started: it may be a fork of a process that was started as something else.
    command = [sys.executable, "-m", "viewer_pipeline.orchestration.daemon_with_clock_watch", *sys.argv[1:]]
    os.execv(sys.executable, command)  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main()
