"""Ask one process whether it does its work: for the health checks of containers, without curl and in half a second.

Each is asked what only it can answer, over the way that others use. Nothing here restarts anything.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

from viewer_pipeline.errors import ViewerPipelineError
from viewer_pipeline.monitoring.dagster_rules import TOLERANCE_SECONDS, dead_daemons
from viewer_pipeline.monitoring.dagster_tables import read_heartbeats
from viewer_pipeline.settings import Settings
from viewer_pipeline.stack.dagster_processes import CODE_SERVER_PORT, UI_PORT
from viewer_pipeline.stack.ports import LOOPBACK, connect_host

ANSWER_SECONDS = 5.0
GRPC_SERVICE = "DagsterApi"  # what Dagster's code server calls itself


class NotHealthy(ViewerPipelineError):
    """Not healthy"""


def ask(role: str, settings: Settings, port: int | None = None) -> str:
    """Ask the process of this role on this machine, on its usual port or on this one; return what it says.

    Raises NotHealthy; of the daemon PostgresUnavailable as well.
    """
    return ROLES[role](settings, port)


def ask_worker(settings: Settings, port: int | None) -> str:
    """Ask `/health`; return its status. Raises NotHealthy with what is wrong, where it answers 503 or not at all."""
    code, body = _get(connect_host(settings.health_check_host), port or settings.health_check_port, "/health")
    said: dict[str, Any] = json.loads(body)
    wrong = [f"{name}: {check['said']}" for name, check in said["checks"].items() if check["state"] != "healthy"]
    if code != http.client.OK:
        raise NotHealthy("; ".join([str(said["status"]), *wrong]))
    return "; ".join([str(said["status"]), *wrong])


def ask_code_server(_settings: Settings, port: int | None) -> str:
    """Ask the code server by gRPC's own health protocol; it serves once our definitions are loaded."""
    import grpc
    from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
    from grpc_health.v1.health_pb2_grpc import HealthStub

    where = f"{LOOPBACK}:{port or CODE_SERVER_PORT}"
    with grpc.insecure_channel(where) as channel:
        try:
            answer = HealthStub(channel).Check(HealthCheckRequest(service=GRPC_SERVICE), timeout=ANSWER_SECONDS)
        except grpc.RpcError as error:
            raise NotHealthy(f"the code server on {where}: {error.code().name.lower()}") from None
    if answer.status != HealthCheckResponse.SERVING:
        raise NotHealthy(f"the code server on {where} does not serve")
    return "serving"


def ask_daemon(settings: Settings, _port: int | None) -> str:
    """Look for its signs of life in Dagster's storage. Raises NotHealthy; PostgresUnavailable."""
    if dead := dead_daemons(read_heartbeats(settings), time.time()):
        raise NotHealthy(f"no sign of life for {TOLERANCE_SECONDS:.0f} s of {', '.join(dead)}")
    return "alive"


def ask_webserver(_settings: Settings, port: int | None) -> str:
    """Ask the UI's server for its version: it needs no storage for it."""
    code, _ = _get(LOOPBACK, port or UI_PORT, "/server_info")
    if code != http.client.OK:
        raise NotHealthy(f"the webserver answers {code}")
    return "serving"


ROLES: dict[str, Callable[[Settings, int | None], str]] = {
    "worker": ask_worker,
    "code-server": ask_code_server,
    "daemon": ask_daemon,
    "webserver": ask_webserver,
}


def _get(host: str, port: int, path: str) -> tuple[int, bytes]:
    with closing(http.client.HTTPConnection(host, port, timeout=ANSWER_SECONDS)) as connection:
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise NotHealthy(f"http://{host}:{port}{path}: {error}") from None
