"""Dagster's own commands, with no other variables than ours: in a checkout, and elsewhere."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from textwrap import dedent

import psycopg
import pytest

from viewer_pipeline.home_lock_and_server_urls import SERVERS_FILE, lock_home_directory
from viewer_pipeline.stack.ports import find_free_port
from viewer_pipeline_tests.support import stack, warm
from viewer_pipeline_tests.support.waiting import ENOUGH, processes_with, wait_until
from viewer_pipeline_tests.support.world import World

ROOT = Path(__file__).parents[2]
FILES = ("dagster.yaml", "workspace.yaml", "pyproject.toml", "viewer_pipeline")
CLOSED = "http://127.0.0.1:1"
PROXIES = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), CLOSED)
UNSET = "Error: Dagster has no storage: No server is known: nothing runs for VIEWER_HOME="
CHECKS = (["dagster", "definitions", "validate"], ["dg", "check", "defs"], ["dg", "list", "defs"])


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A directory with what Dagster's commands find in a checkout."""
    directory = tmp_path / "checkout"
    directory.mkdir()
    for name in FILES:
        (directory / name).symlink_to(ROOT / name)
    return directory


def environment(directory: Path, **variables: str) -> dict[str, str]:
    """Return an environment in which the commands are found, and nothing of ours but these variables."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {"PATH": path, "HOME": str(directory), "DG_CLI_CONFIG": str(directory / "none"), **variables}


def run(command: list[str], directory: Path, **variables: str) -> tuple[int, str]:
    """Run a command to its end; return its status and output."""
    completed = subprocess.run(
        command,
        cwd=directory,
        env=environment(directory, **variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=ENOUGH,
    )
    return completed.returncode, completed.stdout


@contextmanager
def developing(command: list[str], directory: Path, **variables: str) -> Iterator[Path]:
    """Run `dagster dev` or `dg dev` until the block ends; yield its log. All its processes end with it."""
    log = directory.parent / "dev.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--port", str(find_free_port())],
            cwd=directory,
            env=environment(directory, BATCH_INTERVAL_MS="5000", **variables),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield log
        wait_until(lambda: not runs_in(directory), 60, "the processes of its runs have ended")
        process.send_signal(signal.SIGINT)
        process.wait(ENOUGH)
        wait_until(lambda: not processes_with(directory), 60, "all its processes have ended")
    finally:
        for pid in processes_with(directory):
            os.kill(pid, signal.SIGKILL)
        process.wait(ENOUGH)


def runs_in(directory: Path) -> list[str]:
    """Return the processes of runs: the code server watches each until it ends, in storage that may be gone by then."""
    return [command for command in processes_with(directory).values() if "spawn_main" in command]


def succeeded(world: World) -> bool:
    """Whether there is a successful run in Dagster's schema."""
    if world.rows("SELECT to_regclass('dagster.runs')") == [(None,)]:
        return False
    return ("SUCCESS",) in world.rows("SELECT status FROM dagster.runs")


def statuses(directory: Path) -> list[str]:
    """Return the status of each run in the temporary storage of `dagster dev`.

    `dagster dev` deletes this storage when it ends. If a run's process lives then, the code server that watches it
    fails on the missing tables and never ends: a fault of Dagster 1.13, with a temporary storage only.
    """
    for file in directory.glob(".tmp_dagster_home_*/history/runs.db"):
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
            if database.execute("SELECT 1 FROM sqlite_master WHERE name = 'runs'").fetchone():
                return [status for (status,) in database.execute("SELECT status FROM runs")]
    return []


@pytest.mark.parametrize("command", CHECKS, ids=" ".join)
def test_checks_with_an_env_file_behind_a_proxy(command: list[str], checkout: Path, database_url: str) -> None:
    """They open the storage that `.env` names, and reach the code server directly."""
    (checkout / ".env").write_text(f"DATABASE_URL={database_url}\n")
    status, output = run(command, checkout, **PROXIES)
    assert status == 0, output
    place = database_url.rpartition("@")[2]
    assert f"dagster_storage_opened place={place} schema=dagster" in output or command[0] == "dg"


