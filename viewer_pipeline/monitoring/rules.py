"""Which state Redis, PostgreSQL, the subscriber and the flushes are in, and how to say it. Pure."""

from __future__ import annotations

import time
from typing import Any

from viewer_pipeline.flush.incidents import Incident, Kind
from viewer_pipeline.flush.ledger_rows import LastFlush
from viewer_pipeline.flush.marker import Marker
from viewer_pipeline.ingest.stats import SubscriberStats
from viewer_pipeline.monitoring.checks import Result, State
from viewer_pipeline.monitoring.dagster_rules import in_words
from viewer_pipeline.stores.postgres import IN_RECOVERY, READ_ONLY

REVISION = "0009"  # of the schema, at least; a test holds it to the migrations
INCIDENTS: dict[Kind, str] = {
    "postgres_rolled_back": "PostgreSQL was rolled back, e.g. restored from a backup",
    "redis_emptied": "Redis was emptied or replaced",
    "drift": "counters were lowered by somebody else, or fell back",
}
ACKNOWLEDGE = "docs/how-to tells what to do, `viewer-pipeline acknowledge` closes it"
RESTART_SECONDS = 60.0  # a server that was restarted is worth a look, also one that starts again and again
UNSETTLED_SECONDS = 60.0  # settling follows a commit within a second; a run that died is settled by the next


def judge_replication(replication: dict[str, Any], round_trip_ms: float) -> Result:
    """Judge what INFO replication says: flushes need a primary."""
    figures = {"round_trip_ms": round_trip_ms}
    if replication.get("role") == "slave":
        return Result("unhealthy", "Redis is a replica: counters cannot be settled on it", figures)
    return Result("healthy", f"answers in {round_trip_ms} ms and takes writes", figures)


def judge_memory(memory: dict[str, Any]) -> Result:
    """Judge what INFO memory says: an evicted counter is a lost count."""
    policy = str(memory.get("maxmemory_policy", ""))
    figures = {"maxmemory_policy": policy} | {
        name: memory[name] for name in ("maxmemory", "used_memory") if name in memory
    }
    if policy.startswith("allkeys-"):
        said = (
            f"maxmemory-policy {policy} evicts counters when memory is full, and their views are lost; set noeviction"
        )
        return Result("degraded", said, figures)
    if policy.startswith("volatile-"):
        said = f"maxmemory-policy {policy} evicts only keys that expire, and no counter does"
        return Result("healthy", said, figures)
    said = (
        "maxmemory-policy noeviction: no counter is evicted" if policy else "Redis does not tell its maxmemory-policy"
    )
    return Result("healthy", said, figures)


def judge_postgres(*, standby: bool, read_only: bool, revision: str, round_trip_ms: float) -> Result:
    """Judge whether flushes can be committed. `revision`: of the schema `viewer`, empty where it is missing."""
    figures = {"round_trip_ms": round_trip_ms}
    if standby:
        return Result("unhealthy", f"PostgreSQL refuses writes: {IN_RECOVERY}", figures)
    if read_only:
        return Result("unhealthy", f"PostgreSQL refuses writes: {READ_ONLY}", figures)
    if revision < REVISION:
        lacks = f"at revision {revision}, and {REVISION} is needed" if revision else "missing"
        return Result("unhealthy", f"the schema `viewer` is {lacks}; run `viewer-pipeline migrate`", figures)
    return Result("healthy", f"answers in {round_trip_ms} ms and takes writes", figures)


def judge_incidents(incidents: list[Incident]) -> Result:
    """Say what a run found and nobody has acknowledged: PostgreSQL rolled back is worse than what Redis alone lost."""
    figures = {"open": [incident.kind for incident in incidents]}
    if not incidents:
        return Result("healthy", "nothing that somebody must look at", figures)
    bad: State = "unhealthy" if any(one.kind == "postgres_rolled_back" for one in incidents) else "degraded"
    return Result(bad, f"{'; '.join(incident_said(one) for one in incidents)}; {ACKNOWLEDGE}", figures)


