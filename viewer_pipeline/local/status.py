"""What is pending, settled, parked and rejected, for a terminal."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from viewer_pipeline.counting.ledger import Ledger, last_flush, recent_flushes, sums
from viewer_pipeline.counting.redis_client import connect
from viewer_pipeline.counting.redis_store import RedisStore
from viewer_pipeline.settings import Settings

FLUSHES = 5


def read_status(settings: Settings) -> dict[str, Any]:
    """Read both servers. Raises RedisUnavailable, PostgresUnavailable, SchemaMissing."""
    ledger = Ledger(settings.require_database_url())
    url = settings.require_redis_url()
    with connect(url) as client, ledger.connect() as connection:
        store = RedisStore(client, url, settings.counter_prefix)
        pending, oldest = store.pending()
        marker = store.marker()
        last = last_flush(connection)
        flushes = recent_flushes(connection, FLUSHES)
        persisted = sums(connection)
    age = round((datetime.now(UTC) - oldest).total_seconds(), 1) if oldest else None
    return {
        "pending_vods": pending,
        "oldest_pending_seconds": age,
        "marker": marker._asdict() if marker else None,
        "last_flush": last.seq,
        "settled": marker is not None and (marker.seq, marker.batch) >= (last.seq, last.batches),
        **persisted._asdict(),
        "flushes": [flush._asdict() | {"views": int(flush.views)} for flush in flushes],
    }


def show_status(found: dict[str, Any]) -> None:
    """Print it."""
    console = Console()
    age = f", the oldest announced {found['oldest_pending_seconds']} s ago" if found["pending_vods"] else ""
    console.print(f"pending    {found['pending_vods']} announced VODs{age}")
    console.print(f"persisted  {found['persisted']} views of {found['vods']} VODs")
    console.print(f"parked     {found['parked']} views of {found['parked_vods']} VODs")
    console.print(f"rejected   {found['rejected']} inputs (table viewer.rejected)")
    marker = found["marker"]
    at = f"flush {marker['seq']}, batch {marker['batch']} of {marker['of']}" if marker else "none"
    unsettled = "" if found["settled"] else " (not settled)"
    console.print(f"marker     {at}; the ledger's last flush is {found['last_flush']}{unsettled}")
    table = Table("flush", "mode", "taken at (UTC)", "counters", "views", "batches", title="last flushes")
    for flush in found["flushes"]:
        taken = flush["taken_at"].astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
        table.add_row(
            *map(str, (flush["seq"], flush["mode"], taken, flush["counters"], flush["views"], flush["batches"]))
        )
    console.print(table if found["flushes"] else "no flush yet")
