"""Worker processes that are frozen, killed and stopped while views come in: each view counts once."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from viewer_pipeline.stack.redis_server import RedisServer
from viewer_pipeline.stores.redis import connect
from viewer_pipeline_tests.conftest import TEMPLATE
from viewer_pipeline_tests.support.servers import Postgres, copy_database
from viewer_pipeline_tests.support.subscribers import CHANNEL, Fleet, Publisher, message
from viewer_pipeline_tests.support.waiting import wait_until
from viewer_pipeline_tests.support.world import PREFIX

TAKE_OVER_SECONDS = 10


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One Redis for the tests of this module: other tests empty theirs."""
    server = RedisServer(tmp_path_factory.mktemp("workers"), append_only=False)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def fleet(server: RedisServer, postgres_server: Postgres, tmp_path_factory: Any) -> Iterator[Fleet]:
    """Workers that stay from test to test, because each takes seconds to start."""
    directory: Path = tmp_path_factory.mktemp("fleet")
    name = "fleet_" + os.urandom(6).hex()
    with psycopg.connect(postgres_server.url_of_database("postgres"), autocommit=True) as connection:
        copy_database(connection, name, TEMPLATE)
    with connect(server.url) as client:
        fleet = Fleet(client, postgres_server.url_of_database(name), server.url, directory)
        try:
            fleet.scale_to(2)
            yield fleet
        finally:
            for worker in fleet.workers:
                worker.end()
            with psycopg.connect(postgres_server.url_of_database("postgres"), autocommit=True) as connection:
                connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def counted(client: redis.Redis, sent: Counter[str]) -> Counter[str]:
    """Return the counters of all VODs that were sent to."""
    ids = list(sent)
    values: Any = client.mget([PREFIX + vod_id for vod_id in ids])
    return Counter({vod_id: int(value or 0) for vod_id, value in zip(ids, values, strict=True)})


def assert_all_counted_once(fleet: Fleet, publisher: Publisher) -> None:
    """Wait until all is folded; then compare per VOD."""
    assert publisher.undelivered == 0
    assert publisher.sent.total() > 0
    sent = publisher.sent
    wait_until(lambda: counted(fleet.client, sent).total() >= sent.total(), 20, f"{sent.total()} views")
    last = publisher.name + "last"
    fleet.client.publish(CHANNEL, message(last))
    wait_until(lambda: fleet.client.exists(PREFIX + last), 20, "a view more, behind all others")
    assert counted(fleet.client, sent) == sent


def test_frozen_holder_is_replaced(fleet: Fleet, server: RedisServer) -> None:
    """The standby takes over with all that it received; the woken worker folds nothing and stands by."""
    with Publisher(server.url, "frozen") as publisher:
        fleet.scale_to(2)
        wait_until(lambda: publisher.sent.total() > 1000, 20, "views on their way")
        frozen = fleet.leader()
        frozen.send(signal.SIGSTOP)
        try:
            fleet.wait_for_takeover(frozen, TAKE_OVER_SECONDS)
            sent = publisher.sent.total()
            wait_until(lambda: publisher.sent.total() > sent + 1000, 20, "views under the new holder")
        finally:
            frozen.send(signal.SIGCONT)
        woken = publisher.sent.total()
        wait_until(lambda: publisher.sent.total() > woken + 1000, 20, "views since it woke")
    assert_all_counted_once(fleet, publisher)
    assert fleet.holder() != frozen.pid


def test_killed_holder_is_replaced_by_the_standby(fleet: Fleet, server: RedisServer) -> None:
    """Unfolded messages of the killed worker are folded by the standby, not by the worker that was started later."""
    with Publisher(server.url, "killed") as publisher:
        fleet.scale_to(2)
        wait_until(lambda: publisher.sent.total() > 1000, 20, "views on their way")
        killed = fleet.leader()
        assert fleet.end(killed, signal.SIGKILL) == -signal.SIGKILL
        fleet.start()
        fleet.wait_for_takeover(killed, TAKE_OVER_SECONDS)
        sent = publisher.sent.total()
        wait_until(lambda: publisher.sent.total() > sent + 1000, 20, "views under the new holder")
    assert_all_counted_once(fleet, publisher)


def test_stopped_holder_hands_over(fleet: Fleet, server: RedisServer) -> None:
    """It releases the lease at once, and the standby continues where it ended."""
    with Publisher(server.url, "stopped") as publisher:
        fleet.scale_to(2)
        for _ in range(2):
            before = publisher.sent.total()
            wait_until(lambda before=before: publisher.sent.total() > before + 500, 20, "views")  # type: ignore[misc]
            stopped = fleet.leader()
            assert fleet.end(stopped, signal.SIGTERM) == 0
            fleet.wait_for_takeover(stopped, 3)
            fleet.scale_to(2)
    assert_all_counted_once(fleet, publisher)


def test_rolling_restarts_lose_no_view(fleet: Fleet, server: RedisServer) -> None:
    """One worker at a time is frozen, killed or stopped, in random order: no view is lost or doubled."""
    seed = random.SystemRandom().randrange(10**6)
    print("seed", seed)  # noqa: T201 - pytest shows it where the test fails
    chance = random.Random(seed)
    signals = [signal.SIGSTOP, signal.SIGKILL, signal.SIGTERM]
    chance.shuffle(signals)
    with Publisher(server.url, "rolling") as publisher:
        fleet.scale_to(3)
        for number in signals:
            worker = fleet.leader() if chance.random() < 0.7 else chance.choice(fleet.workers)
            was_leader = worker.pid == fleet.holder()
            print(number.name, "leader" if was_leader else "standby")  # noqa: T201
            if number == signal.SIGSTOP:
                worker.send(number)
            else:
                fleet.end(worker, number)
                fleet.start()
            if was_leader:
                fleet.wait_for_takeover(worker, TAKE_OVER_SECONDS)
            if number == signal.SIGSTOP:
                worker.send(signal.SIGCONT)
            fleet.scale_to(3)
    assert_all_counted_once(fleet, publisher)
