"""The sensor finds counters that nobody announced: a part of the keys at each tick, in process on real servers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest
import redis

from viewer_pipeline.flush.counter_reader import SCAN_COUNT
from viewer_pipeline.flush.unannounced_counters import MAX_CURSOR, parse_scan_cursor, scan_for_unannounced
from viewer_pipeline.orchestration.flush_ops import FlushMode, flush_run_config
from viewer_pipeline.orchestration.flush_sensor import view_count_updates_sensor
from viewer_pipeline.settings import Settings
from viewer_pipeline_tests.support.streamix import TargetWorld
from viewer_pipeline_tests.support.world import PREFIX, World

NOTHING = "no VOD was announced since the last flush"
MANY_KEYS = 5000


class Sensor:
    """The sensor, with the cursor that the daemon keeps between its ticks."""

    def __init__(self, instance: dg.DagsterInstance, settings: Settings) -> None:
        self.instance = instance
        self.settings = settings
        self.cursor: str | None = None

    def tick(self) -> dg.RunRequest | dg.SkipReason:
        """Evaluate it once."""
        resources = {"settings": self.settings}
        with dg.build_sensor_context(self.instance, cursor=self.cursor, resources=resources) as context:
            result = view_count_updates_sensor(context)
            self.cursor = context.cursor
        assert isinstance(result, dg.RunRequest | dg.SkipReason)
        return result

    def skip_reason(self) -> str:
        """Return the reason of a tick that must skip."""
        result = self.tick()
        assert isinstance(result, dg.SkipReason), result
        return str(result.skip_message)

    def trigger(self) -> str:
        """Return the trigger of a tick that must request a flush of the changed set."""
        result = self.tick()
        assert isinstance(result, dg.RunRequest), result
        assert result.run_config == flush_run_config(FlushMode.changed)
        return result.tags["viewer/trigger"]

    def with_settings(self, **updates: Any) -> Sensor:
        """Change settings."""
        self.settings = self.settings.copy_unvalidated(**updates)
        return self


@pytest.fixture
def sensor(redis_url: str, database_url: str) -> Iterator[Sensor]:
    """The sensor on the servers of this test."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield Sensor(instance, Settings(redis_url=redis_url, database_url=database_url))


def add_other_keys(client: redis.Redis, keys: int = MANY_KEYS) -> None:
    """Add keys that are no counters."""
    client.mset({f"vod:session:{number}": 1 for number in range(keys)})


def scan_calls(client: redis.Redis) -> int:
    """Return how many SCAN calls the server got since the last call of this function."""
    stats: Any = client.info("commandstats")
    client.config_resetstat()
    return int(stats.get("cmdstat_scan", {"calls": 0})["calls"])


def test_a_counter_that_nobody_announced_is_flushed_by_the_next_tick(sensor: Sensor, world: World) -> None:
    """INCR without PUBLISH; the next tick has nothing to do."""
    assert sensor.skip_reason() == f"{NOTHING}, and a scan of all keys (0) found no counter to flush"
    world.send("silent", 3)
    assert sensor.trigger().startswith("sensor: 1 VOD announced, 1 of them by a scan, the oldest 0 s ago")
    world.flush("changed")
    world.assert_all_persisted()
    assert sensor.skip_reason().startswith(f"{NOTHING}, and a scan of all ")


def test_counters_that_are_announced_keep_their_time(sensor: Sensor, world: World) -> None:
    """The age of the oldest pending view stays right, and a scan adds the others."""
    world.send("announced", 1, announce=True)
    assert world.client.zscore("viewer:changed", "announced") == 1
    assert " announced, the oldest " in sensor.trigger()
    world.send("silent", 2)
    assert sensor.trigger().startswith("sensor: 2 VODs announced, 1 of them by a scan, the oldest ")
    assert world.client.zscore("viewer:changed", "announced") == 1
    world.flush("changed")
    world.assert_all_persisted()


def test_what_is_no_count_triggers_no_run(sensor: Sensor, world: World) -> None:
    """Before it is recorded as a reject and after; zero, other types, ids that PostgreSQL cannot store, likewise."""
    for name, value in {"bad": "abc", "zero": "0", "negative": "-1", "": "5", "x" * 256: "5"}.items():
        world.client.set(PREFIX + name, value)
    world.client.set((PREFIX + "latin").encode() + b"\xe9", 5)
    world.client.hset(PREFIX + "hash", "field", 1)
    world.client.rpush(PREFIX + "list", 1)
    for _ in range(2):
        assert sensor.skip_reason().startswith(NOTHING)
        assert world.client.zcard("viewer:changed") == 0
        world.flush()
    assert len(world.rejected()) == 7


