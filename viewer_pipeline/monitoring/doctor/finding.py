"""Findings: what the doctor found, why it matters, what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from viewer_pipeline.redaction import without_password

State = Literal["ok", "note", "warning", "problem"]
ORDER: tuple[State, ...] = ("ok", "note", "warning", "problem")

# Group -> name of a finding -> why it matters. The order is that of the report; docs/how-to/doctor.md has every name.
WHY: dict[str, dict[str, str]] = {
    "settings": {
        "settings": "settings that do not go together make a part of the work vain",
    },
    "PostgreSQL": {
        "postgres": "without it nothing is persisted",
        "postgres_version": "other versions are not tested",
        "postgres_latency": "a flush makes a dozen round trips, and holds row locks for some of them",
        "postgres_encoding": "ids are Unicode; another encoding cannot hold all of them",
        "postgres_writes": "flushes are committed on a primary that takes writes",
        "postgres_durability": "a commit that PostgreSQL loses in a crash is subtracted from Redis by then: lost views",
        "postgres_schema": "ledger and totals are in the schema `viewer`",
        "postgres_privileges": "a flush fails at the first right that its role lacks",
        "clock": "ages, leases and `/health` compare the clocks of servers and workers; no count depends on them",
    },
    "target table": {
        "target": "a flush adds the views to it in its own transaction, and fails where it cannot",
        "target_room": "views that the type of the column has no room for are parked, and do not show",
        "parked": "parked views are kept, and do not show in the table",
    },
    "Redis": {
        "redis": "without it no view is counted",
        "redis_version": "other versions are not tested",
        "redis_latency": "draining and settling are round trips",
        "redis_cluster": "a script may touch one hash slot only, so counters cannot be settled in a cluster",
        "redis_writes": "a Redis that refuses writes takes no views, and no flush is begun",
        "redis_eviction": "an evicted counter is a lost count",
        "redis_persistence": "pending views are in Redis alone; what it loses in a crash is lost",
        "redis_durability": "REDIS_WAIT_* are promises that this Redis must be able to keep",
        "pipeline": "counters that two databases settle, or two pipelines count, are lost or counted twice",
        "ledger_identity": "it distinguishes a database that was restored or cloned from the original",
    },
    "counters": {
        "keyspace": "a sweep scans all keys, counters or not",
        "expiring_counters": "a counter that expires takes its views along",
        "counter_values": "what is no count is never flushed; it is recorded in viewer.rejected",
    },
    "producers": {
        "producers": "with the wrong PUBSUB_MODE every view counts twice, or not at all",
        "shared_channel": "each pipeline that counts the messages of a channel counts every one of them",
        "listener": "what is published while nobody listens reaches nobody",
    },
    "Dagster": {
        "dagster_storage": "runs and their history are in it",
        "dagster_daemons": "they launch the flushes",
        "sensor": "it flushes what was announced",
        "sweep": "it flushes what nobody announced",
        "flush_runs": "they persist the views",
    },
}
REASONS = {name: why for group in WHY.values() for name, why in group.items()}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `problem`: must be fixed; `warning`: should be; `note`: good to know."""

    name: str
    state: State
    what: str
    do: str = ""
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def why(self) -> str:
        """Why it matters."""
        return REASONS[self.name]

    def shown(self) -> dict[str, Any]:
        """Return it as JSON shows it; whatever errors it cites, without a password."""
        what, do = without_password(self.what), without_password(self.do)
        return {"name": self.name, "state": self.state, "what": what, "why": self.why, "do": do, **self.figures}


def verdict(findings: Sequence[Finding]) -> State:
    """Return the state of the whole."""
    return max((finding.state for finding in findings), key=ORDER.index, default="ok")
