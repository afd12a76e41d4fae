"""The guarantee of a set-up, for readings that the servers of the tests do not give."""

from __future__ import annotations

from typing import Any

import pytest

from viewer_pipeline.checks import CheckResult
from viewer_pipeline.monitoring.doctor.guarantee import FaultGuarantee, derive_guarantee, guarantee_to_dict
from viewer_pipeline.settings import Settings

READINGS: dict[str, dict[str, Any]] = {
    "subscriber": {"workers": 2},
    "redis_memory": {"maxmemory_policy": "noeviction"},
    "redis_persistence": {"appendonly": True, "appendfsync": "always", "save": ""},
    "redis_durability": {"can_wait": True, "connected_replicas": 1},
    "postgres_durability": {
        "fsync": True,
        "full_page_writes": True,
        "synchronous_commit": "on",
        "synchronous_standby_names": "*",
        "standbys": 1,
        "can_wait": True,
    },
}
ALONE = (
    "no replica is connected, so it starts empty, and nothing is subtracted there; once there is a replica, or if"
    " INFO does not show one that exists, set REDIS_WAIT_REPLICAS=1"
)


def derive(readings: dict[str, dict[str, Any]], **settings: Any) -> dict[str, FaultGuarantee]:
    """Return the guarantee by name for details of checks, and these settings."""
    results = [CheckResult(name, "healthy", "", details) for name, details in readings.items()]
    guarantee = derive_guarantee(results, Settings(**settings))
    assert not any(": " in fault.fault + fault.reason for fault in guarantee)  # one is between them
    return {fault.name: fault for fault in guarantee}


def changed(check: str, **details: Any) -> dict[str, dict[str, Any]]:
    """Return the readings of a durable set-up with changes in one check."""
    return READINGS | {check: READINGS[check] | details}


def test_durable_servers() -> None:
    """All is exact but what no setting of this pipeline protects."""
    guarantee = derive(READINGS, redis_wait_replicas=1, target_table="Vod")
    assert {name for name, fault in guarantee.items() if fault.holds != "exact"} == {
        "redis_failover_pending",
        "older_copies",
    }
    assert all(fault.reason for fault in guarantee.values())


def test_nothing_could_be_read() -> None:
    """What depends on a server is unknown, and names the check; the rest is not."""
    guarantee = derive({})
    unknown = {name: fault.remedy for name, fault in guarantee.items() if fault.holds == "unknown"}
    assert unknown == {
        "worker": "see the check subscriber",
        "redis_memory": "see the check redis_memory",
        "redis_restart": "see the check redis_persistence",
        "redis_crash": "see the check redis_persistence",
        "redis_failover_counted": "see the check redis_durability",
        "redis_failover_pending": "see the check redis_durability",
        "postgres_crash": "see the check postgres_durability",
        "postgres_failover": "see the check postgres_durability",
    }
    assert guarantee["runs"].holds == "exact"


@pytest.mark.parametrize(
    ("name", "check", "details", "expected"),
    [
        ("worker", "subscriber", {"workers": 1}, "not exact: with PUBSUB_MODE=increment and 1 worker, messages"),
        ("worker", "subscriber", {"workers": 0}, "not exact: with PUBSUB_MODE=increment and 0 workers, messages are"),
        (
            "redis_memory",
            "redis_memory",
            {"maxmemory_policy": "allkeys-lfu"},
            "not exact: maxmemory-policy allkeys-lfu",
        ),
        ("redis_memory", "redis_memory", {"maxmemory_policy": "volatile-lru"}, "exact: maxmemory-policy volatile-lru"),
        (
            "redis_crash",
            "redis_persistence",
            {"appendfsync": "everysec"},
            "not exact: with appendfsync everysec, views of the",
        ),
        (
            "redis_crash",
            "redis_persistence",
            {"appendfsync": "no"},
            "not exact: with appendfsync no, views of half a minute",
        ),
        (
            "redis_crash",
            "redis_persistence",
            {"appendfsync": "unknown", "save": None},
            "unknown: appendonly yes, and CON",
        ),
        ("redis_restart", "redis_persistence", {"appendfsync": "unknown", "save": None}, "exact: appendonly yes"),
        (
            "redis_restart",
            "redis_persistence",
            {"appendonly": False, "save": "60 1"},
            "exact: Redis writes a snapshot when it stops (save 60 1)",
        ),
        (
            "redis_crash",
            "redis_persistence",
            {"appendonly": False, "save": "60 1"},
            "not exact: with appendonly no, views",
        ),
        ("redis_restart", "redis_persistence", {"appendonly": False}, "not exact: with appendonly no and no snapshots"),
        (
            "redis_restart",
            "redis_persistence",
            {"appendonly": False, "save": None},
            "unknown: appendonly no, and CONFIG",
        ),
        ("redis_crash", "redis_persistence", {"appendonly": False, "save": None}, "unknown: appendonly no, and CONFIG"),
        (
            "redis_failover_counted",
            "redis_durability",
            {},
            "not exact: with REDIS_WAIT_REPLICAS=0 and 1 replica, as many",
        ),
        (
            "redis_failover_counted",
            "redis_durability",
            {"connected_replicas": 0},
            "exact: " + ALONE,
        ),
        ("redis_failover_pending", "redis_durability", {"connected_replicas": 0}, "not exact: no replica is connected"),
        ("redis_failover_counted", "redis_durability", {"connected_replicas": None}, "unknown: INFO is refused"),
        ("redis_failover_counted", "redis_durability", {"can_wait": False}, "unknown: the check redis_durability"),
        ("postgres_crash", "postgres_durability", {"fsync": False}, "not exact: fsync is off"),
        ("postgres_crash", "postgres_durability", {"full_page_writes": False}, "not exact: full_page_writes is off"),
        (
            "postgres_failover",
            "postgres_durability",
            {"synchronous_commit": "local"},
            "not exact: with synchronous_commit = local",
        ),
        (
            "postgres_failover",
            "postgres_durability",
            {"synchronous_standby_names": ""},
            "not exact: with 1 standby and no synchronous_standby_names",
        ),
        (
            "postgres_failover",
            "postgres_durability",
            {"synchronous_standby_names": "", "standbys": 0},
            "unknown: no standby is connected",
        ),
    ],
)
def test_one_reading_decides(name: str, check: str, details: dict[str, Any], expected: str) -> None:
    """One reading is worse; what is not exact or unknown has a remedy."""
    fault = derive(changed(check, **details))[name]
    assert f"{fault.holds}: {fault.reason}".startswith(expected)
    assert (fault.holds == "exact") != bool(fault.remedy)


