"""The worker process: subscriber and what belongs to it, from start to an orderly stop."""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType

from viewer_pipeline.counting.ledger import Ledger
from viewer_pipeline.settings import Settings
from viewer_pipeline.worker.figures import Figures
from viewer_pipeline.worker.rejections import Rejections
from viewer_pipeline.worker.subscriber import Subscriber

log = logging.getLogger("viewer_pipeline.worker")


def run_worker(settings: Settings) -> None:
    """Listen until SIGTERM or SIGINT, then fold what is in memory and return."""
    rejections = Rejections(Ledger(settings.require_database_url()))
    subscriber = Subscriber(settings, rejections, Figures())

    def stop(number: int, _frame: FrameType | None) -> None:
        log.info("stopping signal=%s", signal.Signals(number).name)
        subscriber.stop()

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
    rejections.start()
    try:
        subscriber.run()
    finally:
        rejections.stop()
    log.info("stopped")
