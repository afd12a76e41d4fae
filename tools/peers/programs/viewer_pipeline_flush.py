"""Viewer Pipeline's flush without Dagster: the four steps of a run in one process, with the checks of the last step."""

from __future__ import annotations

import os
import time
from uuid import uuid4

from tools.peers.programs.servers_and_totals import database_url, interval_seconds, redis_url, report_flush
from viewer_pipeline.errors import ViewerPipelineError
from viewer_pipeline.flush.aggregate import aggregate
from viewer_pipeline.flush.commit import bulk_upsert
from viewer_pipeline.flush.drain import drain
from viewer_pipeline.flush.flush_request import FlushRequest
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.flush.verify import verify
from viewer_pipeline.settings import Settings


def flush(settings: Settings) -> None:
    """Flush all counters, then verify what was committed. Raises our errors."""
    started = time.perf_counter()
    request = FlushRequest(str(uuid4()), "sweep", flush_max_counters=settings.max_counters_per_flush)
    with Stores.open(settings) as stores:
        snapshot = drain(stores, request)
        report = bulk_upsert(stores, snapshot, aggregate(snapshot.readings))
        written = time.perf_counter()
        failed = [check.name for check in verify(stores, report) if not check.passed]
    verification_seconds = time.perf_counter() - written
    if failed:
        print(f"checks failed: {failed}", flush=True)
    report_flush(report.counters, started, verification_seconds)


def main() -> None:
    """Flush at every interval; after an error, too."""
    target = "public.vod" if os.environ.get("PEER_FOREIGN_KEY") else None
    settings = Settings(
        _env_file=None,
        database_url=database_url(),
        redis_url=redis_url(),
        target_table=target,
        target_id_column="id",
        target_count_column="views",
    )
    while True:
        started = time.perf_counter()
        try:
            flush(settings)
        except ViewerPipelineError as error:
            print(f"flush failed: {error}", flush=True)
        time.sleep(max(0.0, interval_seconds() - (time.perf_counter() - started)))


if __name__ == "__main__":
    main()
