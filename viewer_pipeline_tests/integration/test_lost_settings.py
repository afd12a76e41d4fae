"""A start without a setting that was in use before is reported, until it is set again or the change is confirmed."""

from __future__ import annotations

import logging

import dagster as dg
import pytest

from viewer_pipeline.definitions import defs
from viewer_pipeline.flush.recorded_settings import (
    read_recorded_settings,
    record_settings_in_redis,
    replace_recorded_settings,
)
from viewer_pipeline.monitoring.probes import HealthProbes
from viewer_pipeline.orchestration.flush_job import flush_views
from viewer_pipeline.settings import Settings
from viewer_pipeline_tests.support.subscribers import CHANNEL, SUBSCRIBER, SubscriberThread
from viewer_pipeline_tests.support.waiting import wait_until
from viewer_pipeline_tests.support.world import World

RECORD = {"PUBSUB_MODE": "announce", "TARGET_TABLE": "public.Vod"}


@pytest.fixture
def plain(database_url: str, redis_url: str) -> Settings:
    """Both servers, otherwise the defaults."""
    return Settings(database_url=database_url, redis_url=redis_url)


@pytest.fixture
def exported(plain: Settings) -> Settings:
    """Those of a shell in which the mode and the table were exported."""
    return plain.copy_unvalidated(pubsub_mode="announce", target_table="public.Vod")


def message_of(settings: Settings) -> str:
    """Return the message of the check; empty if it is healthy."""
    probes = HealthProbes(settings)
    try:
        (result,) = probes.check_lost_settings()
    finally:
        probes.close()
    return "" if result.passed else result.message


def test_a_worker_without_settings_of_the_one_before(
    world: World, exported: Settings, plain: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """The check is degraded, the worker logs what is missing; with the settings again, all is well."""
    with SubscriberThread(exported):
        wait_until(lambda: read_recorded_settings(world.stores.redis) == RECORD, 30, "the record")
        assert message_of(exported) == ""
    assert not [record for record in caplog.records if "setting_lost" in record.getMessage()]
    with caplog.at_level(logging.WARNING), SubscriberThread(plain):
        wait_until(lambda: "setting_lost setting=TARGET_TABLE recorded=public.Vod" in caplog.text, 30, "the warning")
    assert "setting_lost setting=PUBSUB_MODE recorded=announce" in caplog.text
    message = message_of(plain)
    assert "PUBSUB_MODE is increment, and was announce before" in message
    assert "TARGET_TABLE is not set, and was public.Vod before" in message
    assert read_recorded_settings(world.stores.redis) == RECORD  # the next start reports it, too
    assert message_of(exported) == ""


def test_a_confirmed_change(world: World, exported: Settings, plain: Settings) -> None:
    """Nothing is reported afterwards, and a setting that is set later is recorded again."""
    store = world.stores.redis
    assert record_settings_in_redis(store, exported) == {}
    assert record_settings_in_redis(store, plain) == RECORD
    assert replace_recorded_settings(store, plain) == RECORD
    assert message_of(plain) == ""
    assert record_settings_in_redis(store, plain) == {}
    assert record_settings_in_redis(store, exported) == {}
    assert message_of(plain) != ""


def test_another_table(world: World, exported: Settings) -> None:
    """It replaces the old one with its columns; nothing is lost."""
    store, first = world.stores.redis, exported.copy_unvalidated(target_count_column="views")
    assert record_settings_in_redis(store, first) == {}
    other = exported.copy_unvalidated(target_table="clip")
    assert record_settings_in_redis(store, other) == {}
    assert read_recorded_settings(store) == {"PUBSUB_MODE": "announce", "TARGET_TABLE": "clip"}
    assert record_settings_in_redis(store, other.copy_unvalidated(target_table=None)) == {"TARGET_TABLE": "clip"}


def test_a_run_records_its_settings(world: World, plain: Settings) -> None:
    """Counters need no worker, and it is the runs that add views to the table."""
    world.send("a", 1)
    settings = plain.copy_unvalidated(totals_channel="other_totals")
    with dg.DagsterInstance.ephemeral() as instance:
        job = defs.resolve_job_def(flush_views.name)
        assert job.execute_in_process(instance=instance, resources={"settings": settings}).success
    assert read_recorded_settings(world.stores.redis) == {"TOTALS_CHANNEL": "other_totals"}
    assert message_of(plain) == "TOTALS_CHANNEL is view_count_totals, and was other_totals before"


def test_default_settings_write_nothing(world: World, plain: Settings) -> None:
    """Neither a key nor a field."""
    assert record_settings_in_redis(world.stores.redis, plain) == {}
    assert world.client.keys() == []
    with SubscriberThread(plain):
        world.client.publish(CHANNEL, '{"vodId":"a","count":1}')
        wait_until(lambda: world.counters() == {"a": 1}, 30, "the view")
    assert world.client.hget(SUBSCRIBER, "settings") is None


@pytest.mark.parametrize("value", ["x", "[]", "7"])
def test_a_record_that_is_none(world: World, exported: Settings, value: str) -> None:
    """It stops nothing, and is replaced."""
    world.client.hset(SUBSCRIBER, "settings", value)
    assert message_of(exported) == ""
    assert record_settings_in_redis(world.stores.redis, exported) == {}
    assert read_recorded_settings(world.stores.redis) == RECORD
