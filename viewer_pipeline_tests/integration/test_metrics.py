"""`/metrics` over HTTP, read by Prometheus' own parser."""

from __future__ import annotations

import re
import time
from collections import Counter
from typing import Any

import psycopg
import pytest
import redis
from prometheus_client.parser import text_string_to_metric_families

from viewer_pipeline.flush.incidents import acknowledge
from viewer_pipeline.flush.run_metrics import RunMetric, add_run_metrics
from viewer_pipeline.monitoring import background_probe as question
from viewer_pipeline.monitoring import pending
from viewer_pipeline.monitoring.dagster_rules import DAEMONS
from viewer_pipeline.monitoring.metric_families import FAMILIES
from viewer_pipeline.stack.ports import LOOPBACK
from viewer_pipeline_tests.support.dagster_world import DagsterWorld
from viewer_pipeline_tests.support.http_world import HttpWorld
from viewer_pipeline_tests.support.waiting import wait_until
from viewer_pipeline_tests.support.world import PREFIX, World

Labels = tuple[tuple[str, str], ...]


@pytest.fixture(autouse=True)
def always_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask the servers at every scrape."""
    monkeypatch.setattr(question, "REUSED_SECONDS", 0)


def scrape(http: HttpWorld) -> dict[str, dict[Labels, float]]:
    """Return every sample of ours: name -> labels -> figure. Each is declared with its type, labels and meaning."""
    said = http.request("/metrics")
    assert said.status == 200
    assert said.headers["content-type"].startswith("text/plain; version=")
    found: dict[str, dict[Labels, float]] = {}
    for family in text_string_to_metric_families(said.body):
        name = family.name + "_total" * (family.type == "counter")
        if family.name.startswith("process_"):
            continue
        declared = FAMILIES[name]
        assert (family.type, family.documentation) == (declared.kind, declared.said)
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(declared.labels)
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def one(found: dict[str, dict[Labels, float]], name: str, **labels: Any) -> float:
    """Return one figure."""
    return found[name][tuple(sorted(labels.items()))]


def test_what_the_worker_did(http: HttpWorld) -> None:
    """Messages by outcome and reason, folds, lease, state."""
    figures = http.stats
    figures.accepted, figures.received, figures.last_message = 5, 8, 1_700_000_000.5
    figures.rejected = Counter({"not JSON": 2, 'odd "\\ \n': 1})
    figures.folded, figures.folded_views, figures.dropped_views = 3, 40, 2
    figures.losses, figures.takeovers, figures.in_memory = Counter({"closed": 1}), 1, 9
    figures.holds_lease = True
    http.start()
    found = scrape(http)
    assert one(found, "viewer_messages_total", outcome="accepted") == 5
    assert one(found, "viewer_messages_total", outcome="rejected") == 3
    assert one(found, "viewer_messages_rejected_total", reason='odd "\\ \n') == 1
    assert one(found, "viewer_folds_total") == 3
    assert one(found, "viewer_folded_views_total") == 40
    assert one(found, "viewer_dropped_views_total") == 2
    assert one(found, "viewer_subscription_losses_total", loss="closed") == 1
    assert one(found, "viewer_lease_takeovers_total") == 1
    assert one(found, "viewer_lease_held") == 1
    assert one(found, "viewer_views_in_memory") == 9
    assert one(found, "viewer_last_message_timestamp_seconds") == 1_700_000_000.5
    states = {dict(labels)["state"]: value for labels, value in found["viewer_subscriber_state"].items()}
    assert states == {"starting": 0, "listening": 1, "standby": 0, "reconnecting": 0, "stopping": 0}


def test_pending(http: HttpWorld, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """VODs and views; of many, those that were announced first are read, and it says how many."""
    world.send("a", 5, announce=True)
    world.send("b", 7, announce=True)
    world.client.zadd("viewer:changed", {"gone": 2, "bad": 2})
    world.client.set(PREFIX + "bad", "abc")
    http.start()
    found = scrape(http)
    assert one(found, "viewer_pending_counters") == 4
    assert one(found, "viewer_pending_counters_read") == 4
    assert one(found, "viewer_pending_views") == 12
    assert one(found, "viewer_oldest_pending_seconds") == pytest.approx(time.time(), abs=60)  # announced in 1970
    world.client.zadd("viewer:changed", {f"more{number}": 3 for number in range(1500)})
    monkeypatch.setattr(pending, "READ_CHUNKS", 1)
    found = scrape(http)
    assert one(found, "viewer_pending_counters") == 1504
    assert one(found, "viewer_pending_counters_read") == 1000
    assert one(found, "viewer_pending_views") == 12


def test_nothing_yet(http: HttpWorld) -> None:
    """New servers: zeros, and no figure that does not exist."""
    http.start()
    found = scrape(http)
    assert one(found, "viewer_pending_views") == one(found, "viewer_oldest_pending_seconds") == 0
    assert one(found, "viewer_redis_up") == one(found, "viewer_postgres_up") == one(found, "viewer_dagster_up") == 1
    assert not {"viewer_last_flush_timestamp_seconds", "viewer_last_message_timestamp_seconds"} & set(found)


def test_persisted(http: HttpWorld, world: World) -> None:
    """From the ledger, so they survive a restart of the worker, and grow with each flush."""
    world.send_many(6)
    world.client.set(PREFIX + "bad", "abc")
    world.flush()
    world.send("a", 5, announce=True)
    world.flush("changed")
    http.start()
    found = scrape(http)
    assert one(found, "viewer_views_persisted_total", mode="sweep") == 18
    assert one(found, "viewer_views_persisted_total", mode="changed") == 5
    assert one(found, "viewer_counters_persisted_total", mode="sweep") == 6
    assert one(found, "viewer_flushes_total", mode="sweep", outcome="committed") == len(world.seqs()) - 1
    assert one(found, "viewer_flushes_total", mode="changed", outcome="committed") == 1
    assert one(found, "viewer_rejected_rows", source="counter", reason="value is not an integer") == 1
    assert one(found, "viewer_last_flush_timestamp_seconds") == pytest.approx(time.time(), abs=60)
    world.send("b", 4)
    world.flush()
    found = scrape(http)
    assert one(found, "viewer_views_persisted_total", mode="sweep") == 22
    assert one(found, "viewer_counters_persisted_total", mode="sweep") == 7


def test_what_runs_recorded(http: HttpWorld, database_url: str) -> None:
    """Flushes that were superseded, runs that failed, seconds in buckets that grow, drift."""
    with psycopg.connect(database_url) as connection:
        flushes = RunMetric.of_flushes("sweep", [0.02, 0.2, 100.0], drift=4)
        ended = [RunMetric.of_events("sweep", "superseded", 2), RunMetric.of_events("changed", "failed", 3)]
        add_run_metrics(connection, [flushes, *ended])
    http.start()
    found = scrape(http)
    assert one(found, "viewer_flushes_total", mode="sweep", outcome="superseded") == 2
    assert one(found, "viewer_flushes_total", mode="changed", outcome="failed") == 3
    assert one(found, "viewer_drift_views_total", mode="sweep") == 4
    assert one(found, "viewer_flush_seconds_sum", mode="sweep") == pytest.approx(100.22)
    assert one(found, "viewer_flush_seconds_count", mode="sweep") == 3
    buckets = {dict(labels)["le"]: value for labels, value in found["viewer_flush_seconds_bucket"].items()}
    assert (buckets["0.01"], buckets["0.025"], buckets["0.25"], buckets["60.0"], buckets["+Inf"]) == (0, 1, 2, 2, 3)


def test_open_incidents(http: HttpWorld, world: World) -> None:
    """Each kind is there, 1 while it is open."""
    http.start()
    assert one(scrape(http), "viewer_open_incidents", kind="redis_emptied") == 0
    world.send("a", 5)
    world.flush()
    world.client.flushall()
    world.flush()
    found = scrape(http)
    assert one(found, "viewer_open_incidents", kind="redis_emptied") == 1
    assert one(found, "viewer_open_incidents", kind="postgres_rolled_back") == 0
    with world.stores.ledger.connect() as connection:
        acknowledge(connection, ["redis_emptied"])
    assert one(scrape(http), "viewer_open_incidents", kind="redis_emptied") == 0


def test_postgres_restored_from_a_backup(http: HttpWorld, world: World) -> None:
    """The ledger ends below what was seen: the sums are of what it holds now."""
    world.send("a", 5)
    world.flush()
    world.send("a", 7)
    world.flush()
    http.start()
    assert one(scrape(http), "viewer_views_persisted_total", mode="sweep") == 12
    world.execute("DELETE FROM viewer.flush WHERE seq = 2")
    assert one(scrape(http), "viewer_views_persisted_total", mode="sweep") == 5


def test_daemons(http: HttpWorld, dagster: DagsterWorld) -> None:
    """By their heartbeats."""
    dagster.beat("SENSOR")
    dagster.beat("SCHEDULER", ago=121)
    http.start()
    up = {dict(labels)["daemon"]: value for labels, value in scrape(http)["viewer_daemon_up"].items()}
    assert up == dict.fromkeys(DAEMONS, 0.0) | {"SENSOR": 1.0}


def test_process_memory(http: HttpWorld) -> None:
    """Prometheus' usual figures of the process, where the system has them."""
    http.start()
    memory = re.search(r"^process_resident_memory_bytes (\S+)$", http.request("/metrics").body, re.MULTILINE)
    assert memory is not None
    assert 20e6 < float(memory[1]) < 2e9


