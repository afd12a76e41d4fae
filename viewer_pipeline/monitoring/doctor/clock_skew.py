"""The clocks of both servers and of this machine, and timestamps that a clock left in the future."""

from __future__ import annotations

import time
from datetime import datetime

from viewer_pipeline.checks import CheckResult
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.monitoring.dagster_tables import count_ticks_after
from viewer_pipeline.monitoring.health_rules import CLOCKS
from viewer_pipeline.settings import Settings
from viewer_pipeline.stores.named_queries import fetch_one, named_queries
from viewer_pipeline.text_formatting import pluralize
from viewer_pipeline.time_formatting import CLOCK_WAS_SET_BACK, FUTURE_SECONDS

SQL = named_queries(__name__)

MAX_SECONDS = 2.0


def check_clocks(settings: Settings, store: RedisStore, ledger: Ledger) -> CheckResult:
    """Compare both clocks with this machine's; count timestamps in the future in the ledger and in Dagster's tables.

    Raises PostgresUnavailable, PostgresFailed, RedisUnavailable.
    """
    with ledger.connect(any_server=True) as connection:
        (future_flushes,) = fetch_one(connection, SQL["future_flushes"], seconds=FUTURE_SECONDS)
        sent = time.time()
        (postgres,) = fetch_one(connection, "SELECT clock_timestamp()")
        postgres_seconds_ahead = _seconds_ahead(postgres, sent)
    store.now()  # connects
    sent = time.time()
    redis_seconds_ahead = _seconds_ahead(store.now(), sent)
    future_ticks = count_ticks_after(settings, time.time() + FUTURE_SECONDS)
    return evaluate_clocks(postgres_seconds_ahead, redis_seconds_ahead, future_flushes, future_ticks)


def evaluate_clocks(
    postgres_seconds_ahead: float, redis_seconds_ahead: float, future_flushes: int = 0, future_ticks: int = 0
) -> CheckResult:
    """Evaluate by how many seconds the servers' clocks are ahead, and numbers of timestamps in the future. Pure."""
    clocks = {"this machine": 0.0, "PostgreSQL": postgres_seconds_ahead, "Redis": redis_seconds_ahead}
    apart = round(max(clocks.values()) - min(clocks.values()), 3)
    message = f"against this machine: PostgreSQL {postgres_seconds_ahead:+.3f} s, Redis {redis_seconds_ahead:+.3f} s"
    details = {"apart_seconds": apart, "future_flushes": future_flushes, "future_ticks": future_ticks}
    message = f"clocks are {apart} s apart; {message}" if apart > MAX_SECONDS else f"clocks agree; {message}"
    if future_flushes or future_ticks:
        flushes, ticks = pluralize(future_flushes, "flush"), pluralize(future_ticks, "tick")
        future = f"{flushes} of the ledger and {ticks} of Dagster in the future"
        return CheckResult("clock", "unhealthy", f"{future}: {CLOCK_WAS_SET_BACK}; {message}", details, CLOCKS)
    if apart > MAX_SECONDS:
        return CheckResult("clock", "degraded", message, details, CLOCKS)
    return CheckResult("clock", "healthy", message, details)


def _seconds_ahead(server: datetime, sent: float) -> float:
    """Return how far a server's clock is ahead of this machine's; the request left at `sent`, the reply came now."""
    return round(server.timestamp() - (sent + time.time()) / 2, 3)
