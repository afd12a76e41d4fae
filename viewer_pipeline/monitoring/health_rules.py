"""The rules of /health, status and the doctor: what a measurement means, and what to do about it. Pure."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any, NamedTuple

from viewer_pipeline.checks import CheckResult, Status
from viewer_pipeline.command_to_type import command_to_type
from viewer_pipeline.flush.incidents import Incident, Kind
from viewer_pipeline.flush.ledger_row_types import HeldSummary, LastFlush
from viewer_pipeline.flush.marker import Marker
from viewer_pipeline.flush.recorded_settings import find_lost_settings, remedy_of_lost_settings
from viewer_pipeline.flush.rejected_counts import RejectedSummary, describe_rejected
from viewer_pipeline.history.timezone_change import TimezoneChange
from viewer_pipeline.ingest.subscriber_stats import SubscriberStats
from viewer_pipeline.settings import Settings
from viewer_pipeline.stores.postgres import IN_RECOVERY
from viewer_pipeline.streams import SLOTS, format_seq
from viewer_pipeline.text_formatting import escape_invisible, pluralize, views_of_vods
from viewer_pipeline.time_formatting import format_age, format_duration, seconds_since, tolerate_clock_skew

REVISION = "0014"  # of the schema, at least; a test compares it with the migrations
INCIDENTS: dict[Kind, str] = {
    "postgres_rolled_back": "PostgreSQL was rolled back, e.g. restored from a backup",
    "redis_emptied": "Redis was emptied or replaced",
    "drift": "counters were lowered by another program, or fell back",
}
INCIDENT_TOPICS: dict[Kind, str] = {  # of `viewer-pipeline docs`
    "postgres_rolled_back": "postgresql-rolled-back",
    "redis_emptied": "redis-emptied",
    "drift": "redis-emptied",
}
LOST_SETTINGS = {  # what the default does instead
    "PUBSUB_MODE": "messages are added to counters that producers raise themselves, so views count twice",
    "PUBSUB_CHANNEL": "messages of another channel are received",
    "FLUSH_STREAMS": "VODs are announced where no stream looks, and only sweeps find them",
    "TARGET_TABLE": "views are not added to this table any more",
    "REDIS_WAIT_REPLICAS": "a failover of Redis may bring counted views back",
    "POSTGRES_WAIT_STANDBYS": "a failover of PostgreSQL may lose flushes that are settled",
}
RESTART_SECONDS = 60.0  # how long a restart is reported, which also reveals a server that restarts again and again
UNSETTLED_SECONDS = 60.0  # settling follows a commit within a second; if a run dies, the next one settles
REJECTED_SECONDS = 3600.0  # how long rejected input is reported
FULL_SHARE = 0.8  # of maxmemory

PRIMARY = (
    "let REDIS_URL lead to the primary, or name its Sentinels; see"
    f" `{command_to_type('docs failover-behind-one-address')}`"
)
POSTGRES_PRIMARY = "name the primary in DATABASE_URL"
READ_WRITE = "ALTER ROLE or ALTER DATABASE … SET default_transaction_read_only = off"
WRITES = "the message has the reason: check memory, disk, replicas and the log of Redis"
NODE = "start the node, or promote its replica (CLUSTER FAILOVER); see `redis-cli --cluster check`"
EVICTION = "CONFIG SET maxmemory-policy noeviction, and the same in the configuration file"
INFO = f"allow this user the command INFO; `{command_to_type('grants')}` prints all rights it needs"
MIGRATE = f"run `{command_to_type('migrate')}`"
REJECTED = f"find the producer, see `{command_to_type('docs producers')}`; this report ends an hour after the last one"
HELD_CAUSE = "Redis had lost its marker, or fell back to an old copy"
HELD = (
    f"run `{command_to_type('held count')}` if Redis had been emptied, `{command_to_type('held drop')}` if"
    f" it was restored from an old copy; see `{command_to_type('docs held-views')}`"
)
REASONS = f"`{command_to_type('status')}` shows the reasons"
RESTARTED = "none if it was meant to; if it restarts again and again, its log has the reason"
CLOCKS = f"set the clocks of all machines, e.g. by NTP; see `{command_to_type('docs clock-changes')}`"


class WriteRefusal(NamedTuple):
    """The error of a write that changes nothing, and its remedy if it has one."""

    message: str
    remedy: str


def evaluate_redis(info: dict[str, Any], round_trip_ms: float, refusal: WriteRefusal | None) -> CheckResult:
    """Whether flushes can settle: Redis is a primary and accepts writes."""
    details = {"round_trip_ms": round_trip_ms}
    if info.get("role") == "slave":
        message = f"Redis refuses writes: it is a replica of {info.get('master_host')}:{info.get('master_port')}"
        return CheckResult("redis", "unhealthy", message, details, PRIMARY)
    if refusal:
        return CheckResult("redis", "unhealthy", refusal.message, details, refusal.remedy or WRITES)
    return CheckResult("redis", "healthy", f"answers in {round_trip_ms} ms and accepts writes", details)


def evaluate_unreachable_node(error: str) -> CheckResult:
    """Return the result of a node of a cluster that does not answer: others flush their counters all the same."""
    message = f"does not answer ({error}); its counters wait until it does, or a replica was promoted"
    return CheckResult("redis", "unhealthy", message, {}, NODE)


def evaluate_slots(result: CheckResult, unserved: int) -> CheckResult:
    """Return the result, unless no node serves some slots of a cluster."""
    if not unserved:
        return result
    message = f"no node serves {unserved} of {SLOTS} slots of the cluster; their counters are out of reach"
    return CheckResult("redis", "unhealthy", message, {**result.details, "unserved_slots": unserved}, NODE)


def evaluate_redis_memory(info: dict[str, Any]) -> CheckResult:
    """Whether Redis may evict counters, or is about to refuse writes (rule R10)."""
    policy = str(info.get("maxmemory_policy", ""))
    used, limit = info.get("used_memory", 0), info.get("maxmemory", 0)
    details = {"maxmemory_policy": policy, "maxmemory": limit, "used_memory": used}
    if not policy:
        return CheckResult("redis_memory", "unknown", "maxmemory-policy is unknown: INFO is refused", remedy=INFO)
    if policy.startswith("allkeys-"):
        message = f"maxmemory-policy {policy} evicts counters when memory is full, and their views are lost"
        return CheckResult("redis_memory", "degraded", message, details, EVICTION)
    if policy.startswith("volatile-"):
        message = f"maxmemory-policy {policy} evicts only keys that expire, and counters do not expire"
        return CheckResult("redis_memory", "healthy", message, details)
    if limit and used >= FULL_SHARE * limit:
        message = f"{used / limit:.0%} of maxmemory is used; when it is full, Redis refuses writes"
        return CheckResult("redis_memory", "degraded", message, details, "raise maxmemory, or let other keys expire")
    return CheckResult("redis_memory", "healthy", f"maxmemory-policy {policy}: no counter is evicted", details)


def evaluate_postgres(refusal: str, revision: str, round_trip_ms: float) -> CheckResult:
    """Whether flushes can commit. `refusal`: why the server takes no writes; empty if it does.

    `revision`: of the schema `viewer`, empty where the schema is missing.
    """
    details = {"round_trip_ms": round_trip_ms}
    message, remedy = f"answers in {round_trip_ms} ms and accepts writes", ""
    status: Status = "healthy"
    if refusal:
        status, message = "unhealthy", f"PostgreSQL refuses writes: {refusal}"
        remedy = POSTGRES_PRIMARY if refusal == IN_RECOVERY else READ_WRITE
    elif not revision:
        status, message, remedy = "unhealthy", "the schema `viewer` is missing", MIGRATE
    elif revision < REVISION:
        message = f"the schema `viewer` is at revision {revision}, and {REVISION} is needed"
        status, remedy = "unhealthy", MIGRATE
    elif revision > REVISION:
        message += f"; the schema `viewer` is at revision {revision}, newer than {REVISION} of this program"
        remedy = "upgrade Viewer Pipeline on this machine"
    return CheckResult("postgres", status, message, details, remedy)


def degrade_if_restarted(
    result: CheckResult, server_uptime_seconds: float | None, process_uptime_seconds: float
) -> CheckResult:
    """Report for a while that a server restarted, although it is healthy again.

    A server that started just before this process did not restart: Redis reports whole seconds, rounded down.
    """
    if (
        result.status != "healthy"
        or server_uptime_seconds is None
        or server_uptime_seconds > min(RESTART_SECONDS, process_uptime_seconds - 1)
    ):
        return result
    message = f"{result.message}; restarted {format_duration(server_uptime_seconds)} ago"
    return replace(result, status="degraded", message=message, remedy=RESTARTED)


def evaluate_incidents(incidents: list[Incident]) -> CheckResult:
    """Whether an incident is open. A rollback of PostgreSQL is worse than a loss in Redis."""
    details = {"open": [incident.kind for incident in incidents]}
    if not incidents:
        return CheckResult("incidents", "healthy", "no incident is open", details)
    worse = any(each.kind == "postgres_rolled_back" or seconds_since(each.last_seen) < 0 for each in incidents)
    message = "; ".join(describe_incident(incident) for incident in incidents)
    pages = " and ".join(
        sorted({f"`{command_to_type(f'docs {INCIDENT_TOPICS[incident.kind]}')}`" for incident in incidents})
    )
    remedy = f"follow {pages}, then run `{command_to_type('acknowledge')}`"
    return CheckResult("incidents", "unhealthy" if worse else "degraded", message, details, remedy)


def describe_incident(incident: Incident) -> str:
    """Return one incident as a sentence."""
    views = f", {pluralize(incident.views, 'view')}" if incident.views else ""
    age = format_age(seconds_since(incident.last_seen))
    return f"{INCIDENTS[incident.kind]} {age} (run {incident.run_id[:8]}{views})"


def evaluate_held(held: HeldSummary, holds: bool) -> CheckResult:
    """Whether views wait for a decision. `holds`: a run that reads views now may hold them, until a sweep is done."""
    details = {"held_vods": held.vods, "held_views": held.views, "holds": holds}
    if held.age_seconds is None:
        message = "nothing is held"
        message += f"; {HELD_CAUSE}, and a sweep has not read all its counters yet" if holds else ""
        return CheckResult("held", "healthy", message, details)
    at_least = "at least " if held.is_lower_bound else ""
    message = (
        f"{at_least}{views_of_vods(held.views, held.vods)} may have been counted before, and are held:"
        f" {HELD_CAUSE}, {format_age(tolerate_clock_skew(held.age_seconds))}"
    )
    return CheckResult("held", "degraded", message, details, HELD)


def evaluate_subscriber(stats: SubscriberStats) -> CheckResult:
    """Whether this process, or another worker, receives what is published now."""
    now, last_message = time.monotonic(), stats.last_message_monotonic
    silent = None if last_message is None else now - last_message
    details = {
        "state": stats.state,
        "seconds_in_state": round(now - stats.since, 1),
        "seconds_since_message": None if silent is None else round(silent, 1),
        "views_in_memory": stats.in_memory,
    }
    if stats.refusal_reason:
        message = f"received views stay in memory: {stats.refusal_reason}"
        return CheckResult("subscriber", "unhealthy", message, details, "see the checks redis, postgres and marker")
    match stats.state:
        case "listening":
            last = "no message yet" if silent is None else f"last message {format_duration(silent)} ago"
            return CheckResult("subscriber", "healthy", f"listening; {last}", details)
        case "standby":
            message = "standing by: another worker folds, and this one takes over when that one ends"
            return CheckResult("subscriber", "healthy", message, details)
        case "reconnecting":
            reason = stats.reason or "the subscription was lost"
            message = f"reconnecting: {reason}; messages that are published now are missed"
            return CheckResult("subscriber", "unhealthy", message, details, "see the check redis")
        case _:
            return CheckResult("subscriber", "degraded", f"{stats.state}; not subscribed yet", details)


def evaluate_future_timestamp(
    name: str, subject: str, age_seconds: float, details: dict[str, Any], remedy: str = CLOCKS
) -> CheckResult | None:
    """Return the result of a check whose timestamp is in the future (a negative age), else None.

    `subject`: the timestamp, in words that "is 6 h in the future" can follow.
    """
    if age_seconds >= 0:
        return None
    return CheckResult(name, "unhealthy", f"{subject} is {format_age(age_seconds)}", details, remedy)


def evaluate_last_flush(last: int, age_seconds: float | None) -> CheckResult:
    """Whether the last flush was committed in the past. `age_seconds`: by PostgreSQL's clock, which recorded it."""
    details = {"last_flush": last, "seconds_since_flush": age_seconds}
    if age_seconds is None:
        return CheckResult("last_flush", "healthy", "no flush yet", details)
    future = evaluate_future_timestamp("last_flush", f"the commit of flush {format_seq(last)}", age_seconds, details)
    message = f"flush {format_seq(last)} was committed {format_age(age_seconds)}"
    return future or CheckResult("last_flush", "healthy", message, details)


