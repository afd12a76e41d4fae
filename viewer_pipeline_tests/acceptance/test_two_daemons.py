"""Two Dagster daemons on the same servers: the second `up` is refused, and /health reports a second daemon."""

from __future__ import annotations

import json
import subprocess
import sys
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import psycopg

from viewer_pipeline.stack.ports import find_free_port
from viewer_pipeline.stores.redis import connect
from viewer_pipeline_tests.support.stack import COMMAND, Stack, up, variables
from viewer_pipeline_tests.support.waiting import ENOUGH, processes_with, wait_until
from viewer_pipeline_tests.support.warm import run

CHANNEL, VIEW = "view_count_updates", '{"vodId":"vod_1","count":1}'


def check_of(stack: Stack, name: str) -> dict[str, Any]:
    """Return a check of /health."""
    connection = HTTPConnection("127.0.0.1", int(stack.environment["HEALTH_CHECK_PORT"]), timeout=ENOUGH)
    connection.request("GET", "/health")
    check: dict[str, Any] = json.loads(connection.getresponse().read())["checks"][name]
    connection.close()
    return check


def totals(database_url: str) -> list[Any]:
    """Return the persisted views."""
    with psycopg.connect(database_url) as connection:
        return connection.execute("SELECT vod_id, view_count FROM viewer.vod_view_counts").fetchall()


def test_two_daemons(tmp_path: Path, database_url: str, redis_url: str) -> None:
    """The second `up` names the first, and starts nothing. After the first was killed, it starts at once and flushes.

    That restart is not reported as a second daemon; a real one is.
    """
    first, second, beside = (
        variables(home, DATABASE_URL=database_url, REDIS_URL=redis_url, HEALTH_CHECK_PORT=str(find_free_port()))
        for home in (tmp_path / "first", tmp_path / "second", tmp_path / "beside")
    )
    for environment in (first, second, beside):
        Path(environment["HOME"]).mkdir()
    with up(first) as stack:
        stack.wait_for_ui()
        refused = subprocess.run(
            [*COMMAND, "up"],
            env=second,
            cwd=second["HOME"],
            capture_output=True,
            text=True,
            timeout=ENOUGH,
            check=False,
        )
        assert refused.returncode == 1
        assert f"viewer-pipeline up, process {stack.process.pid} on " in refused.stderr
        assert "; for an additional worker, run `viewer-pipeline worker` here" in refused.stderr
        assert "migrating" not in refused.stdout
        for service in ("daemon", "code-server"):
            refused = run(beside, service)
            assert refused.returncode == 1
            assert f"viewer-pipeline up, process {stack.process.pid} on " in refused.stderr
        assert not processes_with(second["HOME"])
        wait_until(lambda: check_of(stack, "daemon_sensor")["status"] == "healthy", 60, "a heartbeat")
        stack.process.kill()
    with up(second) as stack, connect(redis_url) as client:
        stack.wait_for_ui()
        client.publish(CHANNEL, VIEW)
        wait_until(lambda: totals(database_url) == [("vod_1", 1)], 150, "a flush")
        assert check_of(stack, "single_daemon")["status"] == "healthy"

        directory = Path(second["VIEWER_HOME"], "dagster")  # a daemon of Dagster's own command, which knows no lock
        command = [
            str(Path(sys.executable).with_name("dagster-daemon")),
            "run",
            "-w",
            str(directory / "workspace.yaml"),
        ]
        own = {**beside, "DAGSTER_HOME": str(directory)}
        with subprocess.Popen(command, env=own, cwd=beside["HOME"], stdout=subprocess.DEVNULL) as daemon:
            try:
                wait_until(lambda: check_of(stack, "single_daemon")["status"] == "degraded", 150, "two daemons")
                client.publish(CHANNEL, VIEW)
                wait_until(lambda: totals(database_url) == [("vod_1", 2)], 150, "a flush beside two daemons")
            finally:
                daemon.kill()
        stack.stop()
