"""A worker whose terminal is closed, or whose standard streams are: it loses nothing, and stops in order."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import sys
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from viewer_pipeline_tests.faults.test_stop import LOCK
from viewer_pipeline_tests.support.terminal import Terminal, shell, standard_files
from viewer_pipeline_tests.support.waiting import ENOUGH, wait_until
from viewer_pipeline_tests.support.worker_http import get
from viewer_pipeline_tests.support.worker_process import READY, WorkerProcess, publish
from viewer_pipeline_tests.support.world import World


def subscribes(world: World) -> bool:
    """Whether a worker holds the lease: for those whose log cannot be read."""
    return bool(world.client.hget("viewer:subscriber", "worker"))


def stops(worker: WorkerProcess) -> bool:
    """Whether /health reports that it stops."""
    return "is stopping" in get(worker.port, "/health")[1]


def test_closed_terminal_stops_in_order(tmp_path: Path, database_url: str, redis_url: str, world: World) -> None:
    """Received messages are flushed, although SIGHUP comes again, with SIGTERM, and nothing can be logged any more."""
    with (
        Terminal(tmp_path / "terminal.log") as terminal,
        WorkerProcess(tmp_path, database_url, redis_url, prefix=terminal.prefix) as worker,
    ):
        worker.log = terminal.log
        wait_until(lambda: worker.has_logged(*READY), 60, "the worker listens")
        with psycopg.connect(database_url) as connection:
            connection.execute(LOCK)  # it has to stop for as long as the test looks
            for _ in range(100):
                assert publish(world.client, "received") == 1
            terminal.close()
            wait_until(lambda: stops(worker), 60, "the worker stops")
            for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGCONT, signal.SIGHUP):
                worker.process.send_signal(number)
            connection.rollback()
        assert worker.process.wait(ENOUGH) == 0
    assert world.totals() == {"received": 100}
    assert world.counters() == {}


@pytest.mark.skipif(sys.platform != "linux", reason="finds what a process has open in /proc")
def test_closed_streams_are_replaced_by_the_null_device(
    tmp_path: Path, database_url: str, redis_url: str, world: World
) -> None:
    """No connection takes their descriptors, where a stray line would be sent to a server."""
    with WorkerProcess(
        tmp_path, database_url, redis_url, prefix=shell('exec "$@" 0<&- 1>&- 2>&-'), LOG_LEVEL="debug"
    ) as worker:
        wait_until(lambda: subscribes(world), 60, "the worker listens")
        assert standard_files(worker.process.pid) == [Path(os.devnull)] * 3
        assert publish(world.client, "received", 5) == 1
        assert worker.stop() == 0
    assert world.totals() == {"received": 5}


def test_full_log_pipe_does_not_delay_a_stop(tmp_path: Path, database_url: str, redis_url: str, world: World) -> None:
    """The worker was started under nohup, so SIGHUP does nothing."""
    reader, writer = os.pipe()
    ignoring = shell('trap "" HUP; exec "$@"')
    with WorkerProcess(tmp_path, database_url, redis_url, prefix=ignoring, stderr=writer) as worker:
        wait_until(lambda: subscribes(world), 60, "the worker listens")
        worker.process.send_signal(signal.SIGHUP)
        fill(writer)
        assert publish(world.client, "received", 5) == 1
        assert not stops(worker)
        assert worker.stop() == 0
    os.close(reader)
    os.close(writer)
    assert world.totals() == {"received": 5}


def test_log_pipe_without_a_reader(tmp_path: Path, database_url: str, redis_url: str, world: World) -> None:
    """As after `worker 2>&1 | head -1`: the exit status reports that nothing was lost."""
    reader, writer = os.pipe()
    with WorkerProcess(tmp_path, database_url, redis_url, stderr=writer) as worker:
        os.close(writer)
        assert os.read(reader, 1) == b"{"
        os.close(reader)
        wait_until(lambda: subscribes(world), 60, "the worker listens")
        assert publish(world.client, "received", 5) == 1
        assert worker.stop() == 0
    assert world.totals() == {"received": 5}


def fill(pipe: int) -> None:
    """Write until it is full, and leave it blocking as it was."""
    flags = fcntl.fcntl(pipe, fcntl.F_GETFL)
    fcntl.fcntl(pipe, fcntl.F_SETFL, flags | os.O_NONBLOCK)
    for size in (select.PIPE_BUF, 1):
        with suppress(BlockingIOError):
            while True:
                os.write(pipe, b"x" * size)
    fcntl.fcntl(pipe, fcntl.F_SETFL, flags)
