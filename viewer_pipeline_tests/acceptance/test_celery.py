"""Runs on Celery workers: two at once, terminated, delivered twice; with killed and paused workers, without a broker.

One stack for all: its start takes longer than most of what is tested.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import psycopg
import pytest

from viewer_pipeline.stack.ports import find_free_port
from viewer_pipeline.stack.redis_server import RedisServer
from viewer_pipeline_tests.support.celery_workers import CeleryWorker, celery_workers
from viewer_pipeline_tests.support.stack import COMMAND, Stack, up, variables
from viewer_pipeline_tests.support.ui_runs import WAITING, Runs
from viewer_pipeline_tests.support.waiting import ENOUGH, PROC, processes_with, wait_until
from viewer_pipeline_tests.support.warm import run
from viewer_pipeline_tests.support.world import World

pytest.importorskip("dagster_celery", reason="the extra `celery` is not installed")

# What a run of each job waits for, and no statement of the worker's checks.
FLUSH = "viewer.vod_view_counts IN SHARE MODE"
DAYS = "viewer.daily_views IN ACCESS EXCLUSIVE MODE"
SHORT = {"BATCH_INTERVAL_MS": "5000", "SWEEP_CRON": "0 0 1 1 *", "SENSOR_SCAN_MAX_KEYS": "0"}


@dataclass
class Cluster:
    """`up`, its broker, and two workers."""

    stack: Stack
    world: World
    runs: Runs
    broker: RedisServer
    workers: list[CeleryWorker]

    def launch_blocked(self, job: str, waiting: int) -> str:
        """Launch a run whose statement waits for a lock; `waiting`: how many do then. Return its id."""
        run_id = self.runs.launch(job)
        wait_until(lambda: self.world.rows(WAITING) == [(waiting,)], 60, f"{job} waits for a lock")
        assert self.runs.status(run_id) == "STARTED"
        return run_id

    def worker_of(self, run_id: str) -> CeleryWorker:
        """Return the worker that executes a run, by its lease. Asserts that the run's process is its fork."""
        [(lease,)] = self.world.rows(f"SELECT value FROM dagster.kvs WHERE key LIKE '%{run_id}'")
        worker = next(each for each in self.workers if json.loads(lease)["holder"].startswith(f"{each.name}@"))
        stat = (PROC / str(self.runs.pid(run_id)) / "stat").read_text()
        assert int(stat.rpartition(")")[2].split()[1]) == worker.process.pid
        return worker

    def check(self, name: str) -> dict[str, Any]:
        """Return a check of /health."""
        port = int(self.stack.environment["HEALTH_CHECK_PORT"])
        connection = HTTPConnection("127.0.0.1", port, timeout=ENOUGH)
        connection.request("GET", "/health")
        check: dict[str, Any] = json.loads(connection.getresponse().read())["checks"][name]
        connection.close()
        return check

    def logged(self, pattern: str) -> bool:
        """Whether a worker has logged this."""
        return any(re.search(pattern, worker.log.read_text()) for worker in self.workers)


@pytest.fixture
def cluster(tmp_path: Path, database_url: str, redis_url: str, servers_home: Path, world: World) -> Iterator[Cluster]:
    """Return the stack with two workers."""
    broker = RedisServer(servers_home, append_only=False)
    broker.start()
    servers = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "CELERY_BROKER_URL": broker.url}
    environment = variables(tmp_path, **servers, **SHORT, HEALTH_CHECK_PORT=str(find_free_port()))
    with up(environment) as stack, celery_workers(environment, "one", "two") as workers:
        yield Cluster(stack, world, Runs(stack, world), broker, workers)
        stack.stop()
    broker.stop()


def send(world: World) -> None:
    """Send views that the sensor finds."""
    for number in range(10):
        world.send(f"vod{number}", 3, announce=True)


def is_all_persisted(world: World) -> bool:
    """Whether every view that was sent is in the totals."""
    return world.totals() == world.sent


@contextmanager
def locked(world: World, *tables: str) -> Iterator[None]:
    """Hold locks for which statements of runs wait."""
    with psycopg.connect(world.stores.ledger.url) as locking:
        for table in tables:
            locking.execute(f"LOCK TABLE {table}")
        yield


def test_celery(cluster: Cluster, add_to_summary: Callable[[str], None]) -> None:
    """Each part leaves a stack on which a flush succeeds and every view counts once."""
    runs, world = cluster.runs, cluster.world
    world.send_many(10)
    runs.flush()
    wait_until(lambda: world.stores.redis.sweep_request() is None and not runs.active(), 90, "the sweep at the start")
    for part in (concurrent_and_terminated_runs, dead_and_paused_workers, no_broker):
        send(world)
        started = time.monotonic()
        for line in part(cluster):
            add_to_summary(f"celery: {line}")
        add_to_summary(f"celery: {part.__name__} took {time.monotonic() - started:.1f} s")
        runs.flush()
        world.assert_all_persisted()
    assert world.rows("SELECT count(*) FROM dagster.kvs WHERE key LIKE '%run_lease%'") == [(0,)]
    for worker in cluster.workers:
        if worker.process.poll() is None:
            worker.stop()


