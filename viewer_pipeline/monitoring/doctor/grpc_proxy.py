"""Whether a proxy of this environment stands between Dagster's own commands and the code server. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from viewer_pipeline.checks import CheckResult
from viewer_pipeline.redaction import redact_url

REMEDY = "set `grpc_proxy=` (empty) for Dagster's daemon and webserver, or the host of the code server in no_proxy"


def evaluate_grpc_proxy(variables: Mapping[str, str], *, sensor_ticks: bool) -> CheckResult:
    """Evaluate the variables that gRPC reads, in lower case only. Our own commands pass an empty `grpc_proxy` on.

    An empty variable counts as set, as for gRPC. `sensor_ticks`: whether Dagster's daemon reaches the code server now.
    Where it does not run, the host of its code server is unknown.
    """
    name = next((name for name in ("grpc_proxy", "https_proxy", "http_proxy") if name in variables), "")
    if not variables.get(name):
        return CheckResult("grpc_proxy", "healthy", "gRPC uses no proxy")
    proxy = f"gRPC uses {name}={redact_url(variables[name])}"
    exceptions = next((name for name in ("no_grpc_proxy", "no_proxy") if name in variables), "")
    if variables.get(exceptions):
        message = f"{proxy}, except for {exceptions}={variables[exceptions]}, where the code server must be"
        return CheckResult("grpc_proxy", "healthy", message)
    if sensor_ticks:
        return CheckResult("grpc_proxy", "healthy", f"{proxy} here, but Dagster's daemon reaches the code server")
    message = f"{proxy} for every host: Dagster's own commands do not reach the code server; ours connect directly"
    return CheckResult("grpc_proxy", "degraded", message, remedy=REMEDY)
