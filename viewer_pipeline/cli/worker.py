"""The worker process: subscriber, health and metrics, from start to a stop in order."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from viewer_pipeline.errors import NotFlushed, TargetUnusable
from viewer_pipeline.flush.ledger import Ledger, require_target
from viewer_pipeline.flush.registry import require_pipeline
from viewer_pipeline.ingest.rejections import Rejections
from viewer_pipeline.ingest.stats import SubscriberStats
from viewer_pipeline.ingest.subscriber import Subscriber
from viewer_pipeline.logs import event
from viewer_pipeline.monitoring.http_server import serve
from viewer_pipeline.settings import Settings
from viewer_pipeline.stop_signals import StopRequest, handle_stop_signals
from viewer_pipeline.stores.durability import require_durability

log = logging.getLogger("viewer_pipeline.worker")

LOOK_SECONDS = 1.0  # how often it is checked that the subscriber still runs
CLOSE_SECONDS = 0.5  # of a stop, kept for closing the server

# Flush what is pending, until a time of the monotonic clock; return what came of it, in words.
LastFlush = Callable[[float], str]


def run_worker(settings: Settings, last_flush: LastFlush) -> int:
    """Listen and answer until SIGTERM, SIGINT or SIGHUP, then stop in order; return the exit status.

    Raises SettingsError where HEALTH_CHECK_PORT is taken, where Redis cannot honour REDIS_WAIT_*, or belongs to
    another pipeline.
    """
    require_durability(settings)
    require_pipeline(settings)
    try:
        require_target(settings)
    except TargetUnusable as error:  # what it hears is still to be folded; the flush runs fail and say so
        log.error(event("no flush will succeed", reason=error))  # noqa: TRY400 - a sentence, not a traceback
    worker = _Worker(settings, last_flush)
    handle_stop_signals(worker.begin_stop)
    return worker.run()


class _Worker:
    def __init__(self, settings: Settings, last_flush: LastFlush) -> None:
        self._settings = settings
        self._last_flush = last_flush
        self._stats = SubscriberStats()
        self._rejections = Rejections(Ledger(settings.require_database_url()))
        self._subscriber = Subscriber(settings, self._rejections, self._stats)
        self._stopping = StopRequest()
        self._deadline = 0.0
        self._left: int | None = None  # views that were heard and not folded; None while it listens
        self._flushed = "what is pending stays in Redis: there was no time left to flush it"
        self._kept = True  # whether anything may have stayed in Redis

    def begin_stop(self, _number: int) -> None:
        """Begin to stop, in a signal handler."""
        self._deadline = time.monotonic() + self._settings.shutdown_timeout_ms / 1000 - CLOSE_SECONDS
        self._stopping.set()

    def run(self) -> int:
        """Run to the end."""
        server = serve(self._settings, self._stats, self._stopping.is_set)
        self._rejections.start()
        subscriber = _start("subscriber", self._listen)
        while not self._stopping.wait(LOOK_SECONDS):
            if not subscriber.is_alive():
                return 1  # its error has been logged; whoever started the process starts it again
        log.info(event("stopping", timeout_ms=self._settings.shutdown_timeout_ms))
        self._subscriber.stop(self._deadline - CLOSE_SECONDS)
        self._stats.enter("stopping")
        self._wait(subscriber)
        if not subscriber.is_alive():
            self._wait(_start("rejections", self._rejections.stop))
            self._wait(_start("last-flush", self._flush))
        server.stop()
        return self._log_summary()

    def _listen(self) -> None:
        try:
            self._left = self._subscriber.run()
        except Exception:
            log.exception(event("the subscriber failed"))

    def _flush(self) -> None:
        self._flushed = "what the last flush has not committed stays in Redis: it did not end in time"
        try:
            self._flushed, self._kept = self._last_flush(self._deadline), False
        except Exception as error:  # noqa: BLE001 - whatever it was, it must not hold up the stop
            said = str(error).partition("\n")[0]  # not the statement, which SQLAlchemy cites
            self._flushed = said if isinstance(error, NotFlushed) else f"what is pending stays in Redis: {said}"

    def _wait(self, thread: threading.Thread) -> None:
        thread.join(max(0.0, self._deadline - time.monotonic()))

    def _log_summary(self) -> int:
        """Say what is left where. Views that were heard and that Redis did not take are lost with this process."""
        left = self._stats.in_memory if self._left is None else self._left
        level = logging.ERROR if left else logging.WARNING if self._kept else logging.INFO
        log.log(level, event("stopped", lost_views=left, flush=self._flushed))
        return 1 if left else 0


def _start(name: str, run: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread
