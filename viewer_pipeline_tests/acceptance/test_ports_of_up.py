"""The ports of `up`: the same at the next start, never replaced silently, and an error where one was set."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from viewer_pipeline.home_lock_and_server_urls import read_settings_of_running_up
from viewer_pipeline.settings import Settings
from viewer_pipeline.stack.kept_ports import PORTS_FILE
from viewer_pipeline.stack.ports import LOOPBACK, find_free_port, find_free_port_from
from viewer_pipeline_tests.support.stack import COMMAND, Stack, up, variables
from viewer_pipeline_tests.support.waiting import ENOUGH, wait_until

USUAL_HEALTH_PORT = Settings.model_fields["health_check_port"].default
COMM = Path("/proc/self/comm")
LISTENER = f"{COMM.read_text().strip()} (process {os.getpid()})" if COMM.exists() else "another process"


@contextmanager
def listening() -> Iterator[int]:
    """Listen on a port, as another program does; pass it in. Outgoing connections get ports above these."""
    with socket.create_server((LOOPBACK, find_free_port_from(random.randrange(10_000, 30_000)))) as server:
        yield server.getsockname()[1]


def read_ports(home: Path) -> dict[str, int]:
    """Return the ports that `up` keeps."""
    return dict(json.loads((home / PORTS_FILE).read_text()))


def read_banner(stack: Stack) -> str:
    """Return the banner as one line."""
    ui = stack.wait_for_ui()
    wait_until(lambda: stack.find_in_log("(Ctrl-C)"), 10, "the end of the banner")
    return " ".join(stack.log.read_text().partition(ui)[2].split())


def require_responses(ui_port: int, health_port: int) -> None:
    """Check that UI and worker respond on these ports."""
    for url in f"http://{LOOPBACK}:{ui_port}/server_info", f"http://{LOOPBACK}:{health_port}/ping":
        with urllib.request.urlopen(url, timeout=ENOUGH) as response:
            assert response.status == 200


def run_up(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run an `up` that is refused; one that is not fails the test after a while."""
    command, home = [*COMMAND, "up", *arguments], environment["HOME"]
    return subprocess.run(
        command, env=environment, cwd=home, capture_output=True, text=True, timeout=ENOUGH, check=False
    )


def test_ports_stay_the_same_and_taken_ones_are_reported(tmp_path: Path) -> None:
    """Each kept port that is taken is named with who has it; after SIGKILL, the next start has all ports again."""
    home = tmp_path / "home"
    home.mkdir()
    environment = variables(tmp_path)
    with listening() as ui, listening() as health, listening() as postgres, listening() as redis:
        in_use = {"ui": ui, "health": health, "postgres": postgres, "redis": redis}
        (home / PORTS_FILE).write_text(json.dumps(in_use))
        with up(environment) as stack:
            banner = read_banner(stack)
            ports = read_ports(home)
            for service, port in in_use.items():
                assert ports[service] > port
                assert f"Warning port {port} is in use by {LISTENER}: " in banner
                assert f" has port {ports[service]}, also at the next start; " in banner
            assert f"to choose: `VIEWER_HOME={home} viewer-pipeline up --ui-port PORT`" in banner
            assert "HEALTH_CHECK_PORT" in banner
            chosen = read_settings_of_running_up(home)
            assert chosen["dagster_ui_url"] == f"http://{LOOPBACK}:{ports['ui']}"
            assert chosen["health_check_port"] == ports["health"]
            stack.process.send_signal(signal.SIGKILL)
    with up(environment, log=tmp_path / "second.log") as stack:
        banner = read_banner(stack)
        assert "Warning" not in banner
        assert read_ports(home) == ports
        require_responses(ports["ui"], ports["health"])
        for role in ("worker", "code-server", "webserver"):
            assert stack.run("healthcheck", role).returncode == 0  # which finds the port
        stack.stop()
        ended = stack.run("healthcheck")
        assert ended.returncode == 1
        assert f"Not healthy: nothing runs for VIEWER_HOME={home}" in ended.stderr


@pytest.mark.parametrize("has_own_servers", [True, False])
def test_a_port_that_was_set_is_never_replaced(
    tmp_path: Path, database_url: str, redis_url: str, *, has_own_servers: bool
) -> None:
    """The error names the option or setting, the process that has the port, and what to do. No server is started."""
    urls = {"DATABASE_URL": database_url, "REDIS_URL": redis_url} if has_own_servers else {}
    environment = variables(tmp_path, **urls)
    with listening() as port:
        for variables_of_port, arguments, name in (
            ({"HEALTH_CHECK_PORT": str(port)}, [], "HEALTH_CHECK_PORT"),
            ({"HEALTH_CHECK_PORT": str(find_free_port())}, ["--ui-port", str(port)], "--ui-port"),
        ):
            refused = run_up(environment | variables_of_port, *arguments)
            assert (refused.returncode, refused.stdout) == (2, "")
            assert "starting" not in refused.stderr
            assert f"{name}={port}: {LISTENER} listens on this port" in refused.stderr
            assert f"remedy: stop it, or choose another port with {name}" in refused.stderr


def test_addresses_and_directories_that_cannot_be_used(tmp_path: Path) -> None:
    """An error that names the setting or option, before anything is started."""
    file = tmp_path / "file"
    file.touch()
    no_address = "this machine has no such address\nremedy: set an address of this machine, or 0.0.0.0 for all of them"
    for changed, arguments, message in (
        ({"HEALTH_CHECK_HOST": "203.0.113.1"}, [], f"HEALTH_CHECK_HOST='203.0.113.1': {no_address}"),
        ({}, ["--ui-host", "203.0.113.1"], f"--ui-host='203.0.113.1': {no_address}"),
        ({"VIEWER_HOME": str(file)}, [], f"VIEWER_HOME: the directory {file} cannot be written: Not a directory"),
        (
            {"VIEWER_HOME": str(file / "x")},
            [],
            f"VIEWER_HOME: the directory {file}/x cannot be written: Not a directory",
        ),
    ):
        refused = run_up(variables(tmp_path, **changed), *arguments)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert refused.stderr.startswith(f"error: Settings are not usable: {message}\n")
        assert "starting" not in refused.stderr


def test_own_servers_never_get_another_health_port(tmp_path: Path, database_url: str, redis_url: str) -> None:
    """Monitoring watches the usual port, and would watch the process that has it."""
    environment = variables(tmp_path, DATABASE_URL=database_url, REDIS_URL=redis_url)
    with ExitStack() as stack:
        with suppress(OSError):  # another process has it
            stack.enter_context(socket.create_server((LOOPBACK, USUAL_HEALTH_PORT)))
        refused = run_up(environment)
    assert refused.returncode == 2
    assert f"HEALTH_CHECK_PORT={USUAL_HEALTH_PORT}: " in refused.stderr
    assert not (tmp_path / "home" / PORTS_FILE).exists()
