"""Whether a PostgreSQL that lost flushes in a failover would be noticed while a run is at work."""

from __future__ import annotations

from viewer_pipeline.checks import CheckResult
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.ledger_identity import UNKNOWN

FUNCTIONS = "pg_walfile_name(pg_lsn), pg_current_wal_insert_lsn(), pg_postmaster_start_time()"
REMEDY = f"GRANT EXECUTE ON FUNCTION {FUNCTIONS} TO the role, if this service allows it; else a synchronous standby"


def check_timeline(ledger: Ledger) -> list[CheckResult]:
    """Read it. Raises PostgresUnavailable, PostgresFailed, SchemaMissing."""
    with ledger.connect(any_server=True) as connection:
        return [evaluate_timeline(ledger.last_flush(connection).timeline)]


def evaluate_timeline(timeline: str) -> CheckResult:
    """Evaluate what the function viewer.timeline() returned. Pure."""
    details = {"timeline": timeline}
    if timeline == UNKNOWN:
        message = (
            "PostgreSQL does not tell its timeline: a flush that it loses in a failover before its run has settled it"
            " may pass for another one, whose views then count twice"
        )
        return CheckResult("timeline", "degraded", message, details, REMEDY)
    return CheckResult("timeline", "healthy", f"timeline {timeline.partition('/')[0]}", details)
