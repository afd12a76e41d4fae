"""`/health`, `/ping` and `/metrics`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from viewer_pipeline.monitoring.checks import Checks, worst
from viewer_pipeline.monitoring.metrics import CONTENT_TYPE, Metrics
from viewer_pipeline.timestamps import format_timestamp

SERVICE = "viewer-worker"


def health_app(checks: Checks, metrics: Metrics, stopping: Callable[[], bool]) -> Starlette:
    """Return the application. Every answer comes within a second; none tells secrets, versions or stack traces."""

    async def ping(_request: Request) -> Response:
        """Say that the process lives. On the event loop, so that no thread has to be free for it."""
        return JSONResponse(_said("ok"))

    def health(_request: Request) -> Response:
        """Say whether views are heard and persisted; 503 where they are not, or the worker is stopping."""
        if stopping():
            return JSONResponse({**_said("stopping"), "checks": {}}, status_code=503)
        results = checks.results()
        status = worst(results)
        body = {**_said(status), "checks": {name: result.shown() for name, result in results.items()}}
        return JSONResponse(body, status_code=503 if status == "unhealthy" else 200)

    def show_metrics(_request: Request) -> Response:
        """Give figures to Prometheus."""
        return Response(metrics.text(), headers={"content-type": CONTENT_TYPE})

    app = Starlette(
        routes=[Route("/ping", ping), Route("/health", health), Route("/metrics", show_metrics)],
    )
    app.router.redirect_slashes = False  # an unknown path is 404
    return app


def _said(status: str) -> dict[str, Any]:
    timestamp = format_timestamp()
    return {"status": status, "timestamp": timestamp, "service": SERVICE}