def evaluate_rejected(rejected: RejectedSummary) -> CheckResult:
    """Whether no input was rejected lately."""
    last_seconds = None if rejected.last_seconds is None else round(tolerate_clock_skew(rejected.last_seconds), 1)
    details: dict[str, Any] = {"rejected_inputs": rejected.inputs, "seconds_since_last": last_seconds}
    if last_seconds is None:
        return CheckResult("rejected", "healthy", "no input was rejected yet", details)
    if future := evaluate_future_timestamp("rejected", "the last rejected input", last_seconds, details):
        return future
    message = f"{describe_rejected(rejected.counts)}; the last one {format_age(last_seconds)}"
    if last_seconds < REJECTED_SECONDS:
        examples = [f"{escape_invisible(each.subject)} ({each.reason})" for each in rejected.examples]
        message += f"; for example {', '.join(examples)}" if examples else ""
        return CheckResult("rejected", "degraded", message, details, REJECTED)
    return CheckResult("rejected", "healthy", message, details)


def evaluate_freshness(
    pending_vods: int, oldest_pending_seconds: float | None, limit_seconds: float, oldest_in: str = ""
) -> CheckResult:
    """Whether the oldest pending view is younger than the limit; its age is None where nothing announced is pending.

    `oldest_in`: the stream that it is pending in, where there are several.
    """
    age = oldest_pending_seconds
    details = {"pending_vods": pending_vods, "oldest_pending_seconds": age, "limit_seconds": limit_seconds}
    if age is None:
        return CheckResult("freshness", "healthy", "nothing announced is pending", details)
    if future := evaluate_future_timestamp("freshness", "the oldest announcement", age, details):
        return future
    where = f" in {oldest_in}" if oldest_in else ""
    message = f"{pluralize(pending_vods, 'VOD')} pending, the oldest{where} for {format_duration(age)}"
    if age > limit_seconds:
        message = f"{message}: no flush has taken them within {format_duration(limit_seconds)}"
        return CheckResult("freshness", "unhealthy", message, details, REASONS)
    return CheckResult("freshness", "healthy", message, details)


