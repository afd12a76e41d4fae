"""Stops of a worker: it loses no view and ends in time."""

from __future__ import annotations

import json
import signal
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from viewer_pipeline.migrations.migrate import migrate
from viewer_pipeline.stack.postgres_server import PostgresServer
from viewer_pipeline.stack.redis_server import RedisServer
from viewer_pipeline.stores.redis import connect
from viewer_pipeline_tests.support.waiting import ENOUGH, wait_until
from viewer_pipeline_tests.support.worker_process import WorkerProcess, publish
from viewer_pipeline_tests.support.world import PREFIX, World

LOCK = "LOCK TABLE viewer.vod_view_counts IN ACCESS EXCLUSIVE MODE"


@pytest.fixture
def worker(tmp_path: Path, database_url: str, redis_url: str) -> Iterator[WorkerProcess]:
    """A worker that listens."""
    with WorkerProcess(tmp_path, database_url, redis_url) as process:
        process.wait_until_ready()
        yield process


def reasons_of_runs(world: World) -> list[tuple[str, str]]:
    """Return (status, trigger) of the runs in Dagster's history."""
    query = "SELECT r.status, t.value FROM dagster.runs r JOIN dagster.run_tags t USING (run_id)"
    return world.rows(f"{query} WHERE t.key = 'viewer/trigger'")


def get(worker: WorkerProcess, path: str) -> tuple[int, dict[str, Any]]:
    """Request a path of its health server."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{worker.port}{path}", timeout=ENOUGH) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_without_pending_views_launches_no_run(
    worker: WorkerProcess, world: World, number: signal.Signals
) -> None:
    """Dagster's storage is not even made."""
    assert worker.stop(number) == 0
    assert worker.last_event()["event"] == "worker_stopped"
    assert worker.last_event()["last_flush"] == "nothing was pending"
    assert world.rows("SELECT to_regclass('dagster.runs')") == [(None,)]


def test_stop_flushes_pending_views(worker: WorkerProcess, world: World) -> None:
    """Announced or not, by a final run in Dagster's history, with its trigger."""
    assert publish(world.client, "announced", 5) == 1
    world.send("unannounced", 7)
    assert worker.stop() == 0
    assert world.totals() == {"announced": 5, "unannounced": 7}
    assert world.counters() == {}
    assert reasons_of_runs(world) == [("SUCCESS", "shutdown: remaining views")]
    assert worker.last_event()["last_flush"].startswith("flushed the remaining views: 12, run ")


def test_stop_while_messages_arrive(worker: WorkerProcess, world: World) -> None:
    """Each message that Redis delivered counts, once."""
    stop = threading.Event()

    def produce() -> None:
        number = 0
        with connect(world.stores.redis.url) as client:
            while not stop.is_set():
                number += 1
                if publish(client, f"v{number % 50}"):
                    world.sent[f"v{number % 50}"] += 1

    producer = threading.Thread(target=produce)
    producer.start()
    try:
        wait_until(lambda: sum(world.counters().values()) > 1000, 60, "a thousand views folded")
        assert worker.stop() == 0
    finally:
        stop.set()
        producer.join()
    world.assert_all_persisted()


def test_stop_while_a_flush_cannot_end(tmp_path: Path, database_url: str, redis_url: str, world: World) -> None:
    """The stop ends in time, and reports where the views are."""
    limits = list[tuple[str]]()
    for seconds in (20, 60, 180):  # until the flush began: on a busy machine, importing Dagster takes long
        with WorkerProcess(tmp_path, database_url, redis_url, SHUTDOWN_TIMEOUT_MS=f"{seconds}000") as worker:
            worker.wait_until_ready()
            assert publish(world.client, "a", 5) == 1
            world.sent["a"] += 5
            with psycopg.connect(database_url) as connection:
                connection.execute(LOCK)
                assert worker.stop(seconds=seconds + 40) == 0
                last = worker.last_event()
        assert (last["event"], last["lost_views"], last["level"]) == ("worker_stopped", 0, "warning")
        assert last["last_flush"] == "what the last flush has not committed stays in Redis: it did not end in time"
        if world.rows("SELECT to_regclass('dagster.run_tags')") != [(None,)]:
            limits = world.rows("SELECT value FROM dagster.run_tags WHERE key = 'dagster/max_runtime'")
        if limits:
            break
    [(limit,)] = limits
    assert 0 < int(limit) <= seconds  # a run whose process is gone must not hold up others for longer
    wait_until(lambda: not busy(world), 60, "PostgreSQL has noticed that the worker is gone")
    world.assert_conserved()
    world.flush()
    world.assert_all_persisted()


