"""`/metrics` over HTTP, read by Prometheus' own parser."""

from __future__ import annotations

import re
import time
from collections import Counter
from typing import Any

import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from viewer_pipeline.flush.incidents import acknowledge
from viewer_pipeline.flush.run_metrics import RunMetric, add_run_metrics
from viewer_pipeline.monitoring import bounded_probe, pending_views
from viewer_pipeline.monitoring.dagster_rules import DAEMONS
from viewer_pipeline.monitoring.metric_families import METRIC_FAMILIES
from viewer_pipeline.stack.ports import LOOPBACK
from viewer_pipeline_tests.support.dagster_world import DagsterWorld
from viewer_pipeline_tests.support.http_world import HttpWorld
from viewer_pipeline_tests.support.proxy import Proxy
from viewer_pipeline_tests.support.waiting import wait_until
from viewer_pipeline_tests.support.world import PREFIX, World

Labels = tuple[tuple[str, str], ...]


@pytest.fixture(autouse=True)
def always_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the servers at every scrape."""
    monkeypatch.setattr(bounded_probe, "MIN_INTERVAL_SECONDS", 0)


def scrape(http: HttpWorld) -> dict[str, dict[Labels, float]]:
    """Return every sample of ours: name -> labels -> value. Each is declared with its type, labels and help text."""
    response = http.request("/metrics")
    assert response.status == 200
    assert response.headers["content-type"].startswith("text/plain; version=")
    samples: dict[str, dict[Labels, float]] = {}
    for family in text_string_to_metric_families(response.body):
        name = family.name + "_total" * (family.type == "counter")
        if family.name.startswith("process_"):
            continue
        declared = METRIC_FAMILIES[name]
        assert (family.type, family.documentation) == (declared.kind, declared.help)
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(declared.labels)
            samples.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return samples


def value_of(samples: dict[str, dict[Labels, float]], name: str, **labels: Any) -> float:
    """Return one value."""
    return samples[name][tuple(sorted(labels.items()))]


def test_samples_of_the_worker(http: HttpWorld) -> None:
    """Messages by outcome and reason, folds, lease, state."""
    stats = http.stats
    stats.accepted, stats.received, stats.last_message = 5, 8, 1_700_000_000.5
    stats.rejected = Counter({"not JSON": 2, 'odd "\\ \n': 1})
    stats.folded, stats.folded_views, stats.dropped_views = 3, 40, 2
    stats.losses, stats.takeovers, stats.in_memory = Counter({"closed": 1}), 1, 9
    stats.holds_lease = True
    http.start()
    samples = scrape(http)
    assert value_of(samples, "viewer_messages_total", outcome="accepted") == 5
    assert value_of(samples, "viewer_messages_total", outcome="rejected") == 3
    assert value_of(samples, "viewer_messages_rejected_total", reason='odd "\\ \n') == 1
    assert value_of(samples, "viewer_folds_total") == 3
    assert value_of(samples, "viewer_folded_views_total") == 40
    assert value_of(samples, "viewer_dropped_views_total") == 2
    assert value_of(samples, "viewer_subscription_losses_total", loss="closed") == 1
    assert value_of(samples, "viewer_lease_takeovers_total") == 1
    assert value_of(samples, "viewer_lease_held") == 1
    assert value_of(samples, "viewer_views_in_memory") == 9
    assert value_of(samples, "viewer_last_message_timestamp_seconds") == 1_700_000_000.5
    states = {dict(labels)["state"]: value for labels, value in samples["viewer_subscriber_state"].items()}
    assert states == {"starting": 0, "listening": 1, "standby": 0, "reconnecting": 0, "stopping": 0}


def test_pending(http: HttpWorld, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """VODs and views; of many VODs, those that were announced first are read, and their number is reported."""
    world.send("a", 5, announce=True)
    world.send("b", 7, announce=True)
    world.client.zadd("viewer:changed", {"gone": 2, "bad": 2})
    world.client.set(PREFIX + "bad", "abc")
    http.start()
    samples = scrape(http)
    assert value_of(samples, "viewer_pending_counters") == 4
    assert value_of(samples, "viewer_pending_counters_read") == 4
    assert value_of(samples, "viewer_pending_views") == 12
    assert value_of(samples, "viewer_oldest_pending_seconds") == pytest.approx(time.time(), abs=60)  # announced in 1970
    world.client.zadd("viewer:changed", {f"more{number}": 3 for number in range(1500)})
    monkeypatch.setattr(pending_views, "MAX_READ", 1000)
    samples = scrape(http)
    assert value_of(samples, "viewer_pending_counters") == 1504
    assert value_of(samples, "viewer_pending_counters_read") == 1000
    assert value_of(samples, "viewer_pending_views") == 12


def test_samples_of_new_servers(http: HttpWorld) -> None:
    """New servers: zeros, and no sample that has no value."""
    http.start()
    samples = scrape(http)
    assert value_of(samples, "viewer_pending_views") == value_of(samples, "viewer_oldest_pending_seconds") == 0
    assert (
        value_of(samples, "viewer_redis_up")
        == value_of(samples, "viewer_postgres_up")
        == value_of(samples, "viewer_dagster_up")
        == 1
    )
    assert not {"viewer_last_flush_timestamp_seconds", "viewer_last_message_timestamp_seconds"} & set(samples)


def test_persisted(http: HttpWorld, world: World) -> None:
    """From the ledger, so they survive a restart of the worker, and grow with each flush."""
    world.send_many(6)
    world.client.set(PREFIX + "bad", "abc")
    world.flush()
    world.send("a", 5, announce=True)
    world.flush("changed")
    http.start()
    samples = scrape(http)
    assert value_of(samples, "viewer_views_persisted_total", mode="sweep") == 18
    assert value_of(samples, "viewer_views_persisted_total", mode="changed") == 5
    assert value_of(samples, "viewer_counters_persisted_total", mode="sweep") == 6
    assert value_of(samples, "viewer_flushes_total", mode="sweep", outcome="committed") == len(world.seqs()) - 1
    assert value_of(samples, "viewer_flushes_total", mode="changed", outcome="committed") == 1
    assert value_of(samples, "viewer_rejected_inputs_total", source="counter", reason="value is not an integer") == 1
    assert value_of(samples, "viewer_last_flush_timestamp_seconds") == pytest.approx(time.time(), abs=60)
    world.send("b", 4)
    world.flush()
    samples = scrape(http)
    assert value_of(samples, "viewer_views_persisted_total", mode="sweep") == 22
    assert value_of(samples, "viewer_counters_persisted_total", mode="sweep") == 7


def test_samples_that_runs_recorded(http: HttpWorld, database_url: str) -> None:
    """Flushes that were superseded, runs that failed, seconds in buckets that grow, drift."""
    with psycopg.connect(database_url) as connection:
        flushes = RunMetric.of_flushes("sweep", [0.02, 0.2, 100.0], drift=4)
        ended = [RunMetric.of_events("sweep", "superseded", 2), RunMetric.of_events("changed", "failed", 3)]
        add_run_metrics(connection, [flushes, *ended])
    http.start()
    samples = scrape(http)
    assert value_of(samples, "viewer_flushes_total", mode="sweep", outcome="superseded") == 2
    assert value_of(samples, "viewer_flushes_total", mode="changed", outcome="failed") == 3
    assert value_of(samples, "viewer_drift_views_total", mode="sweep") == 4
    assert value_of(samples, "viewer_flush_seconds_sum", mode="sweep") == pytest.approx(100.22)
    assert value_of(samples, "viewer_flush_seconds_count", mode="sweep") == 3
    buckets = {dict(labels)["le"]: value for labels, value in samples["viewer_flush_seconds_bucket"].items()}
    assert (buckets["0.01"], buckets["0.025"], buckets["0.25"], buckets["60.0"], buckets["+Inf"]) == (0, 1, 2, 2, 3)


def test_open_incidents(http: HttpWorld, world: World) -> None:
    """Each kind is there, 1 while it is open."""
    http.start()
    assert value_of(scrape(http), "viewer_open_incidents", kind="redis_emptied") == 0
    world.send("a", 5)
    world.flush()
    world.client.flushall()
    world.flush()
    samples = scrape(http)
    assert value_of(samples, "viewer_open_incidents", kind="redis_emptied") == 1
    assert value_of(samples, "viewer_open_incidents", kind="postgres_rolled_back") == 0
    with world.stores.ledger.connect() as connection:
        acknowledge(connection, ["redis_emptied"])
    assert value_of(scrape(http), "viewer_open_incidents", kind="redis_emptied") == 0


def test_postgres_restored_from_a_backup(http: HttpWorld, world: World) -> None:
    """The ledger ends below the last flush that was read: the totals are of what it holds now."""
    world.send("a", 5)
    world.flush()
    world.send("a", 7)
    world.flush()
    http.start()
    assert value_of(scrape(http), "viewer_views_persisted_total", mode="sweep") == 12
    world.execute("DELETE FROM viewer.flush WHERE seq = 2")
    assert value_of(scrape(http), "viewer_views_persisted_total", mode="sweep") == 5


def test_daemons(http: HttpWorld, dagster: DagsterWorld) -> None:
    """By their heartbeats."""
    dagster.beat("SENSOR")
    dagster.beat("SCHEDULER", ago=121)
    http.start()
    up = {dict(labels)["daemon"]: value for labels, value in scrape(http)["viewer_daemon_up"].items()}
    assert up == dict.fromkeys(DAEMONS, 0.0) | {"SENSOR": 1.0}


def test_process_memory(http: HttpWorld) -> None:
    """Prometheus' usual samples of the process, where the system has them."""
    http.start()
    memory = re.search(r"^process_resident_memory_bytes (\S+)$", http.request("/metrics").body, re.MULTILINE)
    assert memory is not None
    assert 20e6 < float(memory[1]) < 2e9


