"""The HTTP server of the worker, on a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack

import uvicorn
from starlette.applications import Starlette

from viewer_pipeline.checks import CheckResult
from viewer_pipeline.home_lock_and_server_urls import is_up_starting
from viewer_pipeline.ingest.subscriber_stats import SubscriberStats
from viewer_pipeline.monitoring.bound_socket import bind_socket
from viewer_pipeline.monitoring.check_runner import CheckRunner
from viewer_pipeline.monitoring.health_change_log import HealthChangeLog
from viewer_pipeline.monitoring.http_app import build_health_app
from viewer_pipeline.monitoring.metrics import PrometheusMetrics
from viewer_pipeline.monitoring.probes import HealthProbes
from viewer_pipeline.monitoring.status_page.page import StatusPage
from viewer_pipeline.settings import Settings

STOP_SECONDS = 2  # time limit of running requests at a stop
STOPPING = CheckResult("subscriber", "unhealthy", "the worker is stopping, and folds the views in its memory")


class HealthServer:
    """Binds its port when it is made; serves from `start` to `stop`."""

    def __init__(self, app: Starlette, host: str, port: int) -> None:
        """Bind. Raises SettingsError, which names the setting to change."""
        self._socket = bind_socket(host, port)
        self.port: int = self._socket.getsockname()[1]
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                log_config=None,  # our own loggers and format
                log_level="error",  # no line for each invalid request: a port scan would fill the log
                access_log=False,  # probes come every few seconds
                server_header=False,  # no versions
                date_header=False,
                lifespan="off",
                ws="none",
                timeout_graceful_shutdown=STOP_SECONDS,
            )
        )
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), name="health", daemon=True)
        self.closing = ExitStack()  # is closed with the server

    def start(self) -> None:
        """Start to serve."""
        self._thread.start()

    def stop(self) -> None:
        """Finish running requests and release the port. Safe to call twice."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS + 1)
        self._socket.close()
        self.closing.close()


def start_health_server(settings: Settings, stats: SubscriberStats, is_stopping: Callable[[], bool]) -> HealthServer:
    """Bind HEALTH_CHECK_PORT, start the checks, and serve until `stop`. Raises SettingsError."""
    probes = HealthProbes(settings, stats=stats)
    checks = CheckRunner(probes.health_checks(), probes.relate)
    watch = HealthChangeLog(checks, lambda: is_stopping() or is_up_starting(settings.viewer_home))

    def run_checks(interval_seconds: float = 0.0) -> list[CheckResult]:
        return [STOPPING] if is_stopping() else checks.run_in_parallel(interval_seconds)

    page = StatusPage(settings, probes.store, run_checks, watch.oldest_pending)
    app = build_health_app(run_checks, PrometheusMetrics(settings, stats, probes.store), page)
    server = HealthServer(app, settings.health_check_host, settings.health_check_port)
    server.closing.callback(probes.close)
    server.closing.callback(page.close)
    server.closing.callback(watch.stop)
    server.start()
    watch.start()
    return server
