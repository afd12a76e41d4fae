"""Parked views: which can be counted now, counting them once, giving them up.

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
from viewer_pipeline.stores.queries import fetch_one, named_queries
from viewer_pipeline.target.table import Target
from viewer_pipeline.target.upsert import (
    LOCK_TIMEOUT,
    PATIENT,
    find_rows_by_id,
    is_row_error,
    refusal_reason,
    set_constraints_immediate,
)

SQL = named_queries(__name__)

log = logging.getLogger("viewer_pipeline.parked")

NEWEST = 10_000  # parked VODs that every look takes in: their rows are likely to come
SOME = 20_000  # and as many of all, in turn; a look takes about 0.1 s, however many are parked
AT_ONCE = 1000  # VODs in one transaction
PRUNE_AT_ONCE = 10_000
REFUSED_HOURS = 1  # for which sweeps do not try again what was refused
SWEEP_SECONDS = 20.0  # how long a sweep counts parked views: tens of thousands may be refused one by one


class ParkedViews(NamedTuple):
    """So many views of so many VODs: parked, counted, or given up."""

    vods: int
    views: int


NO_VIEWS = ParkedViews(0, 0)


class ParkedSum(NamedTuple):
    """Parked views of one reason."""

    reason: str
    vods: int
    views: int
    oldest: datetime


class ParkedVod(NamedTuple):
    """The parked views of one VOD."""

    vod_id: str
    views: int
    reason: str
    first_seen: datetime
    updated_at: datetime


def ready_parked(connection: psycopg.Connection, target: Target) -> list[str]:
    """Return parked VODs whose row is there by now: of the newest, and of some others, which are others each time.

    As long as there are some, the next look is at the same; so what a look found, the run after it finds as well.
    """
    after = fetch_one(connection, SQL["next_look"])[0]
    page = {"after": after, "some": SOME}
    ready = _ids(connection, target, {**page, "newest": NEWEST, "hours": REFUSED_HOURS})
    if not ready:
        _look_on(connection)
    return ready


def _look_on(connection: psycopg.Connection) -> None:
    """Let the next look go on where this one ends."""
    after = fetch_one(connection, SQL["next_look"])[0]
    end = fetch_one(connection, SQL["parked_page"], after=after, some=SOME)[0]
    connection.execute(SQL["note_look"], {"after": end or ""})


def all_ready_parked(connection: psycopg.Connection, target: Target) -> Iterator[list[str]]:
    """Yield all of them, some at a time; also those that were refused just now: who asks has mended it, perhaps."""
    after: str | None = ""
    while after is not None:
        page = {"after": after, "some": SOME}
        yield _ids(connection, target, {**page, "newest": 0, "hours": 0})
        (after,) = fetch_one(connection, SQL["parked_page"], **page)


def count_ready(connection: psycopg.Connection, target: Target) -> ParkedViews:
    """Count what one look finds, and look again, until it finds nothing that it can count, or its time is over.

    The next one goes on then: what was refused is not tried again so soon.
    """
    vods = views = 0
    until = time.monotonic() + SWEEP_SECONDS
    while time.monotonic() < until and (ready := ready_parked(connection, target)):
        applied = apply_parked(connection, target, ready, until)
        if not applied.vods and time.monotonic() < until:
            _look_on(connection)  # else one row that somebody holds would hold the looks at all others back
            break
        vods, views = vods + applied.vods, views + applied.views
    return ParkedViews(vods, views)


def apply_parked(
    connection: psycopg.Connection, target: Target, vod_ids: Sequence[str], until: float = math.inf
) -> ParkedViews:
    """Count the parked views of these VODs, each once: those whose row is there, has room, and is not locked.

    Atomic for each VOD. What the table refuses stays parked, with the reason, and is not tried again for an hour.
    None is begun after `until`, a time of the monotonic clock.
    """
    vods = views = 0
    for some in chunks(vod_ids, AT_ONCE):
        for applied in _apply(connection, target, some, until):
            vods, views = vods + applied.vods, views + applied.views
    return ParkedViews(vods, views)


def _apply(
    connection: psycopg.Connection, target: Target, vod_ids: Sequence[str], until: float
) -> Iterator[ParkedViews]:
    if time.monotonic() > until:
        return
    try:
        with connection.transaction():
            rows = _transact(connection, target, vod_ids)
    except psycopg.Error as error:
        if not is_row_error(error):
            raise
        if len(vod_ids) > 1:
            middle = len(vod_ids) // 2
            yield from _apply(connection, target, vod_ids[:middle], until)
            yield from _apply(connection, target, vod_ids[middle:], until)
            return
        log.warning(event("parked views refused", vod=vod_ids[0], reason=refusal_reason(error)))
        connection.execute(SQL["refuse_parked"], {"vod_ids": list(vod_ids), "reason": refusal_reason(error)})
    else:
        yield ParkedViews(len(rows), sum(rows.values()))


def _transact(connection: psycopg.Connection, target: Target, vod_ids: Sequence[str]) -> dict[str, int]:
    """Lock first, without waiting; then, with all of them held, count."""
    set_constraints_immediate(connection, LOCK_TIMEOUT)
    locked = connection.execute(target.statement(SQL["lock_parked"]), {"vod_ids": list(vod_ids)})
    held = [vod_id for (vod_id,) in locked]
    rows = connection.execute(target.statement(SQL["apply_parked"]), {"vod_ids": held})
    return {vod_id: int(views) for vod_id, views in rows}


def apply_all_to_totals(connection: psycopg.Connection) -> ParkedViews:
    """Count all parked views into the totals alone: for who has no target table any more. Each once, some at a time."""
    vods = views = 0
    while (some := ParkedViews(*map(int, fetch_one(connection, SQL["apply_parked_to_totals"], some=AT_ONCE)))).vods:
        vods, views = vods + some.vods, views + some.views
    return ParkedViews(vods, views)


def parked_of_flushes(connection: psycopg.Connection, seqs: Sequence[int]) -> ParkedViews:
    """Return what these flushes have parked, as far as it is parked still."""
    return ParkedViews(*map(int, fetch_one(connection, SQL["parked_of_flushes"], seqs=list(seqs))))


def prune_parked(connection: psycopg.Connection, target: Target, days: int) -> ParkedViews:
    """Give up some parked views of VODs without a row that have none younger than so many days; return how many."""
    with connection.transaction():
        find_rows_by_id(connection, PATIENT)
        parameters = {"days": days, "some": PRUNE_AT_ONCE}
        ((vods, views),) = connection.execute(target.statement(SQL["prune_parked"]), parameters)
    return ParkedViews(int(vods), int(views))


def discard_parked(connection: psycopg.Connection, vod_id: str, reason: str) -> int | None:
    """Give the parked views of a VOD up, on record in `viewer.rejected`; return them, None where there were none."""
    row = connection.execute(SQL["discard_parked"], {"vod_id": vod_id, "reason": reason}).fetchone()
    return int(row[0]) if row else None


def parked_by_reason(connection: psycopg.Connection) -> list[ParkedSum]:
    """Sum parked views up by reason."""
    rows = connection.execute(SQL["parked_by_reason"])
    return [ParkedSum(reason, vods, int(views), oldest) for reason, vods, views, oldest in rows]


def largest_parked(connection: psycopg.Connection, limit: int) -> list[ParkedVod]:
    """Return the VODs with the most parked views."""
    rows = connection.execute(SQL["largest_parked"], {"limit": limit})
    return [ParkedVod(vod_id, int(views), *rest) for vod_id, views, *rest in rows]


def _ids(connection: psycopg.Connection, target: Target, page: dict[str, object]) -> list[str]:
    with connection.transaction():
        find_rows_by_id(connection, PATIENT)
        return [vod_id for (vod_id,) in connection.execute(target.statement(SQL["parked_ready"]), page)]