def evaluate_marker_against_ledger(marker: Marker | None, last: LastFlush, refusal_of_ledger: str = "") -> CheckResult:
    """Whether the marker fits the ledger. It was read first, so a flush in between only leaves it behind.

    `refusal_of_ledger`: why this ledger must not use this Redis; empty where it may.
    """
    details = {"marker_seq": marker.seq if marker else None, "last_flush": last.seq}
    if refusal_of_ledger:
        remedy = f"see `{command_to_type('docs clones')}` and `{command_to_type('docs shared-redis')}`"
        return CheckResult("marker", "unhealthy", refusal_of_ledger, details, remedy)
    if marker is None and last.seq:
        message = (
            f"Redis was emptied or replaced: the ledger ends at flush {format_seq(last.seq)}, and Redis has no marker"
        )
        remedy = f"none: the next run creates a marker; see `{command_to_type('docs redis-emptied')}`"
        return CheckResult("marker", "degraded", message, details, remedy)
    if marker is not None and marker.seq > last.seq:
        message = (
            f"PostgreSQL was rolled back, e.g. restored from a backup: Redis has settled flush {format_seq(marker.seq)}"
            f", the ledger ends at {format_seq(last.seq)}; the views of the flushes in between are in neither"
        )
        remedy = f"restore the newer PostgreSQL if you can; see `{command_to_type('docs postgresql-rolled-back')}`"
        return CheckResult("marker", "unhealthy", message, details, remedy)
    return CheckResult("marker", "healthy", "the marker is not ahead of the ledger", details)


