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

from viewer_pipeline.errors import NoServer, ViewerPipelineError
from viewer_pipeline.home_lock_and_server_urls import ADDRESSES, read_settings_of_running_up
from viewer_pipeline.monitoring.dagster_rules import TOLERANCE_SECONDS, dead_daemons
from viewer_pipeline.monitoring.dagster_tables import read_heartbeats
from viewer_pipeline.settings import Settings
from viewer_pipeline.stack.dagster_command_lines import CODE_SERVER_PORT, UI_PORT
from viewer_pipeline.stack.ports import LOOPBACK, loopback_if_any_address

TIMEOUT_SECONDS = 5.0
GRPC_SERVICE = "DagsterApi"  # the service name of Dagster's code server


Address = tuple[str, int]  # host and port


class NotHealthy(ViewerPipelineError):
    """Not healthy"""


def find_address(settings: Settings, role: str, port: int | None) -> Address:
    """Return where this role listens: on `port`, else where the running `up` has it, else on the usual port.

    Raises NotHealthy where no `up` runs, and no setting names a server that a process started alone would need.
    """
    usual = {
        "worker": (settings.health_check_host, settings.health_check_port),
        "code-server": (LOOPBACK, CODE_SERVER_PORT),
        "daemon": (LOOPBACK, 0),  # it does not listen
        "webserver": (LOOPBACK, UI_PORT),
    }
    host, usual_port = usual[role]
    if port is None:
        try:
            _require_servers(settings)
        except NoServer as error:
            raise NotHealthy(str(error).removeprefix(f"{NoServer.__doc__}: "), error.remedy) from None
        host, usual_port = (
            read_settings_of_running_up(settings.viewer_home).get(ADDRESSES, usual).get(role, usual[role])
        )
    return loopback_if_any_address(host), port or usual_port


def _require_servers(settings: Settings) -> None:
    """Raises NoServer where none is known."""
    if not (settings.redis_url or settings.dagster_database_url):
        settings.require_database_url()


def require_healthy_worker(_settings: Settings, address: Address) -> str:
    """Request `/health`; return its status. Raises NotHealthy with the failing checks where the code is not 200."""
    code, body = _get(address, "/health")
    try:
        health: dict[str, Any] = json.loads(body)
        failing = [
            f"{name}: {check['message']}" for name, check in health["checks"].items() if check["status"] != "healthy"
        ]
        summary = "; ".join([str(health["status"]), *failing])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise NotHealthy(f"{address[0]}:{address[1]} responds, and is no worker of Viewer Pipeline") from None
    if code != http.client.OK:
        raise NotHealthy(summary)
    return summary


def require_healthy_code_server(_settings: Settings, address: Address) -> str:
    """Check it by gRPC's own health protocol; it serves once our definitions are loaded."""
    import grpc
    from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
    from grpc_health.v1.health_pb2_grpc import HealthStub

    where = f"{address[0]}:{address[1]}"
    with grpc.insecure_channel(where, [("grpc.enable_http_proxy", 0)]) as channel:
        try:
            response = HealthStub(channel).Check(HealthCheckRequest(service=GRPC_SERVICE), timeout=TIMEOUT_SECONDS)
        except grpc.RpcError as error:
            raise NotHealthy(f"the code server on {where}: {error.code().name.lower()}") from None
    if response.status != HealthCheckResponse.SERVING:
        raise NotHealthy(f"the code server on {where} does not serve")
    return "serving"


def require_healthy_daemon(settings: Settings, _address: Address) -> str:
    """Check its heartbeats in Dagster's storage. Raises NotHealthy, PostgresUnavailable."""
    if dead := dead_daemons(read_heartbeats(settings), time.time()):
        raise NotHealthy(f"no heartbeat in the last {TOLERANCE_SECONDS:.0f} s of {', '.join(dead)}")
    return "alive"


def require_healthy_webserver(_settings: Settings, address: Address) -> str:
    """Request the version of the UI's server, for which it needs no storage."""
    code, body = _get(address, "/server_info")
    if code != http.client.OK:
        raise NotHealthy(f"the webserver answers {code}")
    if b"dagster_webserver_version" not in body:
        raise NotHealthy(f"{address[0]}:{address[1]} responds, and is no webserver of Dagster")
    return "serving"


# Each returns a status, and raises NotHealthy; that of the daemon PostgresUnavailable as well.
ROLES: dict[str, Callable[[Settings, Address], str]] = {
    "worker": require_healthy_worker,
    "code-server": require_healthy_code_server,
    "daemon": require_healthy_daemon,
    "webserver": require_healthy_webserver,
}


def _get(address: Address, path: str) -> tuple[int, bytes]:
    host, port = address
    with closing(http.client.HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)) as connection:
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            raise NotHealthy(f"http://{host}:{port}{path}: {error}") from None
