"""The channel of the new totals: after each flush, for the clients subscribed then. Message: docs/totals.md."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import orjson

from viewer_pipeline.errors import ViewerPipelineError
from viewer_pipeline.flush.ledger_row_types import Flush
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.flush.run_notes import RunNotes
from viewer_pipeline.layout import SINGLE_SHARD
from viewer_pipeline.logs import event
from viewer_pipeline.target.add_or_park import FetchTotals

log = logging.getLogger("viewer_pipeline.totals")

MESSAGE_VODS = 100  # in a message of several batches: nodes of a cluster send each message to all others


def publish_totals(redis: RedisStore, flush: Flush, fetch_totals: FetchTotals) -> RunNotes:
    """Publish the new totals of a committed flush. Never fails the flush: an error is logged."""
    try:
        redis.publish_totals(render_totals_messages(flush, fetch_totals()))
    except ViewerPipelineError as error:
        log.warning(event("totals_not_published", channel=redis.totals_channel, seq=flush.seq, reason=error))
        return RunNotes(unpublished=1, publish_error=str(error))
    return RunNotes()


def render_totals_messages(flush: Flush, totals: dict[str, int]) -> Iterator[bytes]:
    """Yield messages: the number of the flush, and the totals of VODs that have a new one, in the order of batches.

    One for each batch; in a cluster, whose batches are small, one for several.
    """
    for vod_ids in _ids_of_messages(flush):
        counts = {vod_id: totals[vod_id] for vod_id in vod_ids if vod_id in totals}
        if counts:
            yield orjson.dumps({"flush": flush.seq, "counts": counts})


def _ids_of_messages(flush: Flush) -> Iterator[Sequence[str]]:
    if not flush.batches or flush.batches[0].shard == SINGLE_SHARD:
        yield from (batch.vod_ids for batch in flush.batches)
        return
    ids = list[str]()
    for batch in flush.batches:
        if ids and len(ids) + len(batch.vod_ids) > MESSAGE_VODS:
            yield ids
            ids = []
        ids.extend(batch.vod_ids)
    yield ids
