"""Incidents: what a run found that a person must look at. They stay open until somebody acknowledges them."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, NamedTuple

import psycopg

from viewer_pipeline.flush.findings import Findings
from viewer_pipeline.stores.queries import named_queries

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
    views: int  # that it is about, as far as that is known


def record_incidents(connection: psycopg.Connection, findings: Findings, run_id: str) -> None:
    """Open an incident for each kind that a run has found, or add to the one that is open; tell nothing twice."""
    for kind, message, views in _found(findings):
        new = views - findings.told.get(kind, 0)
        if kind not in findings.told or new:
            connection.execute(SQL["open_incident"], {"kind": kind, "message": message, "run_id": run_id, "views": new})
            findings.told[kind] = views


def open_incidents(connection: psycopg.Connection) -> list[Incident]:
    """Read what nobody has acknowledged yet, the latest first."""
    return [
        Incident(kind, message, run_id, first_seen, last_seen, occasions, int(views))
        for kind, message, run_id, first_seen, last_seen, occasions, views in connection.execute(SQL["open_incidents"])
    ]


def acknowledge(connection: psycopg.Connection, kinds: list[Kind]) -> int:
    """Close the open incidents of these kinds; return how many there were."""
    return connection.execute(SQL["acknowledge_incidents"], {"kinds": list(kinds)}).rowcount


def _found(findings: Findings) -> list[tuple[Kind, str, int]]:
    found: list[tuple[Kind, str, int]] = []
    if findings.postgres_was_rolled_back:
        found.append(("postgres_rolled_back", "the marker in Redis was ahead of the ledger", 0))
    if findings.redis_was_emptied or findings.passed_over:
        message = "Redis had no marker, or one of another origin, although the ledger has flushes"
        found.append(("redis_emptied", message, findings.passed_over))
    if findings.drift:
        message = f"counters held fewer views than were read from them, e.g. {', '.join(findings.drifted[:5])}"
        found.append(("drift", message, findings.drift))
    return found