@pytest.mark.parametrize("command", CHECKS[:2], ids=" ".join)
def test_without_a_database(command: list[str], checkout: Path) -> None:
    """One sentence names what is missing."""
    status, output = run(command, checkout)
    assert status == 1
    assert output.splitlines()[-1].startswith(UNSET), output
    assert output.endswith(", and DATABASE_URL is not set\n")
    assert "Traceback" not in output


def test_the_servers_of_a_running_stack(checkout: Path, database_url: str) -> None:
    """They are found in VIEWER_HOME where no URL is set."""
    home = checkout / ".viewer"
    home.mkdir()
    (home / SERVERS_FILE).write_text(json.dumps({"database_url": database_url}))
    with lock_home_directory(home):
        status, output = run(["dagster", "definitions", "validate"], checkout)
    assert status == 0, output
    assert f"dagster_storage_opened place={database_url.rpartition('@')[2]} schema=dagster" in output


def test_development_in_a_checkout(checkout: Path, world: World, redis_url: str) -> None:
    """Views are persisted, with the two URLs alone in `.env`; Dagster's runs are in PostgreSQL.

    `dg dev` runs `dagster dev`, which the tests below run by itself.
    """
    urls = {"DATABASE_URL": world.stores.ledger.url, "REDIS_URL": redis_url}
    (checkout / ".env").write_text("".join(f"{name}={url}\n" for name, url in urls.items()))
    world.send("a", 3, announce=True)
    with developing(["dg", "dev"], checkout, **PROXIES) as log:
        wait_until(lambda: succeeded(world), 180, f"a run succeeds; see {log}")
    world.assert_all_persisted()
    assert "dagster_storage_opened place=" in log.read_text()


@pytest.mark.parametrize("command", ["code-server", "daemon", "webserver"])
def test_services_beside_up(command: str, tmp_path: Path) -> None:
    """They refuse, because they would replace the address of the code server that the daemon of `up` reads again."""
    own = stack.variables(tmp_path)
    home = Path(own["VIEWER_HOME"])
    home.mkdir()
    workspace = home / "dagster" / "workspace.yaml"
    with lock_home_directory(home):
        refused = subprocess.run(
            [*stack.COMMAND, command],
            env=own,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=ENOUGH,
            check=False,
        )
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: `up` runs the code server, the daemon and the UI itself")
    assert f"it runs for VIEWER_HOME={home}\nremedy: stop it, or choose another directory" in refused.stderr
    assert not workspace.exists()


@contextmanager
def service(own: dict[str, str], name: str, *options: str) -> Iterator[Path]:
    """Run a service as a script does with `&`, until the block ends; then stop it with SIGTERM. Yield its log."""
    log = Path(own["HOME"], f"{name}.log")
    with log.open("wb") as output:
        command = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *stack.COMMAND, name, *options]
        process = subprocess.Popen(command, env=own, cwd=own["HOME"], stdout=output, stderr=subprocess.STDOUT)
    with process:
        try:
            yield log
            process.terminate()
            process.wait(ENOUGH)
        finally:
            process.kill()


def wait_for(log: Path, text: str) -> None:
    """Wait until a log has this text."""
    wait_until(lambda: text in log.read_text(), 120, f"{text} in {log}")


