"""Workers of several pipelines on one Redis, and a worker that cannot ask its database which ledger it has."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest
import redis

from viewer_pipeline.checks import CheckResult
from viewer_pipeline.migrations.migrate import migrate
from viewer_pipeline.monitoring.channel_subscribers import evaluate_shared_channel, read_subscribers
from viewer_pipeline.monitoring.health_rules import evaluate_subscriber
from viewer_pipeline.monitoring.probes import HealthProbes
from viewer_pipeline.settings import Settings
from viewer_pipeline_tests.conftest import TEMPLATE
from viewer_pipeline_tests.support.check_results import by_name
from viewer_pipeline_tests.support.proxy import Proxy
from viewer_pipeline_tests.support.servers import Postgres, copy_database
from viewer_pipeline_tests.support.subscribers import CHANNEL, SubscriberThread, message
from viewer_pipeline_tests.support.waiting import wait_until
from viewer_pipeline_tests.support.world import World

SHOP = "shop:views:"

MakeSettings = Callable[..., Settings]


@pytest.fixture
def other_url(postgres_server: Postgres) -> Iterator[str]:
    """URL of another migrated database."""
    name = "other_" + os.urandom(6).hex()
    with psycopg.connect(postgres_server.url_of_database("postgres"), autocommit=True) as connection:
        copy_database(connection, name, TEMPLATE)
        yield postgres_server.url_of_database(name)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def of(database_url: str, redis_url: str, **more: Any) -> Settings:
    """Return the settings of one pipeline."""
    return Settings(database_url=database_url, redis_url=redis_url, **more)


def publish(client: redis.Redis, channel: str, vod_id: str, times: int) -> None:
    """Publish views one by one."""
    for _ in range(times):
        client.publish(channel, message(vod_id))


def count(client: redis.Redis, key: str) -> int:
    """Return what a counter holds."""
    value = client.get(key)
    return int(value or 0)


def test_pipelines_with_separate_channels_fold_at_the_same_time(world: World, redis_url: str, other_url: str) -> None:
    """Each folds its own messages, and neither stands by for the other."""
    ours = of(world.stores.ledger.url, redis_url)
    shop = of(other_url, redis_url, counter_prefix=SHOP, pubsub_channel="shop", totals_channel="shop totals")
    with SubscriberThread(ours) as ours_running, SubscriberThread(shop) as other:
        assert (ours_running.state, other.state) == ("listening", "listening")
        publish(world.client, CHANNEL, "a", 20)
        publish(world.client, "shop", "a", 30)
        wait_until(lambda: ours_running.stats.folded_views == 20, 20, "all of the first")
        wait_until(lambda: other.stats.folded_views == 30, 20, "all of the other")
    assert (count(world.client, "vod:views:a"), count(world.client, SHOP + "a")) == (20, 30)


@pytest.mark.parametrize("database", [0, 1])
def test_pipelines_on_a_shared_channel_are_reported(
    world: World, redis_url: str, other_url: str, caplog: pytest.LogCaptureFixture, database: int
) -> None:
    """Each counts every message, also from another Redis database: log and doctor report it, with a remedy."""
    caplog.set_level(logging.INFO)
    ours = of(world.stores.ledger.url, redis_url)
    other_redis = redis_url.rpartition("/")[0] + f"/{database}" if database else redis_url
    shadow = of(other_url, other_redis, counter_prefix=SHOP, totals_channel="shop totals")

    def logged(words: str) -> bool:
        return any(words in record.getMessage() for record in caplog.records)

    def shared() -> CheckResult:
        return evaluate_shared_channel(read_subscribers(world.stores.redis, CHANNEL), CHANNEL, "increment")

    with SubscriberThread(ours) as ours_running:
        assert shared().status == "healthy"
        with SubscriberThread(shadow) as other:
            ours_running.subscriber.writer.shared_channel._due = 0.0
            wait_until(lambda: logged("channel_shared"), 20, "a line in the log")
            assert logged("PUBSUB_CHANNEL")
            result = shared()
            assert result.status == "degraded"
            assert "PUBSUB_CHANNEL" in result.remedy
            publish(world.client, CHANNEL, "a", 7)
            wait_until(lambda: ours_running.stats.folded_views == other.stats.folded_views == 7, 20, "both counted")
    with redis.Redis.from_url(other_redis) as client:
        assert (count(world.client, "vod:views:a"), count(client, SHOP + "a")) == (7, 7)


def test_message_on_the_presence_channel_is_no_cut(world: World, redis_url: str) -> None:
    """A number on the channel that shows presence ends no segment, and closes none."""
    with SubscriberThread(of(world.stores.ledger.url, redis_url)) as ours_running:
        world.client.publish("viewer:counting:" + CHANNEL, b"999999 999999")
        publish(world.client, CHANNEL, "a", 3)
        wait_until(lambda: ours_running.stats.folded_views == 3, 20, "folded")
        assert ours_running.subscriber.writer.buffer.last_cut < 999_999
    assert count(world.client, "vod:views:a") == 3


def test_worker_of_another_ledger_folds_nothing(world: World, redis_url: str, other_url: str) -> None:
    """Beside the pipeline's own worker, and after it: its /health names the owner of the counters."""
    stranger = of(other_url, redis_url)
    with ExitStack() as stack:
        with SubscriberThread(of(world.stores.ledger.url, redis_url)) as ours:
            other = stack.enter_context(SubscriberThread(stranger))
            wait_until(lambda: "are settled by the database" in other.stats.refusal_reason, 20, "the refusal")
            publish(world.client, CHANNEL, "a", 5)
            wait_until(lambda: ours.stats.folded_views == 5, 20, "folded by the pipeline's own")
        before = other.stats.received
        publish(world.client, CHANNEL, "a", 5)
        wait_until(lambda: other.stats.received == before + 5, 20, "received by the stranger")
        wait_until(lambda: "are settled by the database" in other.stats.refusal_reason, 20, "the refusal")
        assert other.state == "standby"
        result = evaluate_subscriber(other.stats)
        assert (result.status, world.identity.place in result.message) == ("unhealthy", True)
        probes = HealthProbes(stranger)
        stack.callback(probes.close)
        marker = by_name(probes.check_settling())["marker"]
        assert (marker.status, world.identity.place in marker.message) == ("unhealthy", True)
    assert other.stats.folded == 0
    assert count(world.client, "vod:views:a") == 5


