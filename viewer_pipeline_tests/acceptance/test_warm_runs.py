"""Runs forked from a warm process: how each of the processes can end, changed code, and where forking is not safe."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

import viewer_pipeline
from viewer_pipeline.code_server.process_lifetime import FORK_SERVER_NAME
from viewer_pipeline.settings import LAUNCH_SECONDS
from viewer_pipeline.stack.ports import find_free_port
from viewer_pipeline_tests.support.processes import children, is_alive, name, parent
from viewer_pipeline_tests.support.stack import up, variables
from viewer_pipeline_tests.support.ui_runs import ENDED, WAITING, Runs
from viewer_pipeline_tests.support.waiting import ENOUGH, wait_until
from viewer_pipeline_tests.support.world import World

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks and /proc of Linux; elsewhere runs are spawned")

DAGSTER_LOG_LINES = {
    "code-server.log": "Started Dagster code server",
    "daemon.log": "Checking for new runs for sensor: view_count_updates_sensor",
    "webserver.log": "Serving dagster-webserver",
}
# Of a run that no process has begun: the code server is being restarted, or imports take LAUNCH_SECONDS.
NOT_BEGUN = re.compile(rf"DagsterUserCodeUnreachableError|longer than {LAUNCH_SECONDS} seconds to start")


def environment_of(tmp_path: Path, database_url: str, redis_url: str, **settings: str) -> dict[str, str]:
    """Return the environment of `up` on these servers. No schedule launches a run: the test launches them."""
    servers = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "HEALTH_CHECK_PORT": str(find_free_port())}
    return variables(tmp_path, **servers, SWEEP_CRON="0 0 1 1 *", SENSOR_SCAN_MAX_KEYS="0", **settings)


def wait_until_idle(runs: Runs, world: World) -> None:
    """Wait for the sweep that the worker requests at its start."""
    wait_until(lambda: world.stores.redis.sweep_request() is None and not runs.active(), 90, "the sweep at the start")


class Failures:
    """Flushes that wait for a lock, while processes end."""

    def __init__(self, runs: Runs, world: World) -> None:
        self.runs, self._world = runs, world

    @contextmanager
    def blocked_flush(self) -> Iterator[tuple[str, int]]:
        """Launch a flush whose statement waits for a lock until the end of the context; its id, and its process."""
        self._world.send_many(10)
        with psycopg.connect(self._world.stores.ledger.url) as locking:
            locking.execute("LOCK TABLE viewer.vod_view_counts IN SHARE MODE")
            deadline = time.monotonic() + ENOUGH
            while self._has_ended_before_it_waits(run_id := self.runs.launch("flush_views")):
                events = self.runs.events(run_id)
                assert NOT_BEGUN.search(events), events
                assert time.monotonic() < deadline, events
            yield run_id, self.runs.pid(run_id)

    def _has_ended_before_it_waits(self, run_id: str) -> bool:
        waits = f"run {run_id} waits for the lock"
        wait_until(lambda: self._world.rows(WAITING) == [(1,)] or self.runs.has_ended(run_id), 120, waits)
        return self.runs.has_ended(run_id)

    def failed_with_its_process(self, run_id: str, pid: int) -> None:
        """Assert that the run is failed, and that it has ended for good once that is recorded."""
        assert self.runs.wait_for(run_id, *ENDED) == "FAILURE"
        assert not is_alive(pid)

    def flush(self) -> int:
        """Run a flush to its end; return the process id of the parent of its process."""
        with self.blocked_flush() as (run_id, pid):
            process = parent(pid)
        assert self.runs.wait_for(run_id, *ENDED) == "SUCCESS"
        self._world.assert_all_persisted()
        return process

    def forked_flush(self) -> int:
        """Flush until a run is forked; return the fork server. A busy machine spawns runs before: imports take long."""
        while name(process := self.flush()) != FORK_SERVER_NAME:
            pass
        return process


def test_every_process_may_end(tmp_path: Path, database_url: str, redis_url: str, world: World) -> None:
    """Whichever is killed, a run that is reported as failed has ended, and the next one persists everything."""
    with up(environment_of(tmp_path, database_url, redis_url)) as stack:
        failures = Failures(Runs(stack, world), world)
        wait_until_idle(failures.runs, world)
        warm = failures.flush()
        code_server = parent(warm)
        assert (name(warm), name(code_server)) == (FORK_SERVER_NAME, "code-server")

        with failures.blocked_flush() as (run_id, pid):  # the run
            os.kill(pid, signal.SIGKILL)
            failures.failed_with_its_process(run_id, pid)
        assert failures.flush() == warm

        with failures.blocked_flush() as (run_id, pid):  # the fork server, forked from the code server
            os.kill(warm, signal.SIGKILL)
            failures.failed_with_its_process(run_id, pid)
        cold = failures.forked_flush()
        assert cold != warm
        assert parent(cold) == code_server

        with failures.blocked_flush() as (run_id, pid):  # the fork server that Python started
            os.kill(cold, signal.SIGKILL)
            failures.failed_with_its_process(run_id, pid)
        idle = failures.forked_flush()
        os.kill(idle, signal.SIGKILL)  # while no run is active
        assert failures.flush() != idle

        with failures.blocked_flush() as (run_id, pid):  # the code server, with a fork server that Python started
            os.kill(code_server, signal.SIGKILL)
            failures.failed_with_its_process(run_id, pid)
        warm = failures.flush()
        assert name(parent(warm)) == "code-server"

        with failures.blocked_flush() as (run_id, pid):  # with one that was forked; the run itself is stopped
            os.kill(pid, signal.SIGSTOP)
            os.kill(parent(warm), signal.SIGKILL)
            failures.failed_with_its_process(run_id, pid)
        warm = failures.flush()

        supervisor = parent(parent(warm))
        with failures.blocked_flush() as (run_id, pid):
            os.kill(supervisor, signal.SIGKILL)
            failures.failed_with_its_process(run_id, pid)
        assert parent(parent(failures.flush())) != supervisor
        stack.stop()
    assert "Traceback" not in stack.log.read_text()
    for log, message in DAGSTER_LOG_LINES.items():
        assert message in (stack.home / log).read_text()


# Executes a run, then writes which modules it has imported.
LISTS_IMPORTS = """    import sys
    from pathlib import Path
    before = set(sys.modules)
    try:
        target(*args)
    finally:
        Path({path!r}).write_text("\\n".join(set(sys.modules) - before))
