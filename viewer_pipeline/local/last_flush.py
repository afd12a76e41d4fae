"""The last flush of a process that stops: what is pending should not wait for the next start."""

from __future__ import annotations

import time

from viewer_pipeline.counting.flush import Stores
from viewer_pipeline.counting.ledger import Ledger
from viewer_pipeline.counting.look import look_for_counters
from viewer_pipeline.counting.redis_client import connect
from viewer_pipeline.counting.redis_store import RedisStore
from viewer_pipeline.settings import Settings

LOOK_SECONDS = 0.2


def flush_what_remains(settings: Settings, deadline: float) -> str:
    """Run a sweep in this process, recorded in Dagster's history, if there is anything to flush; say what it did.

    A flush that is running is let end first, for half of the time that is left: two at once would be exact as well.
    Raises ViewerPipelineError; what is pending stays in Redis then.
    """
    url = settings.require_redis_url()
    with connect(url) as client:
        stores = Stores(RedisStore(client, url, settings.counter_prefix), Ledger(settings.require_database_url()))
        look = look_for_counters(stores)
    if not look.work:
        return "nothing was pending"
    settings.export()
    from viewer_pipeline.local.flush_now import run_flush  # imports Dagster: 2 s
    from viewer_pipeline.orchestration.instance import open_instance
    from viewer_pipeline.orchestration.jobs import is_flushing
    from viewer_pipeline.orchestration.ops import FlushMode

    with open_instance(settings) as instance:
        patience = time.monotonic() + (deadline - time.monotonic()) / 2
        while is_flushing(instance) and time.monotonic() < patience:
            time.sleep(LOOK_SECONDS)
        run = run_flush(instance, FlushMode.sweep, (), "shutdown: what remains")
    if run.success:
        return f"flushed what remained: {run.figures.get('views', 0)} views, run {run.run_id}"
    return f"what is pending stays in Redis: run {run.run_id} failed"
