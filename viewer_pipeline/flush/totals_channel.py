"""The channel of the new totals: after each flush, for the clients subscribed then. Message: docs/totals.md."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import orjson

from viewer_pipeline.errors import ViewerPipelineError
from viewer_pipeline.flush.ledger_row_types import Flush
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.flush.run_notes import RunNotes
from viewer_pipeline.logs import event
from viewer_pipeline.target.add_or_park import FetchTotals

log = logging.getLogger("viewer_pipeline.totals")


def publish_totals(redis: RedisStore, flush: Flush, fetch_totals: FetchTotals) -> RunNotes:
    """Publish the new totals of a committed flush, one message per batch. Never fails the flush: an error is logged."""
    try:
        redis.publish_totals(render_totals_messages(flush, fetch_totals()))
    except ViewerPipelineError as error:
        log.warning(event("totals_not_published", channel=redis.totals_channel, seq=flush.seq, reason=error))
        return RunNotes(unpublished=1, publish_error=str(error))
    return RunNotes()


def render_totals_messages(flush: Flush, totals: dict[str, int]) -> Iterator[bytes]:
    """Yield the message of each batch: the number of the flush, and the totals of its VODs that have a new one."""
    for batch in flush.batches:
        counts = {vod_id: totals[vod_id] for vod_id in batch.vod_ids if vod_id in totals}
        if counts:
            yield orjson.dumps({"flush": flush.seq, "counts": counts})
