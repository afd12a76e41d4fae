"""What both servers have used so far: write-ahead log and CPU time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, Self, TypeVar

from viewer_pipeline.bench.bench_servers import BenchServers
from viewer_pipeline.bench.process_tree import sum_cpu_seconds
from viewer_pipeline.stores.named_queries import fetch_one, named_queries

P = ParamSpec("P")
T = TypeVar("T")

SQL = named_queries(__name__)

# Of the process with all its threads, and of children that have ended, as those that rewrite the append-only file.
REDIS_CPU = ("used_cpu_sys", "used_cpu_user", "used_cpu_sys_children", "used_cpu_user_children")


@dataclass(frozen=True)
class ServerUsage:
    """Totals since the start of the servers, or the differences between two times."""

    wal_bytes: int
    postgres_cpu_seconds: float  # of all its processes, those in the background too; 0 where there is no /proc
    redis_cpu_seconds: float

    @classmethod
    def read(cls, servers: BenchServers) -> Self:
        """Return the totals, once the sessions of others have ended."""
        while fetch_one(servers.connection, SQL["count_other_sessions"])[0]:
            continue
        cpu: Any = servers.client.info("cpu")
        return cls(
            int(fetch_one(servers.connection, SQL["read_wal_bytes"])[0]),
            sum_cpu_seconds(servers.postgres_pid),
            sum(cpu[name] for name in REDIS_CPU),
        )

    def since(self, earlier: ServerUsage) -> ServerUsage:
        """Return the differences."""
        return ServerUsage(
            self.wal_bytes - earlier.wal_bytes,
            self.postgres_cpu_seconds - earlier.postgres_cpu_seconds,
            self.redis_cpu_seconds - earlier.redis_cpu_seconds,
        )


def measure_usage(
    servers: BenchServers, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> tuple[T, ServerUsage]:
    """Return the result of a function, and what the servers have used meanwhile."""
    before = ServerUsage.read(servers)
    result = function(*args, **kwargs)
    return result, ServerUsage.read(servers).since(before)


def read_bytes_per_counter(servers: BenchServers) -> tuple[float, float]:
    """Return how much the ledger takes for each counter of its flushes, and the totals for each VOD, in bytes."""
    ledger_bytes, totals_bytes = fetch_one(servers.connection, SQL["read_bytes_per_counter"])
    return float(ledger_bytes), float(totals_bytes)
