"""Incidents: what a run detected and an operator must examine. Each stays open until it is acknowledged."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Literal, NamedTuple

import psycopg

from viewer_pipeline.flush.run_notes import MAX_NAMED_COUNTERS, RunNotes
from viewer_pipeline.stores.named_queries import named_queries

SQL = named_queries(__name__)

Kind = Literal["postgres_rolled_back", "redis_emptied", "drift"]
KINDS: tuple[Kind, ...] = ("postgres_rolled_back", "redis_emptied", "drift")


class Incident(NamedTuple):
    """One open incident: all occasions of its kind since the last one was acknowledged."""

    kind: Kind
    message: str  # of the last run that detected it
    run_id: str
    first_seen: datetime
    last_seen: datetime
    occasions: int
    views: int  # affected views, as far as known


def record_incidents(connection: psycopg.Connection, notes: RunNotes, run_id: str) -> None:
    """Open an incident for each kind in the notes, or add to the open one. Call it once for each step's notes."""
    for kind, message, views in _incidents(notes):
        parameters = {"kind": kind, "message": message, "run_id": run_id, "views": views}
        connection.execute(SQL["open_incident"], parameters)


def open_incidents(connection: psycopg.Connection) -> list[Incident]:
    """Return the incidents that nobody has acknowledged, latest first."""
    return [Incident(*row) for row in connection.execute(SQL["open_incidents"])]


def acknowledge(connection: psycopg.Connection, kinds: list[Kind]) -> int:
    """Close the open incidents of these kinds; return their number."""
    return connection.execute(SQL["acknowledge_incidents"], {"kinds": list(kinds)}).rowcount


def _incidents(notes: RunNotes) -> Iterator[tuple[Kind, str, int]]:
    if notes.postgres_rolled_back:
        yield "postgres_rolled_back", "the marker in Redis was ahead of the ledger", 0
    if notes.redis_emptied or notes.skipped_views:
        message = "Redis had no marker, or one of another origin, although the ledger has flushes"
        yield "redis_emptied", message, notes.skipped_views
    if notes.drift:
        names = ", ".join(notes.drifted[:MAX_NAMED_COUNTERS])
        yield "drift", f"counters held fewer views than were read from them, e.g. {names}", notes.drift
