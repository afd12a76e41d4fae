"""The lines of `up` and of its processes, and the trace of a run under it.

Fields, one line for each flush, and decisions with LOG_LEVEL=debug.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from viewer_pipeline_tests.support.otlp_server import attributes, collecting
from viewer_pipeline_tests.support.stack import Stack, up, variables
from viewer_pipeline_tests.support.waiting import wait_until


def own_lines(log: Path) -> list[dict[str, Any]]:
    """Return our lines of a log; those of Dagster begin with another field."""
    lines = log.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.startswith('{"time": ') and line.endswith("\n")]


def stop_postgres_until(condition: Callable[[], bool], stack: Stack) -> None:
    """Stop the embedded PostgreSQL until the condition is true; `up` is paused meanwhile, which would start it."""
    postgres = int((stack.home / "postgres" / "postmaster.pid").read_text().split()[0])
    stack.process.send_signal(signal.SIGSTOP)
    os.kill(postgres, signal.SIGINT)
    wait_until(condition, 120, "its clients notice")
    stack.process.send_signal(signal.SIGCONT)


def test_lines_of_up(tmp_path: Path) -> None:
    """The foreground has a line for each flush and each decision; the code server's log has those of ticks and runs."""
    settings = {"LOG_FORMAT": "json", "LOG_LEVEL": "debug", "SWEEP_CRON": "0 0 1 1 *"}
    with (
        collecting() as collector,
        up(variables(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, **settings)) as stack,
    ):
        stack.wait_for_ui()

        (started,) = [line for line in own_lines(stack.log) if line["event"] == "up_started"]
        assert started["home"] == str(stack.home)
        assert ":***@" in started["postgres"]

        def lines(name: str, log: Path | None = None) -> list[dict[str, Any]]:
            return [line for line in own_lines(log or stack.log) if line["event"] == name]

        stack.run("send", "vod_1", "--count", "3")
        wait_until(lambda: lines("flush_committed"), 120, "the line of the flush")
        (flush,) = lines("flush_committed")  # once, though the code server's log has it as well
        assert [flush[name] for name in ("seq", "views", "counters", "job")] == [1, 3, 1, "flush_views"]
        code_server = stack.home / "code-server.log"
        assert [line["run_id"] for line in lines("flush_committed", code_server)] == [flush["run_id"]]
        wait_until(lambda: collector.trace(flush["run_id"]), 60, "its trace")
        root = collector.trace(flush["run_id"])["flush_views"]
        assert attributes(root.attributes)["seq"] == 1
        assert (stack.home / "code-server.log").read_text().count("fork_server_unavailable") == 0
        wait_until(lambda: lines("tick_skipped", code_server), 60, "a tick that skips")
        names = {line["event"] for line in own_lines(code_server)}
        assert {"run_requested", "counters_read", "batches_settled"} <= names
        foreground = {line["event"] for line in own_lines(stack.log)}
        assert {"lease_decided", "listening", "sweep_requested", "segment_folded"} <= foreground
        decisions = {"run_requested", "sweep_part_read", "counters_read", "transaction_committed", "batches_settled"}
        assert decisions <= foreground
        (folded,) = lines("segment_folded")
        assert [folded[name] for name in ("views", "vods", "written")] == [3, 1, True]
        (transaction,) = lines("transaction_committed")
        assert [transaction[name] for name in ("seq", "counters", "batches")] == [1, 1, 1]
        (part,) = lines("sweep_part_read")  # of the sweep that the worker has requested
        assert [part[name] for name in ("share", "last", "stored")] == [1.0, True, True]
        assert {line["logger"].partition(".")[0] for line in own_lines(code_server)} == {"viewer_pipeline"}
        levels = {json.loads(line)["level"] for line in code_server.read_text().splitlines() if '"dagster' in line}
        assert levels == {"info"}

        stack.run("send", "vod_1", "--count", "4")
        daemon = stack.home / "daemon.log"
        stop_postgres_until(lambda: "Retrying failed database connection" in daemon.read_text(), stack)
        wait_until(lambda: lines("daemon_lock_retaken"), 120, "PostgreSQL is back")
        before = len(daemon.read_text().splitlines())
        wait_until(lambda: len(daemon.read_text().splitlines()) > before + 1, 120, "lines of the daemon after that")
        stack.stop()
        of_daemon = daemon.read_text().splitlines()
        assert "Retrying failed database connection" in daemon.read_text()
        assert [line for line in of_daemon if not line.startswith("{")] == []
        assert len(of_daemon) == len(set(of_daemon))
    foreground_lines = stack.log.read_text().splitlines()
    assert [line for line in foreground_lines if not line.startswith("{")] == []
    last = json.loads(foreground_lines[-1])
    assert (last["event"], last["message"]) == ("progress", "stopped")
    assert sum(line["views"] for line in own_lines(stack.log) if line["event"] == "flush_committed") == 7