def incident_said(incident: Incident) -> str:
    """Say one incident."""
    ago = in_words(time.time() - incident.last_seen.timestamp())
    views = f", {incident.views} views" if incident.views else ""
    return f"{INCIDENTS[incident.kind]} {ago} ago (run {incident.run_id[:8]}{views})"


def judge_restart(result: Result, up_seconds: float | None, worker_seconds: float) -> Result:
    """Say for a while that a server was restarted under this worker: whoever watches it mends that in no time.

    One that was started just before the worker was not: Redis tells whole seconds, and may leave out most of one.
    """
    if result.state != "healthy" or up_seconds is None or up_seconds > min(RESTART_SECONDS, worker_seconds - 1):
        return result
    return Result("degraded", f"{result.said}; it was restarted {in_words(up_seconds)} ago", result.figures)


def judge_subscriber(figures: SubscriberStats) -> Result:
    """Judge whether somebody hears what is published now."""
    now = time.time()
    heard = figures.last_message
    shown = {
        "subscriber": figures.state,
        "seconds_in_state": round(now - figures.since, 1),
        "seconds_since_message": None if heard is None else round(max(0.0, now - heard), 1),
        "views_in_memory": figures.in_memory,
    }
    last = "no message yet" if heard is None else f"last message {in_words(now - heard)} ago"
    if figures.refusal_reason:
        return Result("unhealthy", f"what is heard stays in memory: {figures.refusal_reason}", shown)
    match figures.state:
        case "listening":
            return Result("healthy", f"listening; {last}", shown)
        case "standby":
            return Result("healthy", "standing by: another worker listens, and this one follows when it ends", shown)
        case "reconnecting":
            said = f"reconnecting: {figures.reason or 'the subscription was lost'}; what is published now is missed"
            return Result("unhealthy", said, shown)
        case _:
            return Result("degraded", f"{figures.state}; nobody listens here yet", shown)


def judge_freshness(pending: int, age: float | None, limit: float) -> Result:
    """Judge the age of the oldest pending view, in seconds; None where nothing is pending."""
    figures = {"pending_vods": pending, "oldest_pending_seconds": age, "limit_seconds": limit}
    if age is None:
        return Result("healthy", "nothing is pending", figures)
    said = f"{pending} VODs are pending, the oldest for {in_words(age)}"
    if age > limit:
        return Result("unhealthy", f"{said}: longer than {in_words(limit)}", figures)
    return Result("healthy", said, figures)


def judge_marker(marker: Marker | None, last: LastFlush, refused: str = "") -> Result:
    """Judge where the marker stands against the ledger. It was read first, so a flush in between puts it behind.

    `refused`: why this ledger must not use this Redis; empty where it may.
    """
    figures = {"marker_seq": marker.seq if marker else None, "last_flush": last.seq}
    if refused:
        return Result("unhealthy", refused, figures)
    if marker is None and last.seq:
        said = (
            f"Redis was emptied or replaced: it has no marker, the ledger has flush {last.seq}; the next run makes one"
        )
        return Result("degraded", said, figures)
    if marker is not None and marker.seq > last.seq:
        said = (
            f"PostgreSQL was rolled back, e.g. restored from a backup: Redis has settled flush {marker.seq}, the ledger"
            f" ends at {last.seq}; the views of the flushes in between are in neither"
        )
        return Result("unhealthy", said, figures)
    return Result("healthy", "the marker is not ahead of the ledger", figures)


def judge_unsettled(flushes: int, age: float | None) -> Result:
    """Judge flushes that are committed and not subtracted from Redis; `age` in seconds of the oldest."""
    figures = {"unsettled_flushes": flushes, "oldest_unsettled_seconds": age}
    if not flushes or age is None:
        return Result("healthy", "every flush is settled", figures)
    said = f"{flushes} flushes are committed and not settled, the oldest for {in_words(age)}"
    if age < UNSETTLED_SECONDS:
        return Result("healthy", said, figures)
    return Result("degraded", f"{said}: readers see their views twice until the next run settles them", figures)
