"""A backlog larger than RUN_MAX_COUNTERS: run after run until it is worked off, whatever is killed in between."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import redis

from viewer_pipeline.stack.ports import find_free_port
from viewer_pipeline_tests.support.stack import Stack, up, variables
from viewer_pipeline_tests.support.ui_runs import Runs
from viewer_pipeline_tests.support.waiting import wait_until
from viewer_pipeline_tests.support.warm import run
from viewer_pipeline_tests.support.world import PREFIX, World

VODS = 8_000
LIMIT = 1000  # a sweep reads up to a page of SCAN more
SECONDS = 240
TRIGGERS = """
SELECT t.value FROM dagster.run_tags AS t JOIN dagster.runs AS r USING (run_id)
WHERE t.key = 'viewer/trigger' AND r.pipeline_name = 'flush_views' ORDER BY t.id
"""
STARTED = "SELECT run_id FROM dagster.runs WHERE status = 'STARTED'"


def environment_of(tmp_path: Path, database_url: str, redis_url: str, **settings: str) -> dict[str, str]:
    """Return the environment of `up` on these servers. No schedule launches a run, and no scan announces VODs."""
    servers = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "HEALTH_CHECK_PORT": str(find_free_port())}
    quiet = {"SWEEP_CRON": "0 0 1 1 *", "SENSOR_SCAN_MAX_KEYS": "0", "RUN_MAX_COUNTERS": str(LIMIT)}
    return variables(tmp_path, **servers, **quiet, **settings)


def add_backlog(world: World, announced: bool = False) -> None:
    """Raise the counters of many VODs."""
    ids = [f"vod{number:05d}" for number in range(VODS)]
    world.client.mset({PREFIX + vod_id: 3 for vod_id in ids})
    if announced:
        world.client.zadd("viewer:changed", dict.fromkeys(ids, 1))
    world.sent.update(dict.fromkeys(ids, 3))


def is_worked_off(world: World) -> bool:
    """Whether no counter is left and no sweep is under way. In one call: runs go on meanwhile."""
    return not world.client.keys(f"{PREFIX}*") and not world.stores.redis.sweep_position()


def triggers(world: World) -> list[str]:
    """Return the triggers of all flush runs."""
    return [trigger for (trigger,) in world.rows(TRIGGERS)]


def wait_until_idle(stack: Stack, world: World) -> Runs:
    """Wait for the sweep that the worker requests at its start."""
    runs = Runs(stack, world)
    wait_until(lambda: world.stores.redis.sweep_request() is None and not runs.active(), 90, "the sweep at the start")
    return runs


@pytest.mark.parametrize("mode", ["sweep", "changed"])
def test_the_next_run_starts_without_a_tick(
    tmp_path: Path, database_url: str, redis_url: str, world: World, mode: str
) -> None:
    """The sensor ticks once an hour, no schedule does: each run queues the next one, and the last one none."""
    with up(environment_of(tmp_path, database_url, redis_url, BATCH_INTERVAL_MS="3600000")) as stack:
        runs = wait_until_idle(stack, world)
        before = len(triggers(world))
        add_backlog(world, announced=mode == "changed")
        runs.launch("flush_views", {"ops": {"view_counts": {"config": {"mode": mode}}}})
        wait_until(lambda: is_worked_off(world) and not runs.active(), SECONDS, "the backlog is worked off")
        world.assert_all_persisted()
        first, *others = triggers(world)[before:]
        assert first == "by hand"
        unit = "announced VOD" if mode == "changed" else "left, after "
        assert all(trigger.startswith("run ") and unit in trigger for trigger in others), others
        assert len(others) >= VODS / (2 * LIMIT)
        assert world.rows("SELECT max(counters) < 2000, count(DISTINCT run_id) > 5 FROM (SELECT run_id, sum(counters)"
                          " AS counters FROM viewer.flush GROUP BY 1) AS run") == [(True, True)]  # fmt: skip
        status = json.loads(stack.run("status", "--json").stdout)
        assert (status["pending_vods"], status["sweep_position"]) == (0, None)
        stack.stop()


def test_a_run_that_is_killed_is_continued(tmp_path: Path, database_url: str, redis_url: str, world: World) -> None:
    """Two runs are killed in the middle of the backlog: the next tick of the sensor continues the sweep."""
    with up(environment_of(tmp_path, database_url, redis_url)) as stack:
        runs = wait_until_idle(stack, world)
        add_backlog(world)
        runs.launch("flush_views")
        for _ in range(2):
            at = world.stores.redis.sweep_position()
            wait_until(lambda at=at: world.stores.redis.sweep_position() not in (b"", at), SECONDS, "a part")  # type: ignore[misc]
            wait_until(lambda: world.rows(STARTED), SECONDS, "the next run")
            os.kill(runs.pid(world.rows(STARTED)[0][0]), signal.SIGKILL)
            if is_worked_off(world):
                pytest.fail("the backlog is too small for this machine")
        wait_until(lambda: is_worked_off(world) and not runs.active(), SECONDS, "the backlog is worked off")
        world.assert_all_persisted()
        stack.stop()


def test_the_command_works_off_all(
    tmp_path: Path, database_url: str, redis_url: str, world: World, client: redis.Redis
) -> None:
    """`flush` ends after a whole pass of its own, also if it begins in the middle of another one."""
    environment = environment_of(tmp_path, database_url, redis_url)
    run(environment, "migrate")
    add_backlog(world)
    lines = run(environment, "flush").stdout.splitlines()
    assert len(lines) >= VODS / (2 * LIMIT)
    world.assert_all_persisted()
    add_backlog(world)
    world.flush(run_max_counters=3 * LIMIT)
    result = json.loads(run(environment, "flush", "--json").stdout)
    world.assert_all_persisted()
    assert result["stats"]["remaining"] == 0
    assert LIMIT < result["stats"]["counters"] < VODS
    assert client.hget("viewer:subscriber", "sweep_position") is None
