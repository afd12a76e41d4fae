"""The transaction of a flush: claim the number, copy the batches, add to the totals. All or nothing (rule R1)."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg
from psycopg import errors as pg

from viewer_pipeline.flush.ledger_row_types import Batch, Flush, Upsert
from viewer_pipeline.layout import SINGLE_SHARD
from viewer_pipeline.stores.named_queries import named_queries
from viewer_pipeline.target.add_or_park import FetchTotals

SQL = named_queries(__name__)

LEDGER_FORMAT = 2  # of a row of viewer.flush; version 0.1.0 writes none, and the ledger refuses a row without
MERGE_VERSION = 17_00_07  # until PostgreSQL 17.6, MERGE loses its update where it has waited for two others of that row


def commit_to_totals(connection: psycopg.Connection, flush: Flush) -> FetchTotals | None:
    """As `commit_flush`, adding to the totals alone, without the target table. Try the fastest statement first."""
    try:
        return commit_flush(connection, flush, add_to_totals_fast)
    except (pg.UniqueViolation, pg.NumericValueOutOfRange):
        return commit_flush(connection, flush, add_to_totals_parking)


def commit_flush(connection: psycopg.Connection, flush: Flush, upsert: Upsert) -> FetchTotals | None:
    """Commit a flush in one transaction; None if another run committed first, then nothing was written."""
    with connection.transaction():
        if not claim_flush_number(connection, flush):
            return None
        copy_batches(connection, flush.batches)
        return upsert(connection, flush)


def claim_flush_number(connection: psycopg.Connection, flush: Flush) -> bool:
    """Insert the row of the flush; return whether no other was committed meanwhile (rules R3, R6)."""
    connection.execute(SQL["lock_stream"], {"base": flush.base})
    content = {"counters": flush.counters, "views": flush.views, "batches": len(flush.batches)}
    claimed = connection.execute(SQL["insert_flush"], vars(flush) | content | {"format": LEDGER_FORMAT})
    return claimed.fetchone() is not None


def copy_batches(connection: psycopg.Connection, batches: Sequence[Batch]) -> None:
    """Copy the batches into the ledger."""
    from viewer_pipeline.flush import copy_format  # noqa: PLC0415 - numpy, which the worker does not need

    if batches and batches[0].shard != SINGLE_SHARD:
        query, rows = "copy_batches_of_shards", copy_format.encode_rows_of_shards(batches)
    else:
        rows = copy_format.encode_batch_rows((b.seq, b.number, b.vod_ids, b.deltas) for b in batches)
        query = "copy_batches"
    with connection.cursor() as cursor, cursor.copy(SQL[query]) as copy:
        copy.write(rows)


def add_to_totals_fast(connection: psycopg.Connection, flush: Flush, parked: Sequence[str] = ()) -> FetchTotals:
    """Add a flush to the totals by the fastest statement of this PostgreSQL."""
    merges = connection.info.server_version >= MERGE_VERSION
    return (merge_into_totals if merges else add_to_totals)(connection, flush, parked)


def merge_into_totals(connection: psycopg.Connection, flush: Flush, parked: Sequence[str] = ()) -> FetchTotals:
    """As `add_to_totals`, and faster. Raises UniqueViolation if another transaction inserts the same VOD meanwhile."""
    connection.execute(SQL["follow_index_of_totals"])
    parameters = {
        "seq": flush.seq,
        "batches": len(flush.batches),
        "first": min(batch.vod_ids[0] for batch in flush.batches),  # in order within a batch
        "last": max(batch.vod_ids[-1] for batch in flush.batches),
        "parked": list(parked),
    }
    rows = connection.execute(SQL["merge_totals"], parameters, prepare=False, binary=True)  # planned for these bounds
    return lambda: dict(rows.fetchall())


def add_to_totals(connection: psycopg.Connection, flush: Flush, parked: Sequence[str] = ()) -> FetchTotals:
    """Add a flush to the totals, without parked VODs. Raises NumericValueOutOfRange if a total would exceed bigint."""
    return _upsert_totals(connection, SQL["upsert_totals"], {"seq": flush.seq, "parked": list(parked)})


def add_to_totals_parking(connection: psycopg.Connection, flush: Flush) -> FetchTotals:
    """Add a flush to the totals; park the views of VODs whose total would exceed bigint."""
    return _upsert_totals(connection, SQL["upsert_totals_parking"], {"seq": flush.seq})


def hold_views(connection: psycopg.Connection, flush: Flush) -> FetchTotals:
    """Add the views of a flush to `viewer.held`, and nothing to the totals (rule R16)."""
    connection.execute(SQL["hold_views"], {"epoch": flush.epoch, "seq": flush.seq})
    return dict


def _upsert_totals(connection: psycopg.Connection, query: str, parameters: dict[str, object]) -> FetchTotals:
    rows = connection.execute(query, parameters, binary=True)
    return lambda: dict(rows.fetchall())
