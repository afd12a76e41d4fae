"""Whether this database may settle these counters, who else uses this Redis, and what identity the ledger has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from viewer_pipeline.errors import SchemaMissing
from viewer_pipeline.flush.identity import UNKNOWN, LedgerIdentity
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.ownership import find_refusal
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.flush.registry import Pipeline
from viewer_pipeline.monitoring.doctor.finding import Finding

SHOWN = 5
GRANT = "GRANT EXECUTE ON FUNCTION pg_control_system() TO"


class PipelineReading(NamedTuple):
    """All of it, at one moment. `refused`: why a run would be refused, empty if it would not."""

    prefix: str
    identity: LedgerIdentity
    refused: str
    known: list[Pipeline]


def examine_pipeline(store: RedisStore, ledger: Ledger) -> Iterator[Finding]:
    """Read both servers, and judge. Raises RedisUnavailable, PostgresUnavailable; says nothing without a schema."""
    try:
        with ledger.connect(any_server=True) as connection:
            identity = ledger.identity(connection)
            refused = str(find_refusal(store, ledger, connection) or "")
    except SchemaMissing:  # which is a finding of its own
        return
    yield from judge_pipeline(PipelineReading(store.prefix_text, identity, refused, store.known_pipelines()))


def judge_pipeline(reading: PipelineReading) -> Iterator[Finding]:
    """Judge it. Pure."""
    yield _pipeline(reading)
    yield _identity(reading)


def _pipeline(reading: PipelineReading) -> Finding:
    others = [pipeline for pipeline in reading.known if pipeline.prefix != reading.prefix]
    figures = {"other_pipelines": len(others)}
    if reading.refused:
        do = "use a prefix and a Redis of this database's own, or see docs/how-to/clones.md and shared-redis.md"
        return Finding("pipeline", "problem", reading.refused, do, figures)
    names = "; ".join(f"{other.prefix}* of {other.place}" for other in others[:SHOWN])
    beside = f"; beside it {len(others)} other pipelines: {names}" if others else ""
    return Finding("pipeline", "ok", f"{reading.prefix}* belongs to {reading.identity.place}{beside}", figures=figures)


def _identity(reading: PipelineReading) -> Finding:
    identity = reading.identity
    figures = {"ledger_id": identity.ledger_id, "system": identity.system, "database_oid": identity.database_oid}
    recorded = next((one.ledger for one in reading.known if one.prefix == reading.prefix), "")
    if identity.system == UNKNOWN:
        what = (
            "this role may not read PostgreSQL's system identifier: a dump that is restored on another server, into a"
            " database with the same oid, would be taken for the original"
        )
        return Finding("ledger_identity", "warning", what, f"{GRANT} the role, then `viewer-pipeline adopt`", figures)
    if f"/{UNKNOWN}/" in recorded:
        what = "Redis knows this ledger without PostgreSQL's system identifier, which can be read by now"
        return Finding("ledger_identity", "warning", what, "`viewer-pipeline adopt` records it", figures)
    return Finding("ledger_identity", "ok", f"ledger {identity.ledger_id} on system {identity.system}", figures=figures)
