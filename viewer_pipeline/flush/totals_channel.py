"""Totals out: what a flush made of the totals, published for whoever listens. The message: docs/totals.md."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import orjson

from viewer_pipeline.errors import ViewerPipelineError
from viewer_pipeline.flush.findings import Findings
from viewer_pipeline.flush.ledger import Flush, Totals
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.logs import event

log = logging.getLogger("viewer_pipeline.totals")


def publish_totals(redis: RedisStore, flush: Flush, totals: Totals, findings: Findings) -> None:
    """Publish the new totals of a committed flush, one message for each batch of which something was counted.

    Never fails the flush: the first failure is logged and ends publishing for the run, so that a Redis which does not
    answer holds up settling once and not at every flush.
    """
    if not findings.unpublished:
        try:
            redis.publish_totals(messages(flush, totals()))
        except ViewerPipelineError as error:
            findings.why_unpublished = str(error)
            log.warning(event("totals not published", channel=redis.totals_channel, flush=flush.seq, reason=error))
        else:
            return
    findings.unpublished += 1


def messages(flush: Flush, totals: dict[str, int]) -> Iterator[bytes]:
    """Yield the message of each batch: the number of the flush, and the totals of those VODs that have a new one."""
    for batch in flush.batches:
        counts = {vod_id: totals[vod_id] for vod_id in batch.vod_ids if vod_id in totals}
        if counts:
            yield orjson.dumps({"flush": flush.seq, "counts": counts})