def evaluate_history_timezone(change: TimezoneChange | None, zone: str) -> CheckResult:
    """Whether days can be rolled up: those that are not final have the bounds that HISTORY_TIMEZONE gives them."""
    if change is None or not change.to_backfill.days():
        return CheckResult("history_timezone", "healthy", f"days are those of {zone}")
    message = f"days were rolled up in another time zone: {change.message()}"
    details = {"days": len(change.days), "rolled_up_in": change.zones}
    return CheckResult("history_timezone", "degraded", message, details, change.remedy())


def evaluate_lost_settings(recorded: dict[str, str], settings: Settings) -> CheckResult:
    """Whether a setting that worker or runs had before is back at its default."""
    lost = find_lost_settings(recorded, settings)
    if not lost:
        return CheckResult("lost_settings", "healthy", "no setting that was in use before is missing")
    sentences = []
    for name, value in lost.items():
        now = getattr(settings, name.lower())
        change = f"{name} is {'not set' if now is None else now}, and was {value} before"
        sentences.append(change + (f": {LOST_SETTINGS[name]}" if name in LOST_SETTINGS else ""))
    message = "; ".join(sentences)
    return CheckResult("lost_settings", "degraded", message, {"recorded": lost}, remedy_of_lost_settings(lost))


def evaluate_unsettled(
    flushes: int, oldest_unsettled_seconds: float | None, unsettled_shards: int | None = None, oldest_in: str = ""
) -> CheckResult:
    """Whether committed flushes are subtracted from Redis in time; the age is None where all are.

    `unsettled_shards`: of a cluster, how many have some of them; a part of its shards was read. `oldest_in`: the stream
    of the oldest, where there are several.
    """
    age = oldest_unsettled_seconds
    details: dict[str, Any] = {"unsettled_flushes": flushes, "oldest_unsettled_seconds": age}
    if unsettled_shards is not None:
        details["unsettled_shards"] = unsettled_shards
    if not flushes or age is None:
        return CheckResult("unsettled", "healthy", "every flush is settled", details)
    if future := evaluate_future_timestamp("unsettled", "the commit of the oldest unsettled flush", age, details):
        return future
    where = "" if unsettled_shards is None else f" in {pluralize(unsettled_shards, 'shard')}"
    oldest = f"the oldest in {oldest_in}" if oldest_in else "the oldest"
    message = f"{pluralize(flushes, 'flush')} committed and not settled{where}, {oldest} for {format_duration(age)}"
    if age < UNSETTLED_SECONDS:
        return CheckResult("unsettled", "healthy", message, details)
    message = f"{message}: readers who add counters and totals count their views twice"
    remedy = "none if runs succeed: the next run settles them first; see the check flush_runs"
    return CheckResult("unsettled", "degraded", message, details, remedy)
