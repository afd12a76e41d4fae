"""Redis without HELLO and CLIENT: behind a proxy, with `rename-command`, or for a user who may not run them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest
import redis

from viewer_pipeline.cli.in_process_runs import run_flush
from viewer_pipeline.cli.send import send_views
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.monitoring.doctor.run_checks import run_doctor_checks
from viewer_pipeline.monitoring.status import read_status
from viewer_pipeline.orchestration.flush_ops import FlushMode
from viewer_pipeline.orchestration.flush_sensor import view_count_updates_sensor
from viewer_pipeline.settings import Settings
from viewer_pipeline.stack.managed_process import ManagedProcess
from viewer_pipeline.stack.ports import LOOPBACK, find_free_port
from viewer_pipeline.stores.redis import connect
from viewer_pipeline_tests.support.check_results import by_name
from viewer_pipeline_tests.support.dagster_world import DagsterWorld
from viewer_pipeline_tests.support.http_world import HttpWorld
from viewer_pipeline_tests.support.servers import redis_binary
from viewer_pipeline_tests.support.subscribers import CHANNEL, SubscriberThread, message
from viewer_pipeline_tests.support.waiting import wait_until
from viewer_pipeline_tests.support.world import PREFIX, World

HEALTHY = {"redis", "redis_memory", "freshness", "marker", "unsettled", "incidents", "subscriber"}
DOCTOR = {
    "redis",
    "redis_memory",
    "redis_version",
    "redis_commands",
    "redis_durability",
    "clock",
    "keyspace",
}


@contextmanager
def redis_without(home: Path, *commands: str, **renamed: str) -> Iterator[str]:
    """Run a Redis that does not know these commands, and others by another name; yield its URL."""
    port, configuration = find_free_port(), home / "redis.conf"
    lines = [f"port {port}", f"bind {LOOPBACK}", f"dir {home}", 'save ""', "maxmemory-policy noeviction"]
    lines += [f'rename-command {name} ""' for name in commands]
    lines += [f"rename-command {name} {new}" for name, new in renamed.items()]
    configuration.write_text("\n".join([*lines, ""]))
    process = ManagedProcess("redis", [redis_binary(), configuration], log=home / "redis.log")
    process.start()
    try:
        wait_until(lambda: "Ready to accept" in process.log_tail(), 30, f"Redis: {process.log_tail()}")
        yield f"redis://{LOOPBACK}:{port}/0"
    finally:
        process.stop()


@pytest.mark.parametrize("commands", [("HELLO",), ("CLIENT",), ("HELLO", "CLIENT")])
def test_everything_works_without_them(
    dagster: DagsterWorld, dagster_settings: Settings, tmp_path: Path, commands: tuple[str, ...]
) -> None:
    """Worker, /health, sensor, flushes, settling after a crash, status, doctor, `send`; every view counts once."""
    with redis_without(tmp_path, *commands) as url, connect(url) as client:
        for name in commands:
            with pytest.raises(redis.ResponseError, match="unknown command"):
                client.execute_command(name)
        settings = dagster_settings.copy_unvalidated(redis_url=url)
        world = World(Stores(RedisStore(client, url, PREFIX), Ledger(settings.require_database_url())))
        with SubscriberThread(settings) as worker:
            world.send_many(7)
            for number in range(50):
                client.publish(CHANNEL, message(f"vod{number % 5:04d}", 2))
                world.sent[f"vod{number % 5:04d}"] += 2
            send_views(settings, "by hand", 3, "publish")
            world.sent["by hand"] += 3
            wait_until(lambda: worker.stats.folded_views == 103, 30, "all messages to be folded")
            http = HttpWorld(settings)
            http.start()
            try:
                checks = http.health()[2]
            finally:
                http.stop()
            assert {name: checks[name]["status"] for name in HEALTHY} == dict.fromkeys(HEALTHY, "healthy")
            with dg.build_sensor_context(dagster.instance, resources={"settings": settings}) as context:
                assert isinstance(view_count_updates_sensor(context), dg.RunRequest)
            world.flush_unsettled()
            assert read_status(settings).checks["unsettled"].details["unsettled_flushes"] > 1
            world.send("late")
            assert run_flush(dagster.instance, settings, FlushMode.sweep, trigger="test").success
            world.assert_all_persisted()
            assert read_status(settings).checks["unsettled"].details["unsettled_flushes"] == 0
            results = by_name(run_doctor_checks(settings))
            assert {name: results[name].status for name in DOCTOR} == dict.fromkeys(DOCTOR, "healthy")


def test_the_doctor_names_a_command_that_is_needed(dagster_settings: Settings, tmp_path: Path) -> None:
    """Before a flush fails at it; commands without which only something is unknown are named, too."""
    with redis_without(tmp_path, "EVALSHA", "ZREM", "INFO") as url:
        result = by_name(run_doctor_checks(dagster_settings.copy_unvalidated(redis_url=url)))["redis_commands"]
        assert (result.status, result.message) == (
            "unhealthy",
            "this Redis has no EVALSHA, ZREM, INFO (version, memory, cluster mode and persistence are unknown)",
        )
    with redis_without(tmp_path, "COMMAND") as url:
        result = by_name(run_doctor_checks(dagster_settings.copy_unvalidated(redis_url=url)))["redis_commands"]
        assert (result.status, "COMMAND INFO is refused" in result.remedy) == ("unknown", True)


def test_a_server_whose_command_replies_otherwise(dagster_settings: Settings, tmp_path: Path) -> None:
    """As that of some compatible servers, which ignore the names; here it is MGET."""
    with redis_without(tmp_path, "COMMAND", MGET="COMMAND") as url:
        results = by_name(run_doctor_checks(dagster_settings.copy_unvalidated(redis_url=url)))
        assert results["redis_commands"].status == "unknown"
        assert results["redis_version"].status == "healthy"


def test_a_user_without_the_right_to_use_them(world: World, redis_url: str) -> None:
    """An ACL that forbids CLIENT and HELLO costs the name of the connections, nothing else."""
    categories, commands = ["+@all"], ["-client", "-hello"]
    world.client.acl_setuser(
        "narrow", enabled=True, nopass=True, categories=categories, commands=commands, keys=["*"], channels=["*"]
    )
    url = redis_url.replace("redis://", "redis://narrow:any@")
    try:
        with connect(url) as client:
            narrow = World(Stores(RedisStore(client, url, PREFIX), world.stores.ledger))
            narrow.send_many(5)
            narrow.flush()
            narrow.assert_all_persisted()
            names = {line["name"] for line in world.client.client_list() if line["user"] == "narrow"}
            assert names == {""}
    finally:
        world.client.acl_deluser("narrow")
