"""What this set-up guarantees under each kind of fault, derived from the checks of the doctor. Pure.

docs/guarantees.md has the conditions in general; this is what the readings of one installation make of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from viewer_pipeline.checks import CheckResult
from viewer_pipeline.command_to_type import command_to_type
from viewer_pipeline.flush.ledger_identity import UNKNOWN
from viewer_pipeline.monitoring.health_rules import INFO
from viewer_pipeline.settings import Settings
from viewer_pipeline.text_formatting import pluralize

Holds = Literal["exact", "not exact", "unknown"]
HOLDS: tuple[Holds, ...] = ("exact", "not exact", "unknown")

UNREAD = "the check {name} could not read it"
MANAGED = f"the documentation of the service; see `{command_to_type('docs managed-services')}`"


@dataclass(frozen=True)
class FaultGuarantee:
    """Whether every view is in the totals once after a fault of this kind.

    Attributes:
        name: for programs.
        fault: what happens, for people.
        holds: `exact`; `not exact`: the reason states what is lost; `unknown`: it could not be read.
        reason: which reading makes it so. Without a colon, as one is between the fault and it.
        remedy: the setting that would change it; empty where there is none, or nothing to change.

    """

    name: str
    fault: str
    holds: Holds
    reason: str
    remedy: str = ""

    def to_dict(self) -> dict[str, str]:
        """Return it as JSON has it, below its name."""
        return {"holds": self.holds, "fault": self.fault, "reason": self.reason, "remedy": self.remedy}


def guarantee_to_dict(guarantee: Iterable[FaultGuarantee]) -> dict[str, dict[str, str]]:
    """Return it by name, as JSON has it."""
    return {fault.name: fault.to_dict() for fault in guarantee}


def derive_guarantee(results: Iterable[CheckResult], settings: Settings) -> list[FaultGuarantee]:
    """Derive the guarantee from results of the doctor: those whose server did not answer leave it unknown."""
    details = {result.name: result.details for result in results}
    redis, durability = details.get("redis_persistence", {}), details.get("redis_durability", {})
    postgres = details.get("postgres_durability", {})
    return [
        FaultGuarantee(
            "runs",
            "a run or a process of Dagster dies, hangs or runs twice; a reply is lost, also that of a COMMIT",
            "exact",
            "ledger and marker decide it, whatever the servers' settings are",
        ),
        _of_worker(details.get("subscriber", {}), settings),
        _of_full_memory(details.get("redis_memory", {}), details.get("expiring_counters", {})),
        _of_redis_restart(redis),
        _of_redis_crash(redis, settings),
        *_of_redis_failover(durability, settings),
        _of_postgres_crash(postgres),
        _of_postgres_failover(postgres, details.get("timeline", {}).get("timeline"), settings),
        *_of_target(settings),
        _of_older_copies(settings),
    ]


def _of_older_copies(settings: Settings) -> FaultGuarantee:
    fault = "Redis loses all its data, or one of the servers is restored from a backup"
    lost = "what the copy lacks is lost, and reported as an incident"
    if settings.redis_without_marker == "hold":
        return FaultGuarantee("older_copies", fault, "not exact", f"{lost}; nothing counts twice")
    twice = f"{lost}; with REDIS_WITHOUT_MARKER=count, views in a copy of Redis without its marker count twice"
    return FaultGuarantee("older_copies", fault, "not exact", twice, "REDIS_WITHOUT_MARKER=hold")


def _of_worker(subscriber: dict[str, Any], settings: Settings) -> FaultGuarantee:
    name, fault = "worker", "a worker dies or freezes"
    if settings.pubsub_mode == "announce":
        reason = "with PUBSUB_MODE=announce, producers count in Redis, so a lost message only delays a view"
        return FaultGuarantee(name, fault, "exact", reason)
    workers = subscriber.get("workers")
    if workers is None:
        return _unread(name, fault, "subscriber")
    if workers > 1:
        reason = f"{workers} workers receive every message, and another one takes over within 10 s"
        return FaultGuarantee(name, fault, "exact", reason)
    lost = "messages in its memory, and those published until one is back, are lost" if workers else "messages are lost"
    reason = f"with PUBSUB_MODE=increment and {pluralize(workers, 'worker')}, {lost}; counters raised by INCR are not"
    return FaultGuarantee(name, fault, "not exact", reason, "a second worker, or INCR with PUBSUB_MODE=announce")


def _of_full_memory(memory: dict[str, Any], counters: dict[str, Any]) -> FaultGuarantee:
    name, fault = "redis_memory", "Redis reaches its maxmemory"
    policy = memory.get("maxmemory_policy")
    if not policy:
        return _unread(name, fault, "redis_memory")
    if policy.startswith("allkeys-"):
        reason = f"maxmemory-policy {policy} evicts counters with their views"
        return FaultGuarantee(name, fault, "not exact", reason, "maxmemory-policy noeviction")
    if policy == "noeviction":
        return FaultGuarantee(
            name, fault, "exact", f"with maxmemory-policy {policy}, writes are refused, and producers get an error"
        )
    reason = f"maxmemory-policy {policy} evicts only keys that expire"
    if expiring := counters.get("expiring"):
        reason += f", as {pluralize(expiring, 'counter')} with an expiry"
        return FaultGuarantee(name, fault, "not exact", reason, "no expiry on counters, or maxmemory-policy noeviction")
    return FaultGuarantee(name, fault, "exact", f"{reason}, and counters have no expiry")


def _of_redis_restart(persistence: dict[str, Any]) -> FaultGuarantee:
    name, fault = "redis_restart", "Redis is stopped in good order and started again"
    if not persistence:
        return _unread(name, fault, "redis_persistence")
    if persistence["appendonly"]:
        return FaultGuarantee(name, fault, "exact", "appendonly yes")
    save = persistence["save"]
    if save:
        return FaultGuarantee(name, fault, "exact", f"Redis writes a snapshot when it stops (save {save})")
    if save is None:
        reason = "appendonly no, and CONFIG is refused, so it cannot be read whether Redis saves when it stops"
        return FaultGuarantee(name, fault, "unknown", reason, MANAGED)
    reason = "with appendonly no and no snapshots, pending views are lost"
    return FaultGuarantee(name, fault, "not exact", reason, "appendonly yes")


def _of_redis_crash(persistence: dict[str, Any], settings: Settings) -> FaultGuarantee:
    name, fault = "redis_crash", "Redis is killed, or its machine loses power"
    if not persistence:
        return _unread(name, fault, "redis_persistence")
    if not persistence["appendonly"]:
        if persistence["save"] is None:
            reason = "appendonly no, and CONFIG is refused, so what this service keeps otherwise cannot be read"
            return FaultGuarantee(name, fault, "unknown", reason, MANAGED)
        reason = "with appendonly no, views since the last snapshot are lost"
        return FaultGuarantee(name, fault, "not exact", reason, "appendonly yes, appendfsync always")
    fsync = persistence["appendfsync"]
    if fsync == "always":
        return FaultGuarantee(name, fault, "exact", "each write is on disk (appendonly yes, appendfsync always)")
    if fsync not in ("everysec", "no"):
        reason = "appendonly yes, and CONFIG is refused, so appendfsync is unknown"
        return FaultGuarantee(name, fault, "unknown", reason, MANAGED)
    period = "the last second" if fsync == "everysec" else "half a minute"
    reason = f"with appendfsync {fsync}, views of {period} are lost"
    if settings.redis_wait_aof:
        reason += ", but none that a flush has read (REDIS_WAIT_AOF=1)"
    return FaultGuarantee(name, fault, "not exact", reason, "appendfsync always")


def _of_redis_failover(durability: dict[str, Any], settings: Settings) -> list[FaultGuarantee]:
    """Evaluate what flushes have counted, then what is still in Redis alone: no setting here protects that."""
    name, fault = "redis_failover_counted", "another Redis takes over, for views that a flush has counted"
    pending, fault_of_pending = (
        "redis_failover_pending",
        "another Redis takes over, for views that no flush has counted",
    )
    if not durability.get("can_wait", False):
        return [_unread(name, fault, "redis_durability"), _unread(pending, fault_of_pending, "redis_durability")]
    replicas, waits = durability["connected_replicas"], settings.redis_wait_replicas
    if replicas is None:
        refused = "INFO is refused, so the number of replicas is unknown"
        return [
            FaultGuarantee(name, fault, "unknown", refused, INFO),
            FaultGuarantee(pending, fault_of_pending, "unknown", refused, INFO),
        ]
    if not replicas:
        empty = (
            "no replica is connected, so it starts empty, and nothing is subtracted there; once there is a replica, or"
            " if INFO does not show one that exists, set REDIS_WAIT_REPLICAS=1"
        )
        alone = "no replica is connected, so they are lost"
        return [
            FaultGuarantee(name, fault, "exact", empty),
            FaultGuarantee(pending, fault_of_pending, "not exact", alone, "a replica, and REDIS_WAIT_REPLICAS=1"),
        ]
    return [
        _of_counted_views(name, fault, replicas, waits),
        FaultGuarantee(
            pending,
            fault_of_pending,
            "not exact",
            "Redis replicates asynchronously, so those that the replica lacks are lost",
            "producers that WAIT, or a service that confirms a write once several machines have it",
        ),
    ]


def _of_counted_views(name: str, fault: str, replicas: int, waits: int) -> FaultGuarantee:
    connected = pluralize(replicas, "replica")
    if not waits:
        reason = (
            f"with REDIS_WAIT_REPLICAS=0 and {connected}, as many new views are lost as the replica lacks of those that"
            " a flush has read"
        )
        return FaultGuarantee(name, fault, "not exact", reason, f"REDIS_WAIT_REPLICAS={replicas}")
    reason = f"with REDIS_WAIT_REPLICAS={waits} and {connected}, a flush counts only what they have acknowledged"
    if waits < replicas:
        reason += "; one that has not must not take over"
    return FaultGuarantee(name, fault, "exact", reason)


def _of_postgres_crash(durability: dict[str, Any]) -> FaultGuarantee:
    name, fault = "postgres_crash", "PostgreSQL is killed, or its machine loses power"
    if not durability:
        return _unread(name, fault, "postgres_durability")
    for setting in ("fsync", "full_page_writes"):
        if not durability[setting]:
            reason = f"{setting} is off, so the database may be destroyed"
            return FaultGuarantee(name, fault, "not exact", reason, f"{setting} = on")
    reason = "fsync and full_page_writes are on; commits of the pipeline wait for the disk"
    return FaultGuarantee(name, fault, "exact", reason)


def _of_postgres_failover(durability: dict[str, Any], timeline: str | None, settings: Settings) -> FaultGuarantee:
    name, fault = "postgres_failover", "the machine of PostgreSQL is lost, and a standby takes over"
    if not durability.get("can_wait", False):
        return _unread(name, fault, "postgres_durability")
    commit, names = durability["synchronous_commit"], durability["synchronous_standby_names"]
    lost = "flushes that it lacks are lost"
    if timeline in (None, UNKNOWN):
        lost += ", and views of one that is being settled may count twice (the check timeline)"
    if waits := settings.postgres_wait_standbys:
        connected = pluralize(durability["standbys"], "standby")
        reason = f"with POSTGRES_WAIT_STANDBYS={waits} and {connected}, what they have not confirmed is still in Redis"
        if waits < durability["standbys"]:
            reason += "; the one with the most WAL must take over"
        return FaultGuarantee(name, fault, "exact", reason)
    if names and commit == "local":
        reason = f"with synchronous_commit = local, commits do not wait for the standby, so {lost}"
        return FaultGuarantee(name, fault, "not exact", reason, "synchronous_commit = on")
    if names:
        reason = f"a standby has every commit (synchronous_standby_names = {names}, synchronous_commit = {commit})"
        return FaultGuarantee(name, fault, "exact", reason)
    if standbys := durability["standbys"]:
        reason = f"with {pluralize(standbys, 'standby')} and no synchronous_standby_names, {lost}"
        return FaultGuarantee(name, fault, "not exact", reason, "POSTGRES_WAIT_STANDBYS, or synchronous_standby_names")
    reason = "no standby is connected; whether this service replicates the disk cannot be read"
    return FaultGuarantee(name, fault, "unknown", reason, f"synchronous_standby_names with a standby; or {MANAGED}")


def _of_target(settings: Settings) -> Iterator[FaultGuarantee]:
    if settings.target_table is None:
        return
    name, fault = "target", f"a row of {settings.target_table} is missing, locked, or refuses its views"
    if settings.parked_retention_days is None:
        yield FaultGuarantee(name, fault, "exact", "its views are parked, and counted once the row takes them")
        return
    reason = f"its views are parked, and dropped after PARKED_RETENTION_DAYS={settings.parked_retention_days} if no"
    yield FaultGuarantee(name, fault, "not exact", f"{reason} row appears", "no PARKED_RETENTION_DAYS")


def _unread(name: str, fault: str, check: str) -> FaultGuarantee:
    return FaultGuarantee(name, fault, "unknown", UNREAD.format(name=check), f"see the check {check}")