def test_parked_views_trigger_no_run(sensor: Sensor, vods: TargetWorld) -> None:
    """They left Redis for PostgreSQL; a further view of that VOD is flushed."""
    vods.send("late", 5)
    assert ", 1 of them by a scan, " in sensor.trigger()
    vods.flush("changed")
    assert vods.parked() == {"late": 5}
    assert sensor.skip_reason().startswith(NOTHING)
    vods.send("late", 1)
    assert ", 1 of them by a scan, " in sensor.trigger()


def test_a_scan_continues_where_the_last_one_ended(sensor: Sensor, world: World) -> None:
    """And begins again after the last key: in as many ticks as the skip reason says, whatever the cursor was."""
    add_other_keys(world.client)
    sensor.with_settings(sensor_scan_max_keys=1000)
    expected = f"{NOTHING}, and a scan of 1000 of 5000 keys found no counter to flush; 5 ticks (2 min) scan all"
    for _ in range(7):
        assert sensor.skip_reason() == expected
    assert parse_scan_cursor(sensor.cursor) > 0
    world.send("silent", 3)
    ticks = 1
    while isinstance(sensor.tick(), dg.SkipReason):
        ticks += 1
    assert ticks <= 6
    world.flush("changed")
    world.assert_all_persisted()


def test_every_scan_is_complete_while_the_budget_covers_all_keys(sensor: Sensor, world: World) -> None:
    """Also the first one after there were more keys: it continues, and then begins again."""
    add_other_keys(world.client)
    sensor.with_settings(sensor_scan_max_keys=MANY_KEYS // 2)
    sensor.skip_reason()
    assert parse_scan_cursor(sensor.cursor) > 0
    sensor.with_settings(sensor_scan_max_keys=MANY_KEYS + SCAN_COUNT)
    for number in range(20):
        world.send(f"silent {number}", 1)
        assert ", 1 of them by a scan, " in sensor.trigger()
        world.flush("changed")
    world.assert_all_persisted()


def test_the_budget_of_keys_is_kept(sensor: Sensor, world: World) -> None:
    """By the number of SCAN calls that the server got; 0 makes none."""
    add_other_keys(world.client)
    scan_calls(world.client)
    for max_keys, calls in ((0, 0), (1, 1), (SCAN_COUNT, 1), (SCAN_COUNT + 1, 2), (4 * SCAN_COUNT, 4)):
        sensor.with_settings(sensor_scan_max_keys=max_keys).skip_reason()
        assert scan_calls(world.client) == calls
    assert sensor.with_settings(sensor_scan_max_keys=0).skip_reason() == NOTHING


def test_the_budget_of_time_is_kept(world: World) -> None:
    """It is that of Redis: a call that uses it up is the last one, unless the budget of keys covers all."""
    add_other_keys(world.client)
    store = world.stores.redis
    assert store.scan_page(0, SCAN_COUNT).scan_seconds > 0
    assert scan_for_unannounced(store, 0, MANY_KEYS // 2, 1e-9).keys == SCAN_COUNT
    assert scan_for_unannounced(store, 0, MANY_KEYS // 2, 1e6).keys == MANY_KEYS // 2
    assert scan_for_unannounced(store, 0, MANY_KEYS, 1e-9).keys == MANY_KEYS
    assert Settings(batch_interval_ms=5000).sensor_scan_max_seconds == 0.1


@pytest.mark.parametrize("cursor", ["", "x", "-1", "1.5", "\u0661", "9" * 5000, str(MAX_CURSOR + 1), '{"cursor": 7}'])
def test_a_cursor_that_is_none_begins_a_scan(sensor: Sensor, world: World, cursor: str) -> None:
    """A person may have edited it in the UI."""
    world.send("silent", 3)
    sensor.cursor = cursor
    assert ", 1 of them by a scan, " in sensor.trigger()
    assert sensor.cursor == "0"


@pytest.mark.parametrize("cursor", ["7", str(MAX_CURSOR)])
def test_a_cursor_of_another_redis_is_harmless(sensor: Sensor, world: World, cursor: str) -> None:
    """Redis accepts any; the scan begins again after the last key."""
    world.send_many(30)
    sensor.cursor = cursor
    assert ", 30 of them by a scan, " in sensor.trigger()


def test_ticks_that_scan_nothing_keep_the_cursor(sensor: Sensor, world: World) -> None:
    """Those that request a sweep, and those that wait for a run."""
    sensor.cursor = "123"
    world.stores.redis.request_sweep("subscribed")
    result = sensor.tick()
    assert isinstance(result, dg.RunRequest)
    assert result.run_config == flush_run_config(FlushMode.sweep)
    assert sensor.cursor == "123"


def test_a_changed_set_of_another_type(sensor: Sensor, world: World) -> None:
    """Another program took its name: the sensor skips, and sweeps find all counters."""
    world.client.set("viewer:changed", "x")
    world.send("silent", 3)
    assert sensor.skip_reason().startswith(NOTHING)