def test_restarted_worker_folds_without_postgres(world: World, redis_url: str) -> None:
    """Redis knows that the database at that place has its ledger, so messages are folded at once."""
    with Proxy.of(world.stores.ledger.url, 5432) as proxy:
        settings = of(proxy.url(world.stores.ledger.url), redis_url)
        with SubscriberThread(settings):
            pass
        proxy.cut()
        with SubscriberThread(settings) as again:
            wait_until(lambda: again.state == "listening", 30, "the lease")
            publish(world.client, CHANNEL, "a", 3)
            wait_until(lambda: again.stats.folded_views == 3, 20, "folded without PostgreSQL")
    assert count(world.client, "vod:views:a") == 3


def test_first_worker_before_migrate(world: World, redis_url: str, postgres_server: Postgres) -> None:
    """PostgreSQL answers, so the reason is the missing schema; views are folded as soon as it exists."""
    name = "empty_" + os.urandom(6).hex()
    with psycopg.connect(postgres_server.url_of_database("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        url = postgres_server.url_of_database(name)
        with SubscriberThread(of(url, redis_url)) as first:
            wait_until(lambda: "schema `viewer` is missing" in first.stats.refusal_reason, 20, "the reason")
            publish(world.client, CHANNEL, "a", 4)
            wait_until(lambda: first.stats.in_memory == 4, 20, "kept in memory")
            result = evaluate_subscriber(first.stats)
            assert result.status == "unhealthy"
            assert "so it is not known whether these counters belong to it: The schema" in result.message
            assert "has not answered" not in result.message
            migrate(url, with_dagster=False)
            wait_until(lambda: first.stats.folded_views == 4, 30, "folded once the schema exists")
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    assert count(world.client, "vod:views:a") == 4


def test_first_worker_waits_for_postgres(world: World, redis_url: str) -> None:
    """It cannot know whose the counters are: messages stay in memory, and are folded as soon as it knows."""
    with Proxy.of(world.stores.ledger.url, 5432) as proxy:
        settings = of(proxy.url(world.stores.ledger.url), redis_url)
        proxy.cut()
        with SubscriberThread(settings) as first:
            wait_until(lambda: "PostgreSQL has not answered yet" in first.stats.refusal_reason, 20, "the reason")
            publish(world.client, CHANNEL, "a", 4)
            wait_until(lambda: first.stats.in_memory == 4, 20, "kept in memory")
            assert evaluate_subscriber(first.stats).status == "unhealthy"
            assert count(world.client, "vod:views:a") == 0
            proxy.heal()
            wait_until(lambda: first.stats.folded_views == 4, 30, "folded once it is known")
            assert evaluate_subscriber(first.stats).status == "healthy"
    assert count(world.client, "vod:views:a") == 4
