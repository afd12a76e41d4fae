"""Reads of the ledger and the totals. Each function runs the named query of ledger_reads.sql."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

import psycopg

from viewer_pipeline.flush.ledger_row_types import (
    Batch,
    BatchDigest,
    FlushRow,
    HeldSummary,
    LastFlush,
    RecentFlush,
    StoredViewsSummary,
)
from viewer_pipeline.stores.named_queries import fetch_one, named_queries
from viewer_pipeline.streams import Stream

SQL = named_queries(__name__)

MAX_HELD = 10_000  # rows


class CommitState(NamedTuple):
    """Whether a server holds a flush; and whether it is a standby or read-only, so that it cannot know."""

    committed: bool
    standby: bool
    read_only: bool


def read_commit_state(connection: psycopg.Connection, flush_id: str) -> CommitState:
    """Return whether this server holds a flush, whether it is a standby, and whether it is read-only."""
    return CommitState(*fetch_one(connection, SQL["read_commit_state"], flush_id=flush_id or None))


def last_flush(connection: psycopg.Connection, stream: Stream) -> LastFlush:
    """Return the newest flush of a stream."""
    seq, batches, flush_id, timeline = fetch_one(connection, SQL["last_flush"], first=stream.first, last=stream.last)
    return LastFlush(stream.first if seq is None else seq, batches or 0, flush_id, timeline)


def read_batches_after(
    connection: psycopg.Connection, seq: int, batch: int, through: int, limit: int
) -> tuple[list[Batch], str]:
    """Return at most `limit` batches after (seq, batch), through flush `through`, in settling order.

    Also the timeline that they were read in, empty if there are none. If retention has deleted flushes that the marker
    has not passed, which happens where Redis fell back to a very old copy, the first batch `holds`.
    """
    parameters = {"seq": seq, "batch": batch, "through": through, "limit": limit}
    rows = connection.execute(SQL["read_batches_after"], parameters).fetchall()
    if not rows:
        return [], ""
    first, *others = (Batch(*row[:-2]) for row in rows)
    timeline, are_deleted = rows[0][-2:]
    return [first._replace(holds=are_deleted), *others], timeline


def read_batches_of_shards_after(
    connection: psycopg.Connection, positions: Mapping[int, tuple[int, int]], through: int, limit: int
) -> tuple[list[Batch], str]:
    """Return at most `limit` batches of the shards of a cluster, through flush `through`.

    `positions`: flush and batch of the marker of each shard. In settling order within a shard, with the timeline that
    they were read in. The first batch of a shard `holds` if retention has deleted flushes after its marker.
    """
    parameters = {
        "shards": list(positions),
        "seqs": [seq for seq, _ in positions.values()],
        "batches": [batch for _, batch in positions.values()],
        "through": through,
        "limit": limit,
    }
    batches, timeline, seen = list[Batch](), "", set[int]()
    for *row, shard, at, are_deleted in connection.execute(SQL["read_batches_of_shards_after"], parameters):
        batches.append(Batch(*row)._replace(holds=are_deleted and shard not in seen, shard=shard))
        seen.add(shard)
        timeline = at
    return batches, timeline


def pruned_through(connection: psycopg.Connection, stream: Stream) -> int:
    """Return the last flush of a stream that retention has deleted; 0 if it has deleted none."""
    return int(fetch_one(connection, SQL["pruned_through"], stream=stream.id)[0])


def flushes_of_run(connection: psycopg.Connection, run_id: str, base: int) -> list[FlushRow]:
    """Return the flushes above `base` that a run has committed in its stream, in order."""
    rows = connection.execute(SQL["flushes_of_run"], {"run_id": run_id, "base": base})
    return [FlushRow(*row) for row in rows]


def sum_batches(connection: psycopg.Connection, seqs: list[int]) -> list[FlushRow]:
    """Return these flushes as the sums of their batches."""
    return [FlushRow(*row) for row in connection.execute(SQL["sum_batches"], {"seqs": seqs})]


def batch_digests(connection: psycopg.Connection, seqs: list[int], separator: str) -> list[BatchDigest]:
    """Return a digest of each batch of these flushes. `separator`: a text that none of the ids should hold."""
    parameters = {"seqs": seqs, "separator": separator}
    return [BatchDigest(*row) for row in connection.execute(SQL["batch_digests"], parameters)]


def find_totals_behind_their_flush(
    connection: psycopg.Connection, seqs: list[int]
) -> list[tuple[int, str, int | None]]:
    """Return up to 20 of (seq, vod id, last flush of its total) where a total does not carry its flush."""
    return list(connection.execute(SQL["find_totals_behind_their_flush"], {"seqs": seqs}))


def counters_of_flushes(connection: psycopg.Connection, seqs: list[int]) -> tuple[list[str], list[int]]:
    """Return the ids of the counters of these flushes, and their deltas."""
    rows = connection.execute(SQL["counters_of_flushes"], {"seqs": seqs}).fetchall()
    return [vod_id for vod_id, _ in rows], [delta for _, delta in rows]


def recent_flushes(connection: psycopg.Connection, limit: int) -> list[RecentFlush]:
    """Return the last flushes of all streams, newest first."""
    return [RecentFlush(*row) for row in connection.execute(SQL["recent_flushes"], {"limit": limit})]


def last_reading(connection: psycopg.Connection, through: int) -> datetime | None:
    """Return when the counters of the last flush up to number `through` were read; None if there is none."""
    row = connection.execute(SQL["last_reading"], {"through": through}).fetchone()
    return row[0] if row else None


def stored_views_summary(connection: psycopg.Connection) -> StoredViewsSummary:
    """Return how much is persisted, parked and rejected."""
    return StoredViewsSummary(*fetch_one(connection, SQL["stored_views_summary"]))


def held_summary(connection: psycopg.Connection) -> HeldSummary:
    """Return what is held, of the first MAX_HELD rows."""
    vods, views, age_seconds = fetch_one(connection, SQL["held_summary"], limit=MAX_HELD)
    return HeldSummary(vods, int(views), age_seconds, vods == MAX_HELD)


def totals(connection: psycopg.Connection, vod_ids: list[str]) -> dict[str, int]:
    """Return the totals of those of these VODs that have one."""
    return dict(connection.execute(SQL["totals"], {"vod_ids": vod_ids}).fetchall())