def test_stop_without_time_for_a_flush(tmp_path: Path, database_url: str, redis_url: str, world: World) -> None:
    """The flush is not started: no run stays unfinished, and the last line reports where the pending views are."""
    with WorkerProcess(tmp_path, database_url, redis_url, SHUTDOWN_TIMEOUT_MS="1600") as worker:
        worker.wait_until_ready()
        world.send("a", 5)
        assert worker.stop() == 0
        last = worker.last_event()
    assert (last["event"], last["level"]) == ("worker_stopped", "warning")
    assert last["last_flush"].endswith("in Redis: it did not end in time") or "no time left" in last["last_flush"]
    assert world.counters() == {"a": 5}
    assert world.rows("SELECT to_regclass('dagster.runs')") == [(None,)] or reasons_of_runs(world) == []


def test_stop_with_read_only_postgres(tmp_path: Path, database_url: str, redis_url: str, world: World) -> None:
    """The last line has one sentence, not the failed statement."""
    with WorkerProcess(tmp_path, database_url, redis_url) as worker:
        worker.wait_until_ready()
        assert publish(world.client, "a", 5) == 1
        name = database_url.rpartition("/")[2]
        world.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        assert worker.stop() == 0
        last = worker.last_event()
    assert last["last_flush"].startswith("what is pending stays in Redis: ")
    assert "read-only transaction" in last["last_flush"]
    assert "[SQL:" not in last["last_flush"]


def busy(world: World) -> bool:
    """Whether a flush still has a connection."""
    query = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'viewer-pipeline' AND datname = current_database()"
    return bool(world.rows(query))


def test_health_during_a_stop(worker: WorkerProcess, world: World) -> None:
    """/health answers 503, /ping still 200."""
    world.send("a", 5)
    with psycopg.connect(world.stores.ledger.url) as connection:
        connection.execute(LOCK)
        worker.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "is stopping" in str(get(worker, "/health")[1]), 60, "stopping")
        code, body = get(worker, "/health")
        assert (code, body["status"]) == (503, "unhealthy")
        assert get(worker, "/ping")[0] == 200
        connection.rollback()
        assert worker.process.wait(ENOUGH) == 0
    world.assert_all_persisted()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_second_signal_ends_the_worker(
    worker: WorkerProcess, world: World, number: signal.Signals, status: int
) -> None:
    """It ends at once; pending views stay in Redis."""
    world.send("a", 5)
    with psycopg.connect(world.stores.ledger.url) as connection:
        connection.execute(LOCK)
        worker.process.send_signal(number)
        wait_until(lambda: worker.has_logged("worker_stopping"), 60, "stopping")

        def ends() -> bool:
            worker.process.send_signal(number)
            return worker.process.poll() is not None

        wait_until(ends, 20, "an end, once the second request is no part of a burst")
        assert worker.process.returncode == status
    world.assert_conserved()


@pytest.fixture
def own_servers(servers_home: Path) -> Iterator[tuple[PostgresServer, RedisServer]]:
    """Servers that a test may stop."""
    postgres = PostgresServer(servers_home, throw_away=True)
    server = RedisServer(servers_home)
    try:
        postgres.start()
        server.start()
        migrate(postgres.url, with_dagster=True)
        yield postgres, server
    finally:
        server.stop()
        postgres.stop()


def test_stop_with_postgres_down(tmp_path: Path, own_servers: tuple[PostgresServer, RedisServer]) -> None:
    """Received messages are folded and stay in Redis; the last line reports it, without the password."""
    postgres, server = own_servers
    with WorkerProcess(tmp_path, postgres.url, server.url) as worker, connect(server.url) as client:
        worker.wait_until_ready()
        postgres.stop()
        assert publish(client, "a", 5) == 1
        assert worker.stop() == 0
        assert client.get(PREFIX + "a") == b"5"
        last = worker.last_event()
        assert (last["event"], last["lost_views"]) == ("worker_stopped", 0)
        assert last["last_flush"].startswith("what is pending stays in Redis: PostgreSQL is unavailable")
        password = postgres.url.partition("@")[0].rpartition(":")[2]
        assert password not in worker.log.read_text()


def test_stop_with_redis_down(tmp_path: Path, own_servers: tuple[PostgresServer, RedisServer]) -> None:
    """Nothing can be folded; the worker ends in time."""
    postgres, server = own_servers
    with WorkerProcess(tmp_path, postgres.url, server.url) as worker:
        worker.wait_until_ready()
        server.stop()
        wait_until(lambda: worker.has_logged("not_listening"), 60, "it notices")
        assert worker.stop() == 0
        assert worker.last_event()["last_flush"].startswith("what is pending stays in Redis: Redis does not answer")
