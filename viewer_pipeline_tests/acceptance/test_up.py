"""`viewer-pipeline up`, from outside: the whole stack, from its banner to an orderly stop."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from viewer_pipeline.counting.redis_client import connect
from viewer_pipeline.local.home import running_servers
from viewer_pipeline.local.postgres_server import PostgresServer
from viewer_pipeline.local.redis_server import RedisServer
from viewer_pipeline_tests.waiting import processes_with, wait_until
from viewer_pipeline_tests.world import PREFIX

COMMAND = [sys.executable, "-m", "viewer_pipeline.cli"]
CHANNEL = "view_count_updates"


@contextmanager
def up(environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the stack; whatever happens, end it."""
    with log.open("wb") as output:
        process = subprocess.Popen([*COMMAND, "up"], env=environment, cwd=environment["HOME"], stderr=output)
    with process:
        try:
            yield process
        finally:
            process.kill()


def run(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command beside it, which knows no more than VIEWER_HOME."""
    command = [*COMMAND, *words]
    return subprocess.run(
        command, env=environment, cwd=environment["HOME"], capture_output=True, text=True, check=False
    )


def totals(url: str) -> dict[str, int]:
    """Persisted views by VOD."""
    with psycopg.connect(url) as connection:
        return dict(connection.execute("SELECT vod_id, view_count FROM viewer.vod_view_counts").fetchall())


@pytest.mark.timeout(300)
def test_the_whole_stack(tmp_path: Path) -> None:
    """Views arrive by both ways, other commands find the servers, a second stack is refused, a stop loses nothing."""
    home, log = tmp_path / "a viewer home", tmp_path / "up.log"
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "VIEWER_HOME": str(home),
        "BATCH_INTERVAL_MS": "5000",
    }
    with up(environment, log) as process:

        def said(pattern: str) -> str:
            assert process.poll() is None, log.read_text()
            found = re.search(pattern, log.read_text())
            return found[1] if found else ""

        wait_until(lambda: said("(migrating)"), 60, "both servers")
        urls = running_servers(home)
        assert urls.keys() == {"database_url", "redis_url"}

        with connect(urls["redis_url"]) as client:
            assert client.incr(PREFIX + "vod_456") == 1  # before anybody listens: found by the first sweep
            wait_until(lambda: said(r"Dagster UI +(http://\S+)"), 120, "the banner of `up`")
            assert client.publish(CHANNEL, '{"vodId":"vod_123","count":1}') == 1
            sent: dict[str, Any] = json.loads(run(environment, "send", "vod_789", "--count", "2", "--json").stdout)
            assert sent == {"vod_id": "vod_789", "count": 2, "how": "publish", "heard": 1}
            expected = {"vod_123": 1, "vod_456": 1, "vod_789": 2}
            wait_until(lambda: totals(urls["database_url"]) == expected, 150, f"{expected} in viewer.vod_view_counts")

            status: dict[str, Any] = json.loads(run(environment, "status", "--json").stdout)
            assert (status["persisted"], status["vods"], status["parked"], status["rejected"]) == (4, 3, 0, 0)
            with urllib.request.urlopen(said(r"Dagster UI +(http://\S+)"), timeout=30) as page:
                assert page.status == 200

            second = run(environment, "up")
            assert (second.returncode, second.stdout) == (1, "")
            assert second.stderr.startswith("error: ")
            assert f"VIEWER_HOME={home} is in use by process {process.pid}" in second.stderr

            for number in range(100):
                client.publish(CHANNEL, json.dumps({"vodId": f"late_{number % 3}", "count": 1}))
                client.incr(PREFIX + f"late_{number % 3}")
        process.send_signal(signal.SIGTERM)
        assert process.wait(90) == 0, log.read_text()
    assert "Traceback" not in log.read_text()
    wait_until(lambda: not processes_with(tmp_path), 10, "every process of the stack has ended")
    assert running_servers(home) == {}
    postgres, redis = PostgresServer(home), RedisServer(home)
    try:
        postgres.start()
        redis.start()
        assert totals(postgres.url) == {**expected, "late_0": 68, "late_1": 66, "late_2": 66}
        with connect(redis.url) as client:
            assert client.keys(PREFIX + "*") == []
    finally:
        redis.stop()
        postgres.stop()


@pytest.mark.timeout(300)
def test_the_code_server_dies_in_mid_flush(tmp_path: Path) -> None:
    """Its run is marked as failed, so that the next one does not wait until the time of a dead one is over."""
    home, log = tmp_path / "home", tmp_path / "up.log"
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "VIEWER_HOME": str(home),
        "BATCH_INTERVAL_MS": "5000",
        **{name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ},
    }
    with up(environment, log) as process:
        wait_until(lambda: "Dagster UI" in log.read_text(), 180, "the banner of `up`")
        urls = running_servers(home)
        with psycopg.connect(urls["database_url"], autocommit=True) as watching:

            def statuses() -> list[Any]:
                return watching.execute("SELECT status FROM dagster.runs ORDER BY id").fetchall()

            with psycopg.connect(urls["database_url"]) as locking, connect(urls["redis_url"]) as client:
                locking.execute("LOCK TABLE viewer.vod_view_counts IN ACCESS EXCLUSIVE MODE")
                client.incr(PREFIX + "vod_1")
                client.publish(CHANNEL, '{"vodId":"vod_1","count":1}')
                wait_until(lambda: ("STARTED",) in statuses(), 90, "a flush waits for the lock")
                started = len(statuses())
                for pid, command in processes_with(home).items():
                    if " api grpc " in command and "guard.py" not in command:
                        os.kill(pid, signal.SIGKILL)
            wait_until(lambda: len(statuses()) > started, 120, "the next run")
            wait_until(lambda: totals(urls["database_url"]) == {"vod_1": 2}, 120, "both views")
            assert statuses()[started - 1] == ("FAILURE",)
        process.send_signal(signal.SIGTERM)
        assert process.wait(90) == 0, log.read_text()
