"""`viewer-pipeline up`: the whole stack, from its banner to a stop in order."""

from __future__ import annotations

import json
import os
import signal
import urllib.request
from pathlib import Path
from typing import Any

import psycopg

from viewer_pipeline.home_lock_and_server_urls import STARTING, read_settings_of_running_up
from viewer_pipeline.stack.dagster_supervisor import CODE_SERVER, STATE_FILE
from viewer_pipeline.stack.ports import find_free_port
from viewer_pipeline.stack.postgres_server import PostgresServer
from viewer_pipeline.stack.redis_server import RedisServer
from viewer_pipeline.stores.redis import connect
from viewer_pipeline_tests.support.stack import Stack, query_graphql, up, variables
from viewer_pipeline_tests.support.terminal import Terminal
from viewer_pipeline_tests.support.waiting import ENOUGH, processes_with, wait_until
from viewer_pipeline_tests.support.world import PREFIX

CHANNEL = "view_count_updates"
DAYS = """{ assetNodeOrError(assetKey: {path: ["daily_views"]}) {
    ... on AssetNode { partitionStats { numPartitions } }
} }"""
PROXY_VARIABLES = ("http_proxy", "https_proxy", "grpc_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


def totals(url: str) -> dict[str, int]:
    """Return the persisted views by VOD."""
    with psycopg.connect(url) as connection:
        return dict(connection.execute("SELECT vod_id, view_count FROM viewer.vod_view_counts").fetchall())


def kill_the_code_server(stack: Stack, urls: dict[str, str]) -> None:
    """Kill it during a flush: the run is marked as failed, so the next one need not wait for its maximum runtime."""
    with psycopg.connect(urls["database_url"], autocommit=True) as watching:

        def statuses() -> list[Any]:
            return watching.execute("SELECT status FROM dagster.runs ORDER BY id").fetchall()

        wait_until(lambda: set(statuses()) == {("SUCCESS",)}, 90, "no run is active")
        before = totals(urls["database_url"])
        with psycopg.connect(urls["database_url"]) as locking, connect(urls["redis_url"]) as client:
            locking.execute("LOCK TABLE viewer.vod_view_counts IN ACCESS EXCLUSIVE MODE")
            client.incr(PREFIX + "vod_1")
            client.publish(CHANNEL, '{"vodId":"vod_1","count":1}')
            wait_until(lambda: ("STARTED",) in statuses(), 90, "a flush waits for the lock")
            started = len(statuses())
            state = json.loads((stack.home / STATE_FILE).read_text())
            os.kill(state[CODE_SERVER]["pid"], signal.SIGKILL)
        wait_until(lambda: len(statuses()) > started, 120, "the next run")
        wait_until(lambda: totals(urls["database_url"]) == {**before, "vod_1": 2}, 120, "both views")
        assert statuses()[started - 1] == ("FAILURE",)


def test_up_runs_the_whole_stack(tmp_path: Path) -> None:
    """Views arrive in all ways, other commands find the servers, a second stack is refused.

    Its processes reach each other although every proxy variable names a closed port. The code server is killed during a
    flush, and at the end the terminal is closed; no view is lost. One test for all of it, because each stack takes ten
    seconds of CPU.
    """
    home = tmp_path / "a viewer home"
    settings = {"SWEEP_CRON": "0 0 1 1 *", "SENSOR_SCAN_MAX_KEYS": "1000"}
    settings |= {"SHUTDOWN_TIMEOUT_MS": str(ENOUGH * 1000)}  # the last flush may be slow on a busy machine
    proxies = dict.fromkeys(PROXY_VARIABLES, f"http://127.0.0.1:{find_free_port()}")
    with (
        Terminal(tmp_path / "terminal.log") as terminal,
        up(variables(tmp_path, VIEWER_HOME=str(home), **settings, **proxies), terminal.prefix, terminal.log) as stack,
    ):
        wait_until(lambda: stack.find_in_log("(migrating)"), 60, "both servers")
        urls = read_settings_of_running_up(home)
        assert urls.keys() >= {"database_url", "redis_url"}
        assert urls[STARTING]

        with connect(urls["redis_url"]) as client:
            assert (
                client.incr(PREFIX + "vod_456") == 1
            )  # before the worker has subscribed: the sweep that it requests reads it
            ui = stack.wait_for_ui()
            assert client.publish(CHANNEL, '{"vodId":"vod_123","count":1}') == 1
            sent: dict[str, Any] = json.loads(stack.run("send", "vod_789", "--count", "2", "--json").stdout)
            assert sent == {"vod_id": "vod_789", "count": 2, "how": "publish", "subscribers": 1}
            expected = {"vod_123": 1, "vod_456": 1, "vod_789": 2}
            wait_until(lambda: totals(urls["database_url"]) == expected, 150, f"{expected} in viewer.vod_view_counts")

            client.mset({f"vod:session:{number}": 1 for number in range(5000)})
            silent = {f"silent_{number}": 1 for number in range(10)}
            client.mset({PREFIX + vod_id: views for vod_id, views in silent.items()})
            expected |= silent
            wait_until(lambda: totals(urls["database_url"]) == expected, 150, "what several ticks of the sensor find")

            status: dict[str, Any] = json.loads(stack.run("status", "--json").stdout)
            assert (status["persisted"], status["vods"], status["parked"], status["rejected"]) == (14, 13, 0, 0)
            with urllib.request.urlopen(ui, timeout=ENOUGH) as page:
                assert page.status == 200
            days = query_graphql(ui, DAYS)["partitionStats"]["numPartitions"]
            assert days in (1, 2)  # a new installation misses no day before its first one; at midnight a day is added

            second = stack.run("up")
            assert (second.returncode, second.stdout) == (1, "")
            assert second.stderr == (
                "error: Another `up` uses this directory:"
                f" VIEWER_HOME={home} is in use by process {stack.process.pid}\n"
                "remedy: stop it, or choose another directory with VIEWER_HOME\n"
            )
            assert read_settings_of_running_up(home) == {**urls, STARTING: False}

            kill_the_code_server(stack, urls)
            for number in range(100):
                client.publish(CHANNEL, json.dumps({"vodId": f"late_{number % 3}", "count": 1}))
                client.incr(PREFIX + f"late_{number % 3}")
        terminal.close()
        stack.process.send_signal(signal.SIGHUP)  # as the shell of the terminal does, after the kernel
        assert stack.process.wait(ENOUGH) == 0
    assert "Traceback" not in stack.log.read_text()
    assert "event=flush_committed" in stack.log.read_text()
    assert "event=counters_read" not in stack.log.read_text()  # which is for the log of the code server
    wait_until(lambda: not processes_with(tmp_path), 10, "every process of the stack has ended")
    assert read_settings_of_running_up(home) == {}
    postgres, redis = PostgresServer(home), RedisServer(home)
    try:
        postgres.start()
        redis.start()
        assert totals(postgres.url) == {**expected, "vod_1": 2, "late_0": 68, "late_1": 66, "late_2": 66}
        with connect(redis.url) as client:
            assert client.keys(PREFIX + "*") == []
    finally:
        redis.stop()
        postgres.stop()
