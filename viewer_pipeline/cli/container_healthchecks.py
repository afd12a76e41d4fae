"""The health checks of containers: whether one process of this machine works, in half a second and without curl.

Each role is checked over the interface that its clients use. Nothing here restarts a process.
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
from viewer_pipeline.stack.dagster_command_lines import CODE_SERVER_PORT, UI_PORT
from viewer_pipeline.stack.ports import LOOPBACK, loopback_if_any_address

TIMEOUT_SECONDS = 5.0
GRPC_SERVICE = "DagsterApi"  # the service name of Dagster's code server


class NotHealthy(ViewerPipelineError):
    """Not healthy"""


def require_healthy_worker(settings: Settings, port: int | None) -> str:
    """Request `/health`; return its status. Raises NotHealthy with the failing checks where the code is not 200."""
    code, body = _get(
        loopback_if_any_address(settings.health_check_host), port or settings.health_check_port, "/health"
    )
    health: dict[str, Any] = json.loads(body)
    failing = [
        f"{name}: {check['message']}" for name, check in health["checks"].items() if check["status"] != "healthy"
    ]
    summary = "; ".join([str(health["status"]), *failing])
    if code != http.client.OK:
        raise NotHealthy(summary)
    return summary


def require_healthy_code_server(_settings: Settings, port: int | None) -> str:
    """Check it by gRPC's own health protocol; it serves once our definitions are loaded."""
    import grpc
    from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
    from grpc_health.v1.health_pb2_grpc import HealthStub

    where = f"{LOOPBACK}:{port or CODE_SERVER_PORT}"
    with grpc.insecure_channel(where, [("grpc.enable_http_proxy", 0)]) as channel:
        try:
            response = HealthStub(channel).Check(HealthCheckRequest(service=GRPC_SERVICE), timeout=TIMEOUT_SECONDS)
        except grpc.RpcError as error:
            raise NotHealthy(f"the code server on {where}: {error.code().name.lower()}") from None
    if response.status != HealthCheckResponse.SERVING:
        raise NotHealthy(f"the code server on {where} does not serve")
    return "serving"


def require_healthy_daemon(settings: Settings, _port: int | None) -> str:
    """Check its heartbeats in Dagster's storage. Raises NotHealthy, PostgresUnavailable."""
    if dead := dead_daemons(read_heartbeats(settings), time.time()):
        raise NotHealthy(f"no heartbeat in the last {TOLERANCE_SECONDS:.0f} s of {', '.join(dead)}")
    return "alive"


def require_healthy_webserver(_settings: Settings, port: int | None) -> str:
    """Request the version of the UI's server, for which it needs no storage."""
    code, _ = _get(LOOPBACK, port or UI_PORT, "/server_info")
    if code != http.client.OK:
        raise NotHealthy(f"the webserver answers {code}")
    return "serving"


# Each returns a status, and raises NotHealthy; that of the daemon PostgresUnavailable as well. The second argument is a
# port other than the usual one.
ROLES: dict[str, Callable[[Settings, int | None], str]] = {
    "worker": require_healthy_worker,
    "code-server": require_healthy_code_server,
    "daemon": require_healthy_daemon,
    "webserver": require_healthy_webserver,
}


def _get(host: str, port: int, path: str) -> tuple[int, bytes]:
    with closing(http.client.HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)) as connection:
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            raise NotHealthy(f"http://{host}:{port}{path}: {error}") from None
