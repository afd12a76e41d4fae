"""The last flush of a process that stops: what is pending should not wait for the next start."""

from __future__ import annotations

import time
from math import ceil

from viewer_pipeline.errors import NotFlushed
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.precheck import look_for_counters
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.settings import Settings
from viewer_pipeline.stores.redis import connect
from viewer_pipeline.target.table import TargetNames

LOOK_SECONDS = 0.2
RUN_SECONDS = 1.0  # what a run takes at least: one that cannot end is not begun


def flush_what_remains(settings: Settings, deadline: float) -> str:
    """Run a sweep in this process, recorded in Dagster's history, if there is anything to flush; say what it did.

    A flush that is running is let end first, for half of the time that is left: two at once would be exact as well.
    Raises ViewerPipelineError, NotFlushed where it ran out of time; what is pending stays in Redis then.
    """
    url = settings.require_redis_url()
    with connect(url) as client:
        ledger = Ledger(settings.require_database_url(), TargetNames.of(settings))
        stores = Stores(RedisStore(client, url, settings.counter_prefix), ledger)
        look = look_for_counters(stores)
    if not look.work:
        return "nothing was pending"
    settings.export()
    from dagster._core.storage.tags import MAX_RUNTIME_SECONDS_TAG

    from viewer_pipeline.cli.flush import run_flush  # imports Dagster: 2 s
    from viewer_pipeline.orchestration.instance import open_instance
    from viewer_pipeline.orchestration.jobs import is_flushing
    from viewer_pipeline.orchestration.ops import FlushMode

    with open_instance(settings) as instance:
        patience = time.monotonic() + (deadline - time.monotonic()) / 2
        while is_flushing(instance) and time.monotonic() < patience:
            time.sleep(LOOK_SECONDS)
        if (left := deadline - time.monotonic()) < RUN_SECONDS:
            raise NotFlushed("there was no time left to flush it")
        # If this process ends first, Dagster's monitor fails the run then, and not after `max_runtime_seconds`:
        # until that is done, sensor and sweep wait for it.
        tags = {MAX_RUNTIME_SECONDS_TAG: str(ceil(left))}
        run = run_flush(instance, FlushMode.sweep, (), "shutdown: what remains", tags)
    if not run.success:
        raise NotFlushed(f"run {run.run_id} failed")
    return f"flushed what remained: {run.figures.get('views', 0)} views, run {run.run_id}"