def test_servers_out_of_reach(http: HttpWorld) -> None:
    """What cannot be known is left out; what the worker knows is there."""
    http.start(redis_url=f"redis://:s3cret@{LOOPBACK}:1/0", database_url=f"postgresql://me:s3cret@{LOOPBACK}:1/x")
    found = scrape(http)
    assert one(found, "viewer_redis_up") == one(found, "viewer_postgres_up") == one(found, "viewer_dagster_up") == 0
    assert one(found, "viewer_lease_held") == 0
    assert not {name for name in found if re.match("viewer_(pending|oldest|flushes|views_pers|daemon)", name)}


def test_redis_that_hangs(http: HttpWorld, client: redis.Redis) -> None:
    """The answer comes in time, without Redis' figures; heals."""
    http.start()
    assert one(scrape(http), "viewer_redis_up") == 1
    client.client_pause(2000)
    found = scrape(http)
    assert one(found, "viewer_redis_up") == 0
    assert one(found, "viewer_postgres_up") == 1
    assert "viewer_pending_counters" not in found
    wait_until(lambda: one(scrape(http), "viewer_redis_up") == 1, 30, "it healed")


def test_postgres_that_hangs(http: HttpWorld, world: World) -> None:
    """A table that somebody locked holds the question, not the answer; heals."""
    world.send("a", 5)
    world.flush()
    http.start()
    assert one(scrape(http), "viewer_views_persisted_total", mode="sweep") == 5
    with psycopg.connect(http.settings.require_database_url()) as connection:
        connection.execute("LOCK viewer.flush IN ACCESS EXCLUSIVE MODE")
        found = scrape(http)
        assert one(found, "viewer_postgres_up") == 0
        assert one(found, "viewer_redis_up") == 1
        assert "viewer_views_persisted_total" not in found
    wait_until(lambda: one(scrape(http), "viewer_postgres_up") == 1, 30, "it healed")
    assert one(scrape(http), "viewer_views_persisted_total", mode="sweep") == 5
