"""Whether a clone or restored dump of this database would be noticed; the other pipelines of this Redis."""

from __future__ import annotations

from viewer_pipeline.checks import CheckResult
from viewer_pipeline.command_to_type import command_to_type
from viewer_pipeline.flush.counter_reader import Pipeline
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.ledger_identity import UNKNOWN, LedgerIdentity
from viewer_pipeline.flush.redis_store import RedisStore

MAX_NAMED = 5
GRANT = f"GRANT EXECUTE ON FUNCTION pg_control_system() TO the role, then run `{command_to_type('adopt')}`"


def check_clone_detection(store: RedisStore, ledger: Ledger) -> list[CheckResult]:
    """Read both servers. Raises RedisUnavailable, PostgresUnavailable, SchemaMissing."""
    with ledger.connect(any_server=True) as connection:
        identity = ledger.identity(connection)
    return [evaluate_clone_detection(store.prefix_text, identity, store.known_pipelines())]


def evaluate_clone_detection(prefix: str, identity: LedgerIdentity, known: list[Pipeline]) -> CheckResult:
    """Whether a copy of this database could be distinguished from it. `known`: all pipelines of this Redis. Pure."""
    others = [pipeline for pipeline in known if pipeline.prefix != prefix]
    details = {
        "ledger_id": identity.ledger_id,
        "system": identity.system,
        "database_oid": identity.database_oid,
        "other_pipelines": len(others),
    }
    recorded = next((pipeline.ledger for pipeline in known if pipeline.prefix == prefix), "")
    if identity.system == UNKNOWN:
        message = (
            "this role may not read PostgreSQL's system identifier: a dump that is restored on another server, into a"
            " database with the same oid, would be taken for the original"
        )
        return CheckResult("clone_detection", "degraded", message, details, GRANT)
    if f"/{UNKNOWN}/" in recorded:
        message = "Redis knows this ledger without PostgreSQL's system identifier, which this role may read by now"
        return CheckResult("clone_detection", "degraded", message, details, f"`{command_to_type('adopt')}` records it")
    message = f"ledger {identity.ledger_id} of {identity.place}, on system {identity.system}"
    if others:
        names = "; ".join(f"{other.prefix}* of {other.place}" for other in others[:MAX_NAMED])
        message += f"; {len(others)} other pipelines use this Redis: {names}"
    return CheckResult("clone_detection", "healthy", message, details)
