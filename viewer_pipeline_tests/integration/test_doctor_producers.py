"""Which PUBSUB_MODE the producers need: told by the doctor, with real producers, workers and flushes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, NamedTuple

import orjson
import pytest
import redis

from viewer_pipeline.monitoring.doctor.examine import Doctor
from viewer_pipeline.monitoring.doctor.finding import Finding
from viewer_pipeline.redis_names import RedisNames
from viewer_pipeline.setting_types import PubSubMode
from viewer_pipeline.settings import Settings
from viewer_pipeline_tests.support.producers import Kind, Producer, flushes_going_on
from viewer_pipeline_tests.support.subscribers import CHANNEL, Running
from viewer_pipeline_tests.support.waiting import wait_until
from viewer_pipeline_tests.support.world import PREFIX, World

SECONDS = 1.5


@pytest.fixture
def settings(database_url: str, redis_url: str) -> Settings:
    """Both servers, otherwise the defaults."""
    return Settings(database_url=database_url, redis_url=redis_url)


@pytest.fixture
def scene() -> Iterator[ExitStack]:
    """What goes on while the doctor listens."""
    with ExitStack() as stack:
        yield stack


def listen(settings: Settings, seconds: float = SECONDS) -> Finding:
    """Return what the doctor says of the producers."""
    (found,) = [finding for finding in Doctor(settings, seconds).examine() if finding.name == "producers"]
    return found


def work(scene: ExitStack, settings: Settings, mode: PubSubMode) -> None:
    """Let a worker listen."""
    scene.enter_context(Running(settings.changed(pubsub_mode=mode)))


class Case(NamedTuple):
    """Producers, the worker at work, the setting; and what the doctor says: a state, and the mode that is needed."""

    kind: Kind
    worker: PubSubMode | None
    mode: PubSubMode
    state: str
    needs: str


CASES = [
    Case("streamix", None, "announce", "ok", "announce"),
    Case("streamix", None, "increment", "problem", "announce"),
    Case("streamix", "announce", "announce", "ok", "announce"),
    Case("streamix", "increment", "increment", "problem", "announce"),
    Case("backwards", None, "announce", "ok", "announce"),
    Case("backwards", "announce", "announce", "ok", "announce"),
    Case("publish", None, "increment", "ok", "increment"),
    Case("publish", None, "announce", "problem", "increment"),
    Case("publish", "increment", "increment", "ok", "increment"),
    Case("publish", "announce", "announce", "problem", "increment"),
    Case("incr", None, "increment", "note", "no traffic"),
    Case("incr", "increment", "increment", "note", "no traffic"),
]


@pytest.mark.parametrize("flushing", [False, True], ids=["quiet", "flushing"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind}-{case.worker}-{case.mode}")
def test_verdicts(settings: Settings, world: World, scene: ExitStack, case: Case, flushing: bool) -> None:
    """Of each kind of producers, whoever works on the counters meanwhile."""
    if case.worker:
        work(scene, settings, case.worker)
    if flushing:
        world.flush()
        scene.enter_context(flushes_going_on(world))
    scene.enter_context(Producer(settings.require_redis_url(), case.kind))
    found = listen(settings.changed(pubsub_mode=case.mode))
    assert (found.state, found.figures["needs"]) == (case.state, case.needs), found.what
    if case.kind == "incr":
        assert found.figures["unheard_views"] > 0
    elif case.worker:
        unsure = [None] if case.kind == "backwards" else []  # their INCR follows the message, as a fold does
        assert found.figures["worker_adds"] in [case.worker == "increment", *unsure]
        assert found.figures["folded_views"] > 0


@pytest.mark.parametrize("worker", [None, "increment", "announce"])
@pytest.mark.parametrize(("kind", "needs"), [("streamix", "announce"), ("publish", "increment")])
def test_each_vod_is_heard_of_once(
    settings: Settings, scene: ExitStack, kind: Kind, needs: str, worker: PubSubMode | None
) -> None:
    """Little traffic over many VODs: whether the view was in the counter when it was looked at first."""
    mode: PubSubMode = worker or "increment"
    if worker:
        work(scene, settings, worker)
    scene.enter_context(Producer(settings.require_redis_url(), kind, vods=10**9, pause=0.05))
    found = listen(settings.changed(pubsub_mode=mode))
    assert found.figures["compared_views"] <= 1  # of a VOD that was looked at between its INCR and its message
    assert (found.state, found.figures["needs"]) == ("ok" if mode == needs else "problem", needs), found.what
    assert found.figures["first_sights"] > 5


def test_nobody_sends(settings: Settings) -> None:
    """No traffic is said to be none, and what to do about it."""
    found = listen(settings, 0.3)
    assert (found.state, found.figures["needs"], found.figures["messages"]) == ("note", "no traffic", 0)
    assert found.what.startswith("no traffic seen on view_count_updates (0 messages")
    assert "PUBSUB_CHANNEL=view_count_updates" in found.do


def test_worker_with_other_settings(settings: Settings, scene: ExitStack) -> None:
    """A worker that adds what it hears, where the doctor was told that none does: every view counts twice."""
    work(scene, settings, "increment")
    scene.enter_context(Producer(settings.require_redis_url(), "streamix"))
    found = listen(settings.changed(pubsub_mode="announce"))
    assert (found.state, found.figures["needs"]) == ("problem", "announce")
    assert "the worker does as with PUBSUB_MODE=increment, the setting here is announce" in found.what


def test_some_count_and_some_do_not(settings: Settings, scene: ExitStack) -> None:
    """No mode is right for both; the VODs of each are named."""
    url = settings.require_redis_url()
    scene.enter_context(Producer(url, "streamix", vods=3, name="counted"))
    scene.enter_context(Producer(url, "publish", vods=3, name="lost"))
    found = listen(settings)
    assert (found.state, found.figures["needs"]) == ("problem", "mixed")
    assert re.search(r"views of counted\d, counted\d, counted\d are counted, views of lost\d", found.what)


def test_few_of_many_do_not_count(settings: Settings, scene: ExitStack) -> None:
    """Two views in a hundred are seen too, because they are all views of their VOD."""
    url = settings.require_redis_url()
    scene.enter_context(Producer(url, "streamix", vods=3, pause=0.001, batch=4))
    scene.enter_context(Producer(url, "publish", vods=1, pause=0.05, name="lost"))
    found = listen(settings, 2.0)
    assert (found.state, found.figures["needs"]) == ("problem", "mixed")


def test_an_old_worker_that_adds(settings: Settings, scene: ExitStack, client: redis.Redis) -> None:
    """Somebody else adds every message to a counter that has it: it says to stop that."""
    scene.enter_context(Producer(settings.require_redis_url(), "streamix"))
    pubsub = client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]  # so in redis-py
    pubsub.subscribe(**{CHANNEL: lambda heard: client.incr(PREFIX + orjson.loads(heard["data"])["vodId"])})
    thread = pubsub.run_in_thread(0.01)
    try:
        found = listen(settings.changed(pubsub_mode="announce"))
    finally:
        thread.stop()
        thread.join()
    assert (found.state, found.figures["needs"]) == ("problem", "announce")
    assert "counters gain 2.0 times what messages say" in found.what


def test_another_subscriber_may_be_who_counts(settings: Settings, scene: ExitStack, client: redis.Redis) -> None:
    """Counters that rise with the messages prove nothing about the producers while somebody else listens as well."""
    scene.enter_context(Producer(settings.require_redis_url(), "streamix"))
    with client.pubsub() as other:  # type: ignore[no-untyped-call]  # so in redis-py
        other.subscribe(CHANNEL)
        found = listen(settings.changed(pubsub_mode="announce"))
    assert (found.state, found.figures["needs"]) == ("warning", "announce")
    assert "or one of 1 subscribers that are no worker of ours does" in found.what


@pytest.mark.parametrize("worker", [None, "announce"])
def test_five_thousand_a_second(settings: Settings, world: World, scene: ExitStack, worker: PubSubMode | None) -> None:
    """Nothing is missed, nothing is doubled: what counters gained is what messages said, while flushes go on."""
    if worker:
        work(scene, settings, worker)
    world.flush()
    scene.enter_context(flushes_going_on(world))
    scene.enter_context(Producer(settings.require_redis_url(), "streamix", vods=1000, pause=0.02, batch=100))
    found = listen(settings.changed(pubsub_mode="announce"), 3.0)
    assert (found.state, found.figures["needs"]) == ("ok", "announce"), found.what
    assert found.figures["compared_views"] > 1000
    assert found.figures["counted_views"] == pytest.approx(found.figures["compared_views"], rel=0.02)


def test_the_doctor_is_no_worker(settings: Settings, scene: ExitStack, client: redis.Redis) -> None:
    """Workers count who hears their cuts, to know whether another goes on when they stop: it is not among them."""
    scene.enter_context(Running(settings))
    listening = scene.enter_context(ThreadPoolExecutor(1)).submit(Doctor(settings, 1.0).examine)
    wait_until(lambda: client.pubsub_numsub(CHANNEL)[0][1] == 2, 30, "the doctor listens")
    space: Any = client.hget("viewer:subscriber", "id")
    assert client.pubsub_numsub(RedisNames.of(PREFIX).cuts_channel(space.decode()))[0][1] == 1
    (found,) = [finding for finding in listening.result() if finding.name == "listener"]
    assert (found.state, found.figures) == ("ok", {"workers": 1, "other_subscribers": 0})
