"""The privileges that a role of PostgreSQL and a user of Redis need, and no more; tests run everything with them."""

from __future__ import annotations

# Tables of the schema `viewer`. The ledger is added to and, once it is old, deleted from: a user of this role cannot
# rewrite what was counted.
TABLE_PRIVILEGES: dict[str, tuple[str, ...]] = {
    "alembic_version": ("SELECT",),
    "baseline_taken": ("SELECT", "INSERT", "UPDATE"),
    "daily_rollup": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "daily_views": ("SELECT", "INSERT", "DELETE"),
    "flush": ("SELECT", "INSERT", "DELETE"),
    "flush_batch": ("SELECT", "INSERT", "DELETE"),
    "held": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "held_decision": ("SELECT", "INSERT", "UPDATE"),
    "run_metrics": ("SELECT", "INSERT", "UPDATE"),
    "incident": ("SELECT", "INSERT", "UPDATE"),
    "ledger": ("SELECT",),
    "ledger_kept": ("SELECT", "UPDATE"),
    "parked": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "parked_cursor": ("SELECT", "UPDATE"),
    "pruned_flushes": ("SELECT", "INSERT", "UPDATE"),
    "rejected": ("SELECT", "INSERT", "DELETE"),
    "rejected_count": ("SELECT", "INSERT", "UPDATE"),
    "rejected_through": ("SELECT", "INSERT", "UPDATE"),
    "stream": ("SELECT", "INSERT", "UPDATE"),
    "vod_view_counts": ("SELECT", "INSERT", "UPDATE"),
}

# Commands of Redis, those that our scripts call included. `CONFIG`, `KEYS` and what empties or stops a server is not
# among them: `doctor` asks CONFIG, and does without an answer.
REDIS_COMMANDS: tuple[str, ...] = (
    "client|setname",
    "command|info",
    "dbsize",
    "decrby",
    "del",
    "eval",
    "evalsha",
    "get",
    "hdel",
    "hexists",
    "hget",
    "hkeys",
    "hmget",
    "hset",
    "hsetnx",
    "incrby",
    "info",
    "mget",
    "ping",
    "publish",
    "pubsub|numsub",
    "scan",
    "script|load",
    "subscribe",
    "time",
    "ttl",
    "type",
    "unsubscribe",
    "zadd",
    "zcard",
    "zcount",
    "zrange",
    "zrem",
)

# Besides those, of a Redis in cluster mode.
CLUSTER_COMMANDS: tuple[str, ...] = (
    "asking",
    "cluster|info",
    "cluster|myid",  # of the worker, also in its scripts
    "cluster|nodes",
    "cluster|slots",
    "hgetall",
    "zscore",
)