def concurrent_and_terminated_runs(cluster: Cluster) -> Iterator[str]:
    """Two runs at once are on two workers, each in a fork of it. Terminated, both are canceled after their statement.

    A third one, which no worker has taken, can only be marked as canceled. It is not executed later.
    """
    runs, world = cluster.runs, cluster.world
    with locked(world, FLUSH, DAYS):
        active = [cluster.launch_blocked("flush_views", 1), cluster.launch_blocked("roll_up_days", 2)]
        assert {cluster.worker_of(run_id).name for run_id in active} == {"one", "two"}
        waiting = runs.launch("prune_run_history")
        assert runs.wait_for(waiting, "STARTING", "STARTED") == "STARTING"
        wait_until(lambda: cluster.check("celery")["details"]["waiting_runs"] == 1, 30, "/health reports a waiting run")
        runs.terminate(waiting, force=True)
        assert runs.wait_for(waiting, "CANCELED", "SUCCESS") == "CANCELED"
        for run_id in active:
            runs.terminate(run_id)
            assert runs.wait_for(run_id, "CANCELING", "CANCELED") == "CANCELING"
        released = time.monotonic()
    for run_id in active:
        assert runs.wait_for(run_id, "CANCELED", "SUCCESS", "FAILURE") == "CANCELED"
    yield f"two terminated runs canceled {time.monotonic() - released:.1f} s after their statements"
    wait_until(lambda: cluster.logged(f"run_delivered_again run_id={waiting} .*has ended"), 60, "its task came, later")
    assert runs.status(waiting) == "CANCELED"


def dead_and_paused_workers(cluster: Cluster) -> Iterator[str]:
    """One of two workers with a run is killed, the other one paused: both runs fail, and the next ones succeed.

    The task of the killed one is delivered again and does nothing. The paused process ends when it continues.
    """
    runs, world = cluster.runs, cluster.world
    with locked(world, FLUSH, DAYS):
        flush, days = cluster.launch_blocked("flush_views", 1), cluster.launch_blocked("roll_up_days", 2)
        killed, paused = cluster.worker_of(flush), cluster.worker_of(days)
        paused_pid = runs.pid(days)
        paused.signal(signal.SIGSTOP)
        killed.kill()
        died = time.monotonic()
    third = CeleryWorker("three", cluster.stack.environment)
    cluster.workers.append(third)
    for run_id in (flush, days):
        assert runs.wait_for(run_id, "FAILURE", "SUCCESS") == "FAILURE"
        assert "its process does not answer" in cluster.runs.events(run_id)
    failed = time.monotonic()
    wait_until(lambda: is_all_persisted(world), 60, "the next run, by the sensor")
    resumed = time.monotonic() - died
    yield f"a killed worker: its run failed after {failed - died:.1f} s, the next one succeeded after {resumed:.1f} s"
    for run_id in (flush, days):  # the paused worker would acknowledge the second one once its process has ended
        wait_until(lambda run_id=run_id: cluster.logged(f"run_delivered_again run_id={run_id}"), 120, "delivered again")  # type: ignore[misc]
        assert cluster.runs.events(run_id).count('"PIPELINE_START"') == 1
    paused.signal(signal.SIGCONT)
    wait_until(lambda: cluster.logged(f"run_lease_lost run_id={days}"), 30, "the paused process knows")
    wait_until(lambda: not (PROC / str(paused_pid)).exists(), 30, "it has ended")


def no_broker(cluster: Cluster) -> Iterator[str]:
    """While the broker is down, runs fail with its address, and /health reports it; then flushes continue."""
    runs, world = cluster.runs, cluster.world
    cluster.broker.stop()
    failed = runs.launch("flush_views")
    assert runs.wait_for(failed, "FAILURE", "SUCCESS") == "FAILURE"
    address = re.escape(cluster.broker.url)
    assert re.search(
        f"broker of Celery, to which runs are sent, does not answer: {address}", cluster.runs.events(failed)
    )
    last_run = cluster.check("flush_runs")
    assert re.search(address, last_run["message"]), last_run
    check = cluster.check("celery")
    assert (check["status"], bool(re.search(address, check["message"]))) == ("unhealthy", True)
    assert "CELERY_BROKER_URL" in check["remedy"]
    started = time.monotonic()
    cluster.broker.start()
    wait_until(lambda: is_all_persisted(world), 90, "a flush, by the sensor")
    yield f"the broker was started again: the next flush after {time.monotonic() - started:.1f} s"
    wait_until(lambda: cluster.check("celery")["status"] == "healthy", 30, "/health is healthy")


def test_demo(tmp_path: Path) -> None:
    """Two streams, two workers, one of which is killed half-way: each view counts once, and nothing is left."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TMPDIR": str(scratch), "FLUSH_STREAMS": "2"}
    arguments = ["demo", "--celery", "2", "--kill-worker", "--views", "300", "--vods", "20", "--time-limit", "300"]
    done = subprocess.run(
        [*COMMAND, *arguments, "--json"], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "killed celery-1" in done.stderr
    assert "Warning" not in done.stderr
    report = json.loads(done.stdout)
    assert (report["exact"], report["lost"], report["duplicated"]) == (True, 0, 0)
    assert sum(report["persisted"].values()) == 300
    wait_until(lambda: not processes_with(tmp_path), 30, "every process of the demo has ended")
    assert list(scratch.iterdir()) == []


def test_demo_keeps_a_worker(tmp_path: Path) -> None:
    """One that is killed must leave another."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    for options in ((), ("--celery", "1")):
        done = run(environment, "demo", "--kill-worker", *options)
        assert (done.returncode, "one must remain" in done.stderr) == (2, True)
