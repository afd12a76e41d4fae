"""`viewer-pipeline healthcheck`: what each role is asked, and that the answer can be no."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from viewer_pipeline.cli.healthcheck import GRPC_SERVICE, ROLES, NotHealthy, ask
from viewer_pipeline.errors import PostgresUnavailable
from viewer_pipeline.files import write_atomically
from viewer_pipeline.monitoring.dagster_rules import TOLERANCE_SECONDS
from viewer_pipeline.settings import Settings
from viewer_pipeline.stack.dagster_processes import write_workspace
from viewer_pipeline.stack.ports import connect_host, free_port
from viewer_pipeline_tests.support.dagster_world import DagsterWorld
from viewer_pipeline_tests.support.http_world import HttpWorld
from viewer_pipeline_tests.support.waiting import wait_until

SETTINGS = Settings(_env_file=None)


def test_the_worker(dagster: DagsterWorld, http: HttpWorld) -> None:
    """Healthy and degraded are good enough; what is wrong is said; unhealthy and stopping are not."""
    dagster.beat_all()
    dagster.register()
    http.start()
    http.health()
    assert ask("worker", http.settings, http.port).startswith(("healthy", "degraded; "))
    http.stats.refusal_reason = "Redis does not take it"
    said = "subscriber: what is heard stays in memory: Redis does not take it"
    wait_until(lambda: said in complaint(http), 10, "an answer that is not the one before")
    assert complaint(http).startswith("Not healthy: unhealthy; ")
    http.stats.refusal_reason = ""
    http.stopping = True
    assert complaint(http) == "Not healthy: stopping"


def complaint(http: HttpWorld) -> str:
    """Return what the health check of the worker says is wrong."""
    try:
        ask("worker", http.settings, http.port)
    except NotHealthy as error:
        return str(error)
    return ""


def test_nobody_is_there(dagster_settings: Settings) -> None:
    """Every role says so in a sentence; of the daemon, that Dagster has never run."""
    for role in ROLES:
        with pytest.raises(NotHealthy):
            ask(role, dagster_settings, free_port())


def test_the_daemon(dagster: DagsterWorld, dagster_settings: Settings) -> None:
    """All daemons gave a sign of life; one that gave none for long is named. PostgreSQL away is no answer either."""
    dagster.beat_all()
    assert ask("daemon", dagster_settings) == "alive"
    dagster.beat("SENSOR", TOLERANCE_SECONDS + 5)
    with pytest.raises(NotHealthy, match=r"no sign of life for 120 s of SENSOR$"):
        ask("daemon", dagster_settings)
    with pytest.raises(PostgresUnavailable):
        ask("daemon", dagster_settings.changed(database_url=f"postgresql://viewer@127.0.0.1:{free_port()}/viewer"))


def test_the_code_server() -> None:
    """By gRPC's health protocol: serving, not yet serving, another server."""
    servicer = health.HealthServicer()
    server = grpc.server(ThreadPoolExecutor(1))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with pytest.raises(NotHealthy, match="not_found"):
            ask("code-server", SETTINGS, port)
        servicer.set(GRPC_SERVICE, health_pb2.HealthCheckResponse.NOT_SERVING)
        with pytest.raises(NotHealthy, match="does not serve"):
            ask("code-server", SETTINGS, port)
        servicer.set(GRPC_SERVICE, health_pb2.HealthCheckResponse.SERVING)
        assert ask("code-server", SETTINGS, port) == "serving"
    finally:
        server.stop(None).wait()


class Webserver(BaseHTTPRequestHandler):
    """Answers as it is told to."""

    code = 200

    def do_GET(self) -> None:
        """Answer."""
        self.send_response(self.code if self.path == "/server_info" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def webserver() -> Iterator[int]:
    """Port of a server in place of Dagster's UI."""
    with HTTPServer(("127.0.0.1", 0), Webserver) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_the_webserver(webserver: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers, or answers with an error."""
    assert ask("webserver", SETTINGS, webserver) == "serving"
    monkeypatch.setattr(Webserver, "code", 500)
    with pytest.raises(NotHealthy, match="the webserver answers 500"):
        ask("webserver", SETTINGS, webserver)


def test_where_a_server_is_asked() -> None:
    """One that listens everywhere is asked on the loopback address, another where it listens."""
    listens = ("0.0.0.0", "::", "127.0.0.1", "10.0.0.7", "worker")
    assert [connect_host(host) for host in listens] == ["127.0.0.1", "::1", "127.0.0.1", "10.0.0.7", "worker"]


def test_files_of_several_processes_are_whole(tmp_path: Path) -> None:
    """Put in their place in one step, and left alone where they say the same."""
    workspace = write_workspace(tmp_path, "code-server", 4000)
    assert "host: code-server\n      port: 4000" in workspace.read_text()
    before = workspace.stat().st_ino
    assert write_workspace(tmp_path, "code-server", 4000).stat().st_ino == before
    write_atomically(workspace, "other")
    assert (workspace.read_text(), workspace.stat().st_ino == before) == ("other", False)
    assert [path.name for path in tmp_path.iterdir()] == ["workspace.yaml"]