def test_servers_out_of_reach(http: HttpWorld) -> None:
    """Samples of servers are left out; those of the worker are there."""
    http.start(redis_url=f"redis://:s3cret@{LOOPBACK}:1/0", database_url=f"postgresql://me:s3cret@{LOOPBACK}:1/x")
    samples = scrape(http)
    assert (
        value_of(samples, "viewer_redis_up")
        == value_of(samples, "viewer_postgres_up")
        == value_of(samples, "viewer_dagster_up")
        == 0
    )
    assert value_of(samples, "viewer_lease_held") == 0
    assert not {name for name in samples if re.match("viewer_(pending|oldest|flushes|views_pers|daemon)", name)}


def test_redis_that_hangs(http: HttpWorld, redis_url: str, redis_proxy: Proxy) -> None:
    """The response comes while it hangs, without samples of Redis; they return."""
    http.start(redis_url=redis_proxy.url(redis_url))
    assert value_of(scrape(http), "viewer_redis_up") == 1
    redis_proxy.blackhole()
    samples = scrape(http)
    assert value_of(samples, "viewer_redis_up") == 0
    assert value_of(samples, "viewer_postgres_up") == 1
    assert "viewer_pending_counters" not in samples
    redis_proxy.heal()
    wait_until(lambda: value_of(scrape(http), "viewer_redis_up") == 1, 30, "it healed")


def test_postgres_that_hangs(http: HttpWorld, world: World) -> None:
    """A locked table delays the probe, not the response; the samples return."""
    world.send("a", 5)
    world.flush()
    http.start()
    assert value_of(scrape(http), "viewer_views_persisted_total", mode="sweep") == 5
    with psycopg.connect(http.settings.require_database_url()) as connection:
        connection.execute("LOCK viewer.flush IN ACCESS EXCLUSIVE MODE")
        samples = scrape(http)
        assert value_of(samples, "viewer_postgres_up") == 0
        assert value_of(samples, "viewer_redis_up") == 1
        assert "viewer_views_persisted_total" not in samples
    wait_until(lambda: value_of(scrape(http), "viewer_postgres_up") == 1, 30, "it healed")
    assert value_of(scrape(http), "viewer_views_persisted_total", mode="sweep") == 5