"""


def copy_package(tmp_path: Path) -> Path:
    """Copy the package to a directory, with runs that write the names of the modules they import to `imports`."""
    copy = tmp_path / "code" / "viewer_pipeline"
    shutil.copytree(Path(viewer_pipeline.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    server = copy / "code_server" / "server.py"
    text, calls = server.read_text(), "    target(*args)\n"
    assert text.count(calls) == 1
    server.write_text(text.replace(calls, LISTS_IMPORTS.format(path=str(tmp_path / "imports"))))
    return copy


def test_reload_brings_new_code(tmp_path: Path, database_url: str, redis_url: str, world: World) -> None:
    """A run that is active when the code location is reloaded continues; the next one executes the changed code.

    And a run imports nothing that its fork server could have imported.
    """
    package = copy_package(tmp_path)
    with up(environment_of(tmp_path, database_url, redis_url, PYTHONPATH=str(package.parent))) as stack:
        runs = Runs(stack, world)
        failures = Failures(runs, world)
        wait_until_idle(runs, world)
        before = failures.flush()
        wait_until((tmp_path / "imports").exists, 30, "the end of a run's process")
        imports = (tmp_path / "imports").read_text().split()
        assert [module for module in imports if module.startswith(("dagster", "viewer_pipeline", "pandas"))] == []
        code = package / "orchestration" / "flush_ops.py"
        text = code.read_text()

        with failures.blocked_flush() as (run_id, pid):
            code.write_text(text.replace('"counters_read"', '"counters_read_by_new_code"'))
            runs.reload_code_location()
            assert is_alive(pid)
        assert runs.wait_for(run_id, *ENDED) == "SUCCESS"
        assert "counters_read_by_new_code" not in runs.events(run_id)
        wait_until(lambda: not is_alive(before), 30, "the replaced fork server ends")

        run_id = runs.launch("flush_views")
        assert runs.wait_for(run_id, *ENDED) == "SUCCESS"
        assert "counters_read_by_new_code" in runs.events(run_id)
        assert failures.flush() != before

        code.write_text("import a_module_that_is_missing\n")
        runs.reload_code_location()
        run_id = runs.launch("flush_views")
        assert runs.wait_for(run_id, *ENDED) == "FAILURE"
        assert "a_module_that_is_missing" in runs.events(run_id)
        code.write_text(text)
        runs.reload_code_location()
        failures.flush()
        stack.stop()


@pytest.mark.parametrize("unsafe", ["threads", "setting"])
def test_runs_are_spawned(tmp_path: Path, database_url: str, redis_url: str, world: World, unsafe: str) -> None:
    """With a thread in the process, or WARM_RUNS=false: a run is a child of the code server, and ends with it too."""
    hook = tmp_path / "hook" / "sitecustomize.py"
    hook.parent.mkdir()
    hook.write_text("import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n")
    settings = {"PYTHONPATH": str(hook.parent)} if unsafe == "threads" else {"WARM_RUNS": "false"}
    with up(environment_of(tmp_path, database_url, redis_url, **settings)) as stack:
        failures = Failures(Runs(stack, world), world)
        wait_until_idle(failures.runs, world)
        code_server = failures.flush()
        assert "viewer_pipeline.code_server" in Path(f"/proc/{code_server}/cmdline").read_text()
        fork_servers = [pid for pid in children(code_server) if name(pid) == FORK_SERVER_NAME]
        for pid in fork_servers:  # threads are counted in a new one once it has imported everything
            os.kill(pid, signal.SIGKILL)
            assert failures.flush() == code_server
        assert bool(fork_servers) == (unsafe == "threads")
        with failures.blocked_flush() as (run_id, pid):
            os.kill(pid, signal.SIGSTOP)
            os.kill(code_server, signal.SIGKILL)
            failures.failed_with_its_process(run_id, pid)
        assert failures.flush() != code_server
        stack.stop()


NO_DIRECTORY = """import multiprocessing.util
def get_temp_dir():
    raise FileNotFoundError(2, "no directory")
multiprocessing.util.get_temp_dir = get_temp_dir
"""


@pytest.mark.parametrize("reason", ["no directory", "its socket was removed"])
def test_runs_without_a_fork_server(
    servers_home: Path, database_url: str, redis_url: str, world: World, reason: str
) -> None:
    """Where the fork server cannot have a socket, as without a writable directory, runs are spawned. One warning."""
    hook = servers_home / "hook" / "sitecustomize.py"
    hook.parent.mkdir()
    hook.write_text(NO_DIRECTORY if reason == "no directory" else "")
    environment = environment_of(servers_home, database_url, redis_url, PYTHONPATH=str(hook.parent))
    with up(environment) as stack:
        failures = Failures(Runs(stack, world), world)
        wait_until_idle(failures.runs, world)
        for directory in (stack.home / "dagster").glob("pymp-*"):
            shutil.rmtree(directory)
        code_server = failures.flush()
        assert name(code_server) == "code-server"
        assert failures.flush() == code_server
        failures.runs.reload_code_location()
        assert failures.flush() == code_server
        stack.stop()
    log = (stack.home / "code-server.log").read_text()
    assert log.count(f'reason="{reason}"') == 1
