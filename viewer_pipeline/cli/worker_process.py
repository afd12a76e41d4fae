"""The worker process: subscriber, health and metrics; at its end, its last flush."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from viewer_pipeline.errors import NotFlushed, PostgresFailed, SettingsError
from viewer_pipeline.flush.ledger import Ledger, require_standby_support, require_target
from viewer_pipeline.flush.marker_ownership import register_pipeline_if_reachable
from viewer_pipeline.ingest.reject_recorder import RejectRecorder
from viewer_pipeline.ingest.subscriber import Subscriber
from viewer_pipeline.ingest.subscriber_stats import SubscriberStats
from viewer_pipeline.logs import event
from viewer_pipeline.monitoring.http_server import start_health_server
from viewer_pipeline.settings import Settings
from viewer_pipeline.stop_signals import StopRequest, install_stop_signal_handlers
from viewer_pipeline.stores.redis_durability_wait import require_durability_support

log = logging.getLogger("viewer_pipeline.worker")

POLL_SECONDS = 1.0  # between two checks that the subscriber still runs
CLOSE_SECONDS = 0.5  # of a stop, kept for closing the server

# Flush what is pending, until a time of the monotonic clock; return the outcome, in words.
WorkerLastFlush = Callable[[float], str]


def run_worker(settings: Settings, run_last_flush: WorkerLastFlush) -> int:
    """Run until SIGTERM, SIGINT or SIGHUP, then stop in order; return the exit status.

    Raises SettingsError where HEALTH_CHECK_PORT is taken, where Redis cannot honour REDIS_WAIT_*, or belongs to
    another pipeline.
    """
    require_durability_support(settings)
    register_pipeline_if_reachable(settings)
    try:
        require_target(settings)
        require_standby_support(settings)
    except (SettingsError, PostgresFailed) as error:  # runs fail with it; messages are still folded
        log.error(event("flushes_impossible", reason=error))  # noqa: TRY400 - a sentence, not a traceback
    worker = _Worker(settings, run_last_flush)
    install_stop_signal_handlers(worker.request_stop)
    return worker.run()


class _Worker:
    def __init__(self, settings: Settings, run_last_flush: WorkerLastFlush) -> None:
        self._settings = settings
        self._run_last_flush = run_last_flush
        self._stats = SubscriberStats()
        self._rejections = RejectRecorder(Ledger.of(settings))
        self._subscriber = Subscriber(settings, self._rejections, self._stats)
        self._stop_request = StopRequest()
        self._deadline = 0.0
        self._remaining: int | None = None  # views that were received and not folded; None while it runs
        self._flush_outcome = "what is pending stays in Redis: there was no time left to flush it"
        self._flushed = False

    def request_stop(self, _number: int) -> None:
        """Begin the stop, in a signal handler."""
        self._deadline = time.monotonic() + self._settings.shutdown_timeout_ms / 1000 - CLOSE_SECONDS
        self._stop_request.set()

    def run(self) -> int:
        """Run to the end; return the exit status."""
        server = start_health_server(self._settings, self._stats, self._stop_request.is_set)
        self._rejections.start()
        subscriber = _start_thread("subscriber", self._run_subscriber)
        while not self._stop_request.wait(POLL_SECONDS):
            if not subscriber.is_alive():
                return 1  # its error has been logged; the service manager restarts the process
        log.info(event("worker_stopping", timeout_ms=self._settings.shutdown_timeout_ms))
        self._subscriber.request_stop(self._deadline - CLOSE_SECONDS)
        self._stats.enter_state("stopping")
        self._join_until_deadline(subscriber)
        if not subscriber.is_alive():
            self._join_until_deadline(_start_thread("rejections", self._rejections.stop))
            self._join_until_deadline(_start_thread("last-flush", self._flush_and_keep_outcome))
        server.stop()
        return self._log_summary()

    def _run_subscriber(self) -> None:
        try:
            self._remaining = self._subscriber.run_until_stopped()
        except Exception:
            log.exception(event("subscriber_failed"))

    def _flush_and_keep_outcome(self) -> None:
        self._flush_outcome = "what the last flush has not committed stays in Redis: it did not end in time"
        try:
            self._flush_outcome, self._flushed = self._run_last_flush(self._deadline), True
        except NotFlushed as error:
            self._flush_outcome = str(error)
        except Exception as error:  # noqa: BLE001 - no error may delay the stop
            reason = str(error).partition("\n")[0]  # without the statement, which SQLAlchemy cites
            self._flush_outcome = f"what is pending stays in Redis: {reason}"

    def _join_until_deadline(self, thread: threading.Thread) -> None:
        thread.join(max(0.0, self._deadline - time.monotonic()))

    def _log_summary(self) -> int:
        """Log what remains where; return the exit status. Received views that Redis refused end with this process."""
        lost_views = self._stats.in_memory if self._remaining is None else self._remaining
        level = logging.ERROR if lost_views else logging.INFO if self._flushed else logging.WARNING
        log.log(level, event("worker_stopped", lost_views=lost_views, last_flush=self._flush_outcome))
        return 1 if lost_views else 0


def _start_thread(name: str, run: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread
