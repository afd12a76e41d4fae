"""`viewer-pipeline healthcheck`: each role when it works and when it does not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from viewer_pipeline.cli.container_healthchecks import GRPC_SERVICE, ROLES, NotHealthy, find_address
from viewer_pipeline.errors import PostgresUnavailable
from viewer_pipeline.files import write_atomically_if_changed
from viewer_pipeline.home_lock_and_server_urls import ADDRESSES, SERVERS_FILE, lock_home_directory
from viewer_pipeline.monitoring.dagster_rules import TOLERANCE_SECONDS
from viewer_pipeline.settings import Settings
from viewer_pipeline.stack.dagster_command_lines import write_workspace_file
from viewer_pipeline.stack.ports import LOOPBACK, find_free_port, loopback_if_any_address
from viewer_pipeline_tests.support.dagster_world import DagsterWorld
from viewer_pipeline_tests.support.http_world import HttpWorld
from viewer_pipeline_tests.support.waiting import wait_until

SETTINGS = Settings(_env_file=None)
NOWHERE = (LOOPBACK, 0)


def test_worker_check(dagster: DagsterWorld, http: HttpWorld) -> None:
    """Healthy and degraded pass, with the failing checks; unhealthy and stopping do not."""
    dagster.beat_all()
    dagster.register()
    http.start()
    http.health()
    assert ROLES["worker"](http.settings, (LOOPBACK, http.port)).startswith(("healthy", "degraded; "))
    http.stats.refusal_reason = "Redis does not take it"
    message = "subscriber: received views stay in memory: Redis does not take it"
    wait_until(lambda: message in error_of_worker(http), 10, "a result that is newer")
    assert error_of_worker(http).startswith("Not healthy: unhealthy; ")
    http.stats.refusal_reason = ""
    http.stopping = True
    assert error_of_worker(http).startswith("Not healthy: unhealthy; subscriber: the worker is stopping")


def error_of_worker(http: HttpWorld) -> str:
    """Return the error of the health check of the worker."""
    try:
        ROLES["worker"](http.settings, (LOOPBACK, http.port))
    except NotHealthy as error:
        return str(error)
    return ""


def test_processes_that_do_not_run(dagster_settings: Settings) -> None:
    """Every role is reported as not healthy."""
    for role in ROLES:
        with pytest.raises(NotHealthy):
            ROLES[role](dagster_settings, (LOOPBACK, find_free_port()))


def test_daemon_check(dagster: DagsterWorld, dagster_settings: Settings) -> None:
    """All heartbeats are young; a daemon with an old one is named; PostgreSQL out of reach is an error."""
    dagster.beat_all()
    assert ROLES["daemon"](dagster_settings, NOWHERE) == "alive"
    dagster.beat("SENSOR", TOLERANCE_SECONDS + 5)
    with pytest.raises(NotHealthy, match=r"no heartbeat in the last 120 s of SENSOR$"):
        ROLES["daemon"](dagster_settings, NOWHERE)
    with pytest.raises(PostgresUnavailable):
        ROLES["daemon"](
            dagster_settings.copy_unvalidated(database_url=f"postgresql://viewer@127.0.0.1:{find_free_port()}/viewer"),
            NOWHERE,
        )


def test_code_server_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """By gRPC's health protocol, and not through a proxy: serving, not yet serving, another server."""
    monkeypatch.setenv("grpc_proxy", f"http://127.0.0.1:{find_free_port()}")
    servicer = health.HealthServicer()
    server = grpc.server(ThreadPoolExecutor(1))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with pytest.raises(NotHealthy, match="not_found"):
            ROLES["code-server"](SETTINGS, (LOOPBACK, port))
        servicer.set(GRPC_SERVICE, health_pb2.HealthCheckResponse.NOT_SERVING)
        with pytest.raises(NotHealthy, match="does not serve"):
            ROLES["code-server"](SETTINGS, (LOOPBACK, port))
        servicer.set(GRPC_SERVICE, health_pb2.HealthCheckResponse.SERVING)
        assert ROLES["code-server"](SETTINGS, (LOOPBACK, port)) == "serving"
    finally:
        server.stop(None).wait()


class Webserver(BaseHTTPRequestHandler):
    """Answers with `code`, as Dagster's webserver does."""

    code = 200

    def do_GET(self) -> None:
        """Answer."""
        self.send_response(self.code if self.path == "/server_info" else 404)
        self.end_headers()
        self.wfile.write(b'{"dagster_webserver_version":"1.13.27"}')

    def log_message(self, *_: object) -> None:
        """Write no log."""


@pytest.fixture
def webserver() -> Iterator[int]:
    """Port of a server in place of Dagster's UI."""
    with HTTPServer(("127.0.0.1", 0), Webserver) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_webserver_check(webserver: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers, or answers with an error."""
    assert ROLES["webserver"](SETTINGS, (LOOPBACK, webserver)) == "serving"
    monkeypatch.setattr(Webserver, "code", 500)
    with pytest.raises(NotHealthy, match="the webserver answers 500"):
        ROLES["webserver"](SETTINGS, (LOOPBACK, webserver))


def test_address(tmp_path: Path) -> None:
    """The port of the option, else that of the running `up`, else the usual one of a process with settings of its own.

    Where no server is known, nothing runs.
    """
    settings = SETTINGS.copy_unvalidated(viewer_home=tmp_path)
    assert find_address(settings, "worker", 7) == (LOOPBACK, 7)
    for role in ROLES:
        with pytest.raises(NotHealthy, match=f"^Not healthy: nothing runs for VIEWER_HOME={tmp_path}, and") as raised:
            find_address(settings, role, None)
        assert raised.value.remedy.startswith("start `viewer-pipeline up` for this VIEWER_HOME")
    for name in ("redis_url", "database_url", "dagster_database_url"):
        service = settings.copy_unvalidated(**{name: "x"})
        usual = {role: find_address(service, role, None)[1] for role in ROLES}
        assert usual == {"worker": 3003, "code-server": 4000, "daemon": 0, "webserver": 3000}
    with lock_home_directory(tmp_path):
        with pytest.raises(NotHealthy, match=r"`up` of VIEWER_HOME=.* is starting"):
            find_address(settings, "webserver", None)
        addresses = {"worker": ["0.0.0.0", 1], "code-server": [LOOPBACK, 2], "webserver": ["10.0.0.7", 3]}
        (tmp_path / SERVERS_FILE).write_text(json.dumps({ADDRESSES: addresses}))
        of_up = [find_address(service, role, None) for role in addresses]
        assert of_up == [(LOOPBACK, 1), (LOOPBACK, 2), ("10.0.0.7", 3)]


def test_connect_host() -> None:
    """A server that listens everywhere is reached on the loopback address, another one where it listens."""
    listens = ("0.0.0.0", "::", "127.0.0.1", "10.0.0.7", "worker")
    assert [loopback_if_any_address(host) for host in listens] == [
        "127.0.0.1",
        "::1",
        "127.0.0.1",
        "10.0.0.7",
        "worker",
    ]


def test_files_of_several_processes_are_whole(tmp_path: Path) -> None:
    """Put in their place in one step, and left alone where they say the same."""
    settings = SETTINGS.copy_unvalidated(dagster_home=tmp_path)
    workspace = write_workspace_file(settings, "code-server", 4000)
    assert "host: code-server\n      port: 4000" in workspace.read_text()
    before = workspace.stat().st_ino
    assert write_workspace_file(settings, "code-server", 4000).stat().st_ino == before
    write_atomically_if_changed(workspace, "other")
    assert (workspace.read_text(), workspace.stat().st_ino == before) == ("other", False)
    assert {path.name for path in tmp_path.iterdir()} == {"dagster.yaml", "workspace.yaml"}