def test_services_before_the_schema(tmp_path: Path, database_url: str, redis_url: str) -> None:
    """An error with its remedy, and no traceback."""
    with psycopg.connect(database_url) as connection:
        connection.execute("DROP SCHEMA dagster CASCADE")
    own = stack.variables(tmp_path, DATABASE_URL=database_url, REDIS_URL=redis_url)
    for name in ("daemon", "webserver"):
        completed = subprocess.run(
            [*stack.COMMAND, name], env=own, cwd=tmp_path, capture_output=True, text=True, timeout=ENOUGH, check=False
        )
        assert completed.returncode == 1
        lines = completed.stderr.splitlines()
        assert re.match("error: PostgreSQL refused a statement: Dagster's storage: ", lines[-2]), completed.stderr
        assert ": the schema for Dagster's tables is missing (" in lines[-2]
        assert lines[-1] == "remedy: run `viewer-pipeline migrate`"
        assert "Traceback" not in completed.stderr + completed.stdout


def test_services_before_their_code_server(tmp_path: Path, database_url: str, redis_url: str) -> None:
    """One line in place of Dagster's tracebacks; they connect when it runs."""
    own = stack.variables(tmp_path, DATABASE_URL=database_url, REDIS_URL=redis_url)
    port = str(find_free_port())
    address = ("--code-server", f"127.0.0.1:{port}")
    started = time.monotonic()
    with (
        service(own, "daemon", *address) as daemon,
        service(own, "webserver", "--port", str(find_free_port()), *address) as webserver,
    ):
        logs = (daemon, webserver)
        for log in logs:
            wait_for(log, "LOCATION_ERROR")
        with service(own, "code-server", "--port", port):
            for log in logs:
                wait_for(log, "LOCATION_UPDATED")
    for log in logs:
        line = "event=code_server_unreachable reason=.*Connection refused.* remedy=.*`viewer-pipeline code-server`"
        text = log.read_text()
        assert 1 <= len(re.findall(line, text)) <= 1 + (time.monotonic() - started) // 60, text  # repeated each minute
        assert "Stack Trace" not in text
        assert "Traceback" not in text


def test_an_existing_deployment(tmp_path: Path, world: World, redis_url: str) -> None:
    """With the two files of the page, on dagster-postgres's own storage: views are persisted, `status` sees Dagster."""
    directory = tmp_path / "deployment"
    directory.mkdir()
    page = (ROOT / "docs/how-to/existing-dagster.md").read_text()
    blocks = [dedent(block) for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]
    for name, block in zip(("workspace.yaml", "dagster.yaml"), blocks, strict=False):
        (directory / name).write_text(block)
    url = world.stores.ledger.url
    variables = {
        "DAGSTER_HOME": str(directory),
        "DAGSTER_STORAGE_URL": f"{url.replace('://', '+psycopg2://')}?options=-csearch_path%3Ddagster",
        "DAGSTER_DATABASE_URL": f"{url}?schema=dagster",
        "DATABASE_URL": url,
        "REDIS_URL": redis_url,
    }

    def sensor() -> str:
        completed = warm.run(environment(directory, **variables), "status", "--json")
        return str(json.loads(completed.stdout)["checks"]["sensor"]["status"])

    world.send("a", 3, announce=True)
    with developing(["dagster", "dev"], directory, **variables) as log:
        wait_until(lambda: not world.counters(), 180, f"the views are persisted; see {log}")
        wait_until(lambda: sensor() == "healthy", 60, "the sensor is seen")
    world.assert_all_persisted()


def test_development_elsewhere(tmp_path: Path, world: World, redis_url: str) -> None:
    """Without our `dagster.yaml`, Dagster says where it keeps the runs; views are persisted all the same."""
    directory = tmp_path / "elsewhere"
    directory.mkdir()
    world.send("a", 3, announce=True)
    command = ["dagster", "dev", "-m", "viewer_pipeline.definitions"]
    urls = {"DATABASE_URL": world.stores.ledger.url, "REDIS_URL": redis_url}
    with developing(command, directory, **urls, **PROXIES) as log:
        wait_until(lambda: set(statuses(directory)) == {"SUCCESS"}, 180, f"a run has ended; see {log}")
    world.assert_all_persisted()
    assert f"Using temporary directory {directory}" in log.read_text()
