"""The clocks of both servers and of this machine."""

from __future__ import annotations

import time
from datetime import datetime

from viewer_pipeline.checks import CheckResult
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.stores.named_queries import fetch_one

MAX_SECONDS = 2.0


def check_clocks(store: RedisStore, ledger: Ledger) -> CheckResult:
    """Read both clocks and compare them. Raises PostgresUnavailable, RedisUnavailable."""
    with ledger.connect(any_server=True) as connection:
        fetch_one(connection, "SELECT 1")  # connects
        sent = time.time()
        (postgres,) = fetch_one(connection, "SELECT clock_timestamp()")
        postgres_seconds_ahead = _seconds_ahead(postgres, sent)
    store.now()  # connects
    sent = time.time()
    return evaluate_clocks(postgres_seconds_ahead, _seconds_ahead(store.now(), sent))


def evaluate_clocks(postgres_seconds_ahead: float, redis_seconds_ahead: float) -> CheckResult:
    """Evaluate by how many seconds the clocks of the servers are ahead of this machine's. Pure."""
    clocks = {"this machine": 0.0, "PostgreSQL": postgres_seconds_ahead, "Redis": redis_seconds_ahead}
    apart = round(max(clocks.values()) - min(clocks.values()), 3)
    message = f"against this machine: PostgreSQL {postgres_seconds_ahead:+.3f} s, Redis {redis_seconds_ahead:+.3f} s"
    details = {"apart_seconds": apart}
    if apart > MAX_SECONDS:
        message = f"clocks are {apart} s apart; {message}"
        return CheckResult("clock", "degraded", message, details, "let NTP set the clocks of all machines")
    return CheckResult("clock", "healthy", f"clocks agree; {message}", details)


def _seconds_ahead(server: datetime, sent: float) -> float:
    """Return how far a server's clock is ahead of this machine's; the request left at `sent`, the reply came now."""
    return round(server.timestamp() - (sent + time.time()) / 2, 3)
