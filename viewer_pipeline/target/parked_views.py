"""Parked views: find those that the target can take now, apply each once, prune and discard.

A VOD's views are parked in the transaction of their flush, and leave `viewer.parked` in the transaction that adds them
to the target table and the totals. So wherever a process dies, they are in one place.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

import psycopg

from viewer_pipeline.logs import event
from viewer_pipeline.stores.chunks import chunks
from viewer_pipeline.stores.named_queries import fetch_one, named_queries
from viewer_pipeline.target.add_or_park import (
    LOCK_TIMEOUT,
    OWN_LOCK_TIMEOUT,
    force_index_scans,
    is_row_error,
    refusal_reason,
    set_constraints_immediate,
)
from viewer_pipeline.target.table import Target

SQL = named_queries(__name__)

log = logging.getLogger("viewer_pipeline.parked")

NEWEST_ROWS = 10_000  # newest parked VODs, part of every scan: their rows are likely to come
PAGE_SIZE = 20_000  # parked VODs after the cursor, in turn; a scan takes about 0.1 s, whatever the number of rows
BATCH_ROWS = 1000  # VODs in one transaction
PRUNE_ROWS = 10_000
REFUSED_HOURS = 1  # during which sweeps do not retry refused views
SWEEP_SECONDS = 20.0  # time of a sweep for parked views: tens of thousands may be refused one by one


class ParkedViews(NamedTuple):
    """A number of views and of VODs: parked, applied or pruned."""

    vods: int
    views: int


NO_VIEWS = ParkedViews(0, 0)


class ParkedByReason(NamedTuple):
    """Parked views of one reason."""

    reason: str
    vods: int
    views: int
    oldest_at: datetime


class ParkedVod(NamedTuple):
    """The parked views of one VOD."""

    vod_id: str
    views: int
    reason: str
    first_seen_at: datetime
    updated_at: datetime


def next_ready_or_advance_cursor(connection: psycopg.Connection, target: Target) -> list[str]:
    """Return parked VODs whose row exists by now: of the newest, and of the page after the cursor.

    The cursor moves on only if there are none, so the run after a precheck finds the same VODs.
    """
    after = fetch_one(connection, SQL["parked_cursor"])[0]
    page = {"after": after, "limit": PAGE_SIZE}
    ready = _ready_ids(connection, target, {**page, "newest": NEWEST_ROWS, "hours": REFUSED_HOURS})
    if not ready:
        _advance_cursor(connection)
    return ready


def _advance_cursor(connection: psycopg.Connection) -> None:
    """Let the next scan start where this page ends."""
    after = fetch_one(connection, SQL["parked_cursor"])[0]
    end = fetch_one(connection, SQL["parked_page"], after=after, limit=PAGE_SIZE)[0]
    connection.execute(SQL["move_parked_cursor"], {"after": end or ""})


def all_ready_parked(connection: psycopg.Connection, target: Target) -> Iterator[list[str]]:
    """Yield all of them, page by page; also those refused within the hour: the operator may have repaired the table."""
    after: str | None = ""
    while after is not None:
        page = {"after": after, "limit": PAGE_SIZE}
        yield _ready_ids(connection, target, {**page, "newest": 0, "hours": 0})
        (after,) = fetch_one(connection, SQL["parked_page"], **page)


def apply_ready_parked_until_timeout(connection: psycopg.Connection, target: Target) -> ParkedViews:
    """Scan and apply, until a scan finds nothing that the target can take, or SWEEP_SECONDS are over.

    The next sweep continues then: refused views are not retried within the hour.
    """
    vods = views = 0
    until = time.monotonic() + SWEEP_SECONDS
    while time.monotonic() < until and (ready := next_ready_or_advance_cursor(connection, target)):
        applied = apply_parked(connection, target, ready, until)
        if not applied.vods and time.monotonic() < until:
            _advance_cursor(connection)  # else one locked row would keep the scan from all others
            break
        vods, views = vods + applied.vods, views + applied.views
    return ParkedViews(vods, views)


def apply_parked(
    connection: psycopg.Connection, target: Target, vod_ids: Sequence[str], until: float = math.inf
) -> ParkedViews:
    """Apply the parked views of these VODs, each once: those whose row exists, has room, and is not locked.

    Atomic for each VOD. What the table refuses stays parked, with the reason, and is not retried for an hour. No
    transaction starts after `until`, a time of the monotonic clock.
    """
    vods = views = 0
    for batch in chunks(vod_ids, BATCH_ROWS):
        for applied in _apply(connection, target, batch, until):
            vods, views = vods + applied.vods, views + applied.views
    return ParkedViews(vods, views)


def _apply(
    connection: psycopg.Connection, target: Target, vod_ids: Sequence[str], until: float
) -> Iterator[ParkedViews]:
    if time.monotonic() > until:
        return
    try:
        with connection.transaction():
            rows = _lock_and_apply(connection, target, vod_ids)
    except psycopg.Error as error:
        if not is_row_error(error):
            raise
        if len(vod_ids) > 1:
            middle = len(vod_ids) // 2
            yield from _apply(connection, target, vod_ids[:middle], until)
            yield from _apply(connection, target, vod_ids[middle:], until)
            return
        log.warning(event("parked_views_refused", vod=vod_ids[0], reason=refusal_reason(error)))
        connection.execute(SQL["refuse_parked"], {"vod_ids": list(vod_ids), "reason": refusal_reason(error)})
    else:
        yield ParkedViews(len(rows), sum(rows.values()))


def _lock_and_apply(connection: psycopg.Connection, target: Target, vod_ids: Sequence[str]) -> dict[str, int]:
    """Lock the rows, without waiting; apply those that are locked, and return their views."""
    set_constraints_immediate(connection, LOCK_TIMEOUT)
    locked = connection.execute(target.statement(SQL["lock_parked"]), {"vod_ids": list(vod_ids)})
    locked_ids = [vod_id for (vod_id,) in locked]
    return dict(connection.execute(target.statement(SQL["apply_parked"]), {"vod_ids": locked_ids}).fetchall())


def apply_all_parked_to_totals(connection: psycopg.Connection) -> ParkedViews:
    """Apply all parked views, each once, to the totals alone: without a target table any more. Page by page."""
    vods = views = 0
    while (page := ParkedViews(*fetch_one(connection, SQL["apply_parked_to_totals"], limit=BATCH_ROWS))).vods:
        vods, views = vods + page.vods, views + page.views
    return ParkedViews(vods, views)


def still_parked_of_flushes(connection: psycopg.Connection, seqs: Sequence[int]) -> ParkedViews:
    """Return what these flushes have parked and is still parked."""
    return ParkedViews(*fetch_one(connection, SQL["still_parked_of_flushes"], seqs=list(seqs)))


def prune_parked(connection: psycopg.Connection, target: Target, older_than_days: int) -> ParkedViews:
    """Prune parked views of VODs without a row, if all are older than so many days; return how many. One page."""
    with connection.transaction():
        force_index_scans(connection, OWN_LOCK_TIMEOUT)
        parameters = {"days": older_than_days, "limit": PRUNE_ROWS}
        (row,) = connection.execute(target.statement(SQL["prune_parked"]), parameters)
    return ParkedViews(*row)


def discard_parked(connection: psycopg.Connection, vod_id: str, reason: str) -> int | None:
    """Discard the parked views of a VOD, recorded in `viewer.rejected`; return how many, None if there were none."""
    row = connection.execute(SQL["discard_parked"], {"vod_id": vod_id, "reason": reason}).fetchone()
    return int(row[0]) if row else None


def parked_by_reason(connection: psycopg.Connection) -> list[ParkedByReason]:
    """Return parked views by reason."""
    return [ParkedByReason(*row) for row in connection.execute(SQL["parked_by_reason"])]


def largest_parked(connection: psycopg.Connection, limit: int) -> list[ParkedVod]:
    """Return the VODs with the most parked views."""
    return [ParkedVod(*row) for row in connection.execute(SQL["largest_parked"], {"limit": limit})]


def _ready_ids(connection: psycopg.Connection, target: Target, page: dict[str, object]) -> list[str]:
    with connection.transaction():
        force_index_scans(connection, OWN_LOCK_TIMEOUT)
        return [vod_id for (vod_id,) in connection.execute(target.statement(SQL["parked_ready"]), page)]
