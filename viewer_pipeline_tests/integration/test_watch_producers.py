"""Which PUBSUB_MODE the producers need, from MONITOR on real servers, with producers, workers and flushes at work."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import orjson
import pytest
import redis

from viewer_pipeline.checks import CheckResult
from viewer_pipeline.monitoring.doctor.redis_monitor import watch_views_with_monitor
from viewer_pipeline.monitoring.doctor.run_checks import run_doctor_checks
from viewer_pipeline.setting_types import PubSubMode
from viewer_pipeline.settings import Settings
from viewer_pipeline.stack.redis_server import WHEELS, RedisServer, find_executable_in_wheel
from viewer_pipeline.stores.redis import connect
from viewer_pipeline_tests.support.producers import Kind, Producer, flushes_going_on
from viewer_pipeline_tests.support.proxy import Proxy
from viewer_pipeline_tests.support.subscribers import CHANNEL, SubscriberThread
from viewer_pipeline_tests.support.waiting import wait_until
from viewer_pipeline_tests.support.world import PREFIX, World

SECONDS = 1.5


@pytest.fixture
def settings(database_url: str, redis_url: str) -> Settings:
    """Both servers, otherwise the defaults."""
    return Settings(database_url=database_url, redis_url=redis_url)


@pytest.fixture
def scene() -> Iterator[ExitStack]:
    """Close what runs while the doctor watches."""
    with ExitStack() as stack:
        yield stack


def watch(settings: Settings, seconds: float = SECONDS) -> CheckResult:
    """Return the result of the check of the mode."""
    (result,) = [result for result in run_doctor_checks(settings, seconds) if result.name == "pubsub_mode"]
    assert result.passed or result.remedy
    return result


class Case(NamedTuple):
    """Producers, the mode of the worker at work, the setting; and the status and the needed mode that result."""

    kind: Kind
    worker: PubSubMode | None
    mode: PubSubMode
    status: str
    needed_mode: str | None


CASES = [
    Case("streamix", None, "announce", "healthy", "announce"),
    Case("streamix", None, "increment", "unhealthy", "announce"),
    Case("streamix", "announce", "announce", "healthy", "announce"),
    Case("streamix", "increment", "announce", "unhealthy", "announce"),  # counted twice
    Case("backwards", "announce", "announce", "healthy", "announce"),
    Case("without_count", "announce", "announce", "healthy", "announce"),
    Case("without_count", None, "increment", "unhealthy", "announce"),
    Case("publish", None, "announce", "unhealthy", "increment"),
    Case("publish", "increment", "increment", "healthy", "increment"),
    Case("incr", "increment", "increment", "unknown", None),
]


@pytest.mark.parametrize("flushing", [False, True], ids=["quiet", "flushing"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind}-{case.worker}-{case.mode}")
def test_modes(settings: Settings, world: World, scene: ExitStack, case: Case, flushing: bool) -> None:
    """Each kind of producers, while a worker folds and flushes settle."""
    if case.worker:
        scene.enter_context(SubscriberThread(settings.copy_unvalidated(pubsub_mode=case.worker)))
    if flushing:
        world.flush()
        scene.enter_context(flushes_going_on(world))
    scene.enter_context(Producer(settings.require_redis_url(), case.kind))
    result = watch(settings.copy_unvalidated(pubsub_mode=case.mode))
    assert (result.status, result.details["needed_mode"]) == (case.status, case.needed_mode), result.message
    if case.worker == "increment" and case.kind == "streamix":
        assert "times per message" in result.message


def test_producers_of_both_kinds(settings: Settings, scene: ExitStack) -> None:
    """No mode is right for both; VODs of each kind are named."""
    url = settings.require_redis_url()
    scene.enter_context(Producer(url, "streamix", vods=3, name="counted"))
    scene.enter_context(Producer(url, "publish", vods=3, name="lost"))
    result = watch(settings)
    assert (result.status, result.details["needed_mode"]) == ("unhealthy", None)
    assert "views of counted" in result.message
    assert "views of lost" in result.message


def test_another_program_that_adds_messages(settings: Settings, scene: ExitStack, client: redis.Redis) -> None:
    """An older worker, for example: views are counted twice."""
    scene.enter_context(Producer(settings.require_redis_url(), "streamix"))
    pubsub = client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]  # so in redis-py
    pubsub.subscribe(**{CHANNEL: lambda message: client.incr(PREFIX + orjson.loads(message["data"])["vodId"])})
    thread = pubsub.run_in_thread(0.01)
    try:
        result = watch(settings.copy_unvalidated(pubsub_mode="announce"))
    finally:
        thread.stop()
        thread.join()
    assert result.status == "unhealthy"
    assert "views are counted 2.0 times per message" in result.message


def test_too_few_views(settings: Settings) -> None:
    """No result without traffic."""
    result = watch(settings, 1.0)
    assert (result.status, result.details["views"]) == ("unknown", 0)
    assert "PUBSUB_CHANNEL" in result.remedy


def test_not_watched(settings: Settings) -> None:
    """Without the option the mode is unknown, with instructions to find it out by hand."""
    result = watch(settings, 0.0)
    assert (result.status, result.details) == ("unknown", {})
    assert "--watch-producers" in result.remedy
    assert "stop all workers" in result.remedy


def test_monitor_that_is_refused(settings: Settings, client: redis.Redis) -> None:
    """By an ACL, or by a managed service: unknown, with the same instructions."""
    commands = ["+@all", "-monitor"]
    client.acl_setuser("limited", True, passwords=["+s3cret"], keys=["*"], channels=["*"], commands=commands)
    try:
        url = settings.require_redis_url().replace("redis://", "redis://limited:s3cret@")
        result = watch(settings.copy_unvalidated(redis_url=url), 1.0)
    finally:
        client.acl_deluser("limited")
    assert result.status == "unknown"
    assert result.message.startswith("Redis refuses MONITOR: ")
    assert "no permissions to run the 'monitor' command" in result.message
    assert "stop all workers" in result.remedy
    assert "s3cret" not in str(result.to_dict())


def test_redis_that_stops_answering_to_monitor(settings: Settings) -> None:
    """The doctor returns within its limit."""
    url = settings.require_redis_url()
    with Proxy.of(url, 0) as proxy:
        proxy.fall_silent_at(b"MONITOR", deliver=True, times=100)
        silent = settings.copy_unvalidated(redis_url=proxy.url(url))
        results = run_doctor_checks(silent, 2.0, check_seconds=4)
    (result,) = [result for result in results if result.name == "pubsub_mode"]
    assert result.status in ("unknown", "unhealthy")


@pytest.mark.parametrize("module", [module for module in WHEELS if find_executable_in_wheel(module)])
def test_commands_of_others_are_dropped(tmp_path: Path, module: str) -> None:
    """On the oldest and the newest server: only views of this pipeline, and folds are distinguished from producers."""
    server = RedisServer(tmp_path, append_only=False, binary=find_executable_in_wheel(module))
    server.start()
    url = server.url.removesuffix("/0") + "/1"
    try:
        with connect(url) as client, connect(server.url) as other, ThreadPoolExecutor(1) as pool:
            watching = pool.submit(lambda: list(watch_views_with_monitor(Settings(redis_url=url), 3.0)))
            wait_until(lambda: any("O" in entry["flags"] for entry in other.client_list()), 30, "MONITOR has begun")
            script = "redis.call('INCRBY', KEYS[2], 2) return redis.call('DECRBY', KEYS[2], 1)"
            client.eval(script, 2, "viewer:subscriber", PREFIX + "folded")
            client.eval(script, 2, "foreign", PREFIX + "by a script")
            client.set("secret", PREFIX + "a")
            other.incr(PREFIX + "of another database")
            other.publish("another channel", b'{"vodId":"a","count":1}')
            other.publish(CHANNEL, '{"vodId":"é \\"x\\"","count":4}'.encode())
            client.incr(PREFIX + "é \n")
            views = watching.result()
    finally:
        server.stop()
    assert [(item.vod_id, item.views, item.source) for item in views] == [
        ("folded", 2, "worker"),
        ("by a script", 2, "producer"),
        ('é "x"', 4, "message"),
        ("é \n", 1, "producer"),
    ]
    assert [item for item in views if not 0 <= item.at <= 3.0] == []