def test_counters_that_expire() -> None:
    """A policy that evicts keys with an expiry evicts them, too."""
    memory = changed("redis_memory", maxmemory_policy="volatile-ttl")
    assert derive(memory | {"expiring_counters": {"expiring": 0}})["redis_memory"].holds == "exact"
    fault = derive(memory | {"expiring_counters": {"expiring": 2}})["redis_memory"]
    assert f"{fault.holds}: {fault.reason}".startswith("not exact: maxmemory-policy volatile-ttl evicts only keys that")
    assert fault.reason.endswith("as 2 counters with an expiry")


def test_announced_views_do_not_depend_on_workers() -> None:
    """Producers have counted them."""
    assert derive(changed("subscriber", workers=0), pubsub_mode="announce")["worker"].holds == "exact"


def test_waits() -> None:
    """The number of replicas that must acknowledge; the append-only file protects what a flush has read."""
    one_of_two = derive(changed("redis_durability", connected_replicas=2), redis_wait_replicas=1)
    assert one_of_two["redis_failover_counted"].holds == "exact"
    assert one_of_two["redis_failover_counted"].reason.endswith("one that has not must not take over")
    crash = derive(changed("redis_persistence", appendfsync="everysec"), redis_wait_aof=1)["redis_crash"]
    assert (crash.holds, "none that a flush has read" in crash.reason) == ("not exact", True)


def test_standbys_that_flushes_wait_for() -> None:
    """With the wait, an asynchronous standby is enough, whether PostgreSQL tells its timeline or not."""
    behind = changed("postgres_durability", synchronous_standby_names="", standbys=2)
    assert derive(behind)["postgres_failover"].remedy == "POSTGRES_WAIT_STANDBYS, or synchronous_standby_names"
    fault = derive(behind, postgres_wait_standbys=2)["postgres_failover"]
    assert (fault.holds, fault.reason) == (
        "exact",
        "with POSTGRES_WAIT_STANDBYS=2 and 2 standbys, what they have not confirmed is still in Redis",
    )
    one_of_two = derive(behind, postgres_wait_standbys=1)["postgres_failover"]
    assert one_of_two.reason.endswith("; the one with the most WAL must take over")
    refused = changed("postgres_durability", can_wait=False)
    assert derive(refused, postgres_wait_standbys=1)["postgres_failover"].holds == "unknown"


def test_own_table() -> None:
    """Parked views are counted later, unless they are pruned before."""
    assert "target" not in derive(READINGS)
    assert derive(READINGS, target_table="Vod")["target"].holds == "exact"
    pruned = derive(READINGS, target_table="Vod", parked_retention_days=9)["target"]
    assert (pruned.holds, "PARKED_RETENTION_DAYS=9" in pruned.reason) == ("not exact", True)


def test_json() -> None:
    """By name, with the fault for people."""
    entry = guarantee_to_dict(derive(READINGS).values())["worker"]
    assert entry == {
        "holds": "exact",
        "fault": "a worker dies or freezes",
        "reason": "2 workers receive every message, and another one takes over within 10 s",
        "remedy": "",
    }


@pytest.mark.parametrize(("policy", "is_exact"), [("hold", True), ("count", False)])
def test_views_of_a_copy_without_a_marker(policy: str, is_exact: bool) -> None:
    """They count twice only if that was decided in advance."""
    fault = derive({}, redis_without_marker=policy)["older_copies"]
    assert ("nothing counts twice" in fault.reason) == is_exact
    assert (fault.remedy == "REDIS_WITHOUT_MARKER=hold") != is_exact
