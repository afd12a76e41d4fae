"""Runs terminated as in Dagster's UI: the current statement ends, then the run is canceled, and counts are exact."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import psycopg
import pytest

from viewer_pipeline.stack.ports import find_free_port
from viewer_pipeline.stores.redis import connect
from viewer_pipeline_tests.support.stack import COMMAND, Stack, up, variables
from viewer_pipeline_tests.support.ui_runs import WAITING, Runs
from viewer_pipeline_tests.support.waiting import ENOUGH, wait_until
from viewer_pipeline_tests.support.webhook_server import listening
from viewer_pipeline_tests.support.world import World

VODS = 20_000
TERMINATIONS = 10
# Each job, and a lock that a statement of it waits for, and no statement of the worker's checks.
JOBS = {
    "flush_views": "viewer.vod_view_counts IN SHARE MODE",
    "roll_up_days": "viewer.daily_views IN ACCESS EXCLUSIVE MODE",
    "reconcile": "viewer.daily_views IN ACCESS EXCLUSIVE MODE",
    "prune_ledger_days": "viewer.ledger_kept IN SHARE MODE",
    "prune_rejected_and_parked": "viewer.rejected IN ACCESS EXCLUSIVE MODE",
    "prune_run_history": "dagster.asset_check_executions IN ACCESS EXCLUSIVE MODE",
}


@pytest.fixture
def stack(tmp_path: Path, database_url: str, redis_url: str) -> Iterator[Stack]:
    """`up`, with small transactions, so that a flush has many; without sweeps and scans: the test launches all runs."""
    servers = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "HEALTH_CHECK_PORT": str(find_free_port())}
    no_sweep = {"SWEEP_CRON": "0 0 1 1 *", "SENSOR_SCAN_MAX_KEYS": "0"}
    with listening() as hook:
        environment = variables(
            tmp_path,
            **servers,
            **no_sweep,
            FLUSH_MAX_COUNTERS="1000",
            BATCH_SIZE="100",
            ALERT_WEBHOOK_URL=hook.url,
            REJECTED_RETENTION_DAYS="30",
        )
        with up(environment) as running:
            yield running
            running.stop()
        assert hook.posted == []


def events(world: World, *types: str) -> list[Any]:
    """Return the events of all runs that have one of these types."""
    rows = world.rows("SELECT run_id, dagster_event_type FROM dagster.event_logs ORDER BY id")
    return [row for row in rows if row[1] in types]


def flush_runs_check(stack: Stack) -> dict[str, Any]:
    """Return the check `flush_runs` of /health."""
    connection = HTTPConnection("127.0.0.1", int(stack.environment["HEALTH_CHECK_PORT"]), timeout=ENOUGH)
    connection.request("GET", "/health")
    check: dict[str, Any] = json.loads(connection.getresponse().read())["checks"]["flush_runs"]
    connection.close()
    return check


@contextmanager
def traffic(world: World) -> Iterator[None]:
    """Raise all counters again and again, each pipeline of INCR counted once it was answered."""
    stop = threading.Event()

    def produce() -> None:
        with connect(world.stores.redis.url) as client:
            while not stop.is_set():
                vod_ids = [f"vod{number:05d}" for number in random.sample(range(VODS), 500)]
                with client.pipeline(transaction=False) as pipe:
                    for vod_id in vod_ids:
                        pipe.incr(world.prefix + vod_id)
                    pipe.execute()
                world.sent.update(vod_ids)

    producer = threading.Thread(target=produce)
    producer.start()
    try:
        yield
    finally:
        stop.set()
        producer.join()


def test_terminated_runs(stack: Stack, world: World, add_to_summary: Callable[[str], None]) -> None:
    """Of every job: a statement that waits for a lock is not abandoned; the run is canceled after it, without a retry.

    Then flushes at random moments, under traffic. A canceled run is no failure: neither for /health nor for alerts.
    """
    runs = Runs(stack, world)
    world.send_many(10)
    runs.flush()
    wait_until(lambda: world.stores.redis.sweep_request() is None and not runs.active(), 90, "the sweep at the start")
    for job, lock in JOBS.items():
        world.send_many(10)
        seconds = terminate_blocked_run(runs, world, job, lock)
        add_to_summary(f"terminated {job}: canceled {seconds:.2f} s after its statement")
    runs.flush()
    world.assert_all_persisted()

    seed = random.randrange(10**6)
    chance, outcomes = random.Random(seed), list[str]()
    with traffic(world):
        while outcomes.count("CANCELED") < TERMINATIONS:
            run_id = runs.launch("flush_views")
            runs.wait_for(run_id, "STARTED", "SUCCESS")
            time.sleep(chance.uniform(0, 1))  # the moment of the fault
            if runs.status(run_id) == "STARTED":
                runs.terminate(run_id)
            outcomes.append(runs.wait_for(run_id, "CANCELED", "SUCCESS", "FAILURE"))
            assert outcomes[-1] != "FAILURE", (seed, outcomes)
    add_to_summary(f"terminated flushes at random moments, seed {seed}: {TERMINATIONS} of {len(outcomes)} canceled")
    assert flush_runs_check(stack)["status"] == "healthy"
    runs.flush()
    world.assert_all_persisted()
    assert events(world, "STEP_UP_FOR_RETRY", "STEP_RESTARTED", "PIPELINE_FAILURE") == []
    assert runs.active() == 0


def terminate_blocked_run(runs: Runs, world: World, job: str, lock: str) -> float:
    """Terminate a run whose statement waits for a lock; return the seconds from the end of the lock to its own."""
    with psycopg.connect(world.stores.ledger.url) as locking:
        locking.execute(f"LOCK TABLE {lock}")
        run_id = runs.launch(job)
        wait_until(lambda: world.rows(WAITING) == [(1,)], 60, f"{job} waits for {lock}")
        runs.terminate(run_id)
        assert runs.wait_for(run_id, "CANCELING", "CANCELED", "FAILURE") == "CANCELING"
        time.sleep(0.5)  # longer than a wait for a reply is interrupted
        assert (runs.status(run_id), world.rows(WAITING)) == ("CANCELING", [(1,)])
    released = time.monotonic()
    assert runs.wait_for(run_id, "CANCELED", "SUCCESS", "FAILURE") == "CANCELED"
    seconds = time.monotonic() - released
    world.assert_conserved()
    return seconds


def test_interrupted_flush_command(tmp_path: Path, database_url: str, redis_url: str, world: World) -> None:
    """Ctrl-C during `viewer-pipeline flush`: its statement ends, then the command, without a retry."""
    environment = variables(tmp_path, DATABASE_URL=database_url, REDIS_URL=redis_url)
    world.send_many(10)
    with psycopg.connect(database_url) as locking:
        locking.execute("LOCK TABLE viewer.vod_view_counts IN SHARE MODE")
        command = subprocess.Popen(
            [*COMMAND, "flush"], env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True
        )
        wait_until(lambda: world.rows(WAITING) == [(1,)], 120, "the flush waits for the lock")
        command.send_signal(signal.SIGINT)
    _, errors = command.communicate(timeout=ENOUGH)
    assert command.returncode == 1
    assert "failed; its events are in the Dagster UI" in errors
    assert events(world, "STEP_UP_FOR_RETRY") == []
    world.assert_conserved()
    world.flush()
    world.assert_all_persisted()
