"""`/health`, `/ping` and `/metrics`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from viewer_pipeline.checks import CheckResult, checks_to_dict, worst_status
from viewer_pipeline.monitoring.check_runner import CheckRunner
from viewer_pipeline.monitoring.metrics import PrometheusMetrics
from viewer_pipeline.time_formatting import format_timestamp

SERVICE = "viewer-worker"
STOPPING = CheckResult("subscriber", "unhealthy", "the worker is stopping, and folds the views in its memory")


def build_health_app(checks: CheckRunner, metrics: PrometheusMetrics, is_stopping: Callable[[], bool]) -> Starlette:
    """Return the application. It answers within a second, without secrets, versions or stack traces."""

    async def ping(_request: Request) -> Response:
        """Answer 200 while the process serves. Runs on the event loop, so it needs no free thread."""
        return JSONResponse(_body("healthy"))

    def health(_request: Request) -> Response:
        """Answer 503 where views are not received or not persisted, or where the worker is stopping."""
        results = [STOPPING] if is_stopping() else checks.run_in_parallel()
        status = worst_status(results)
        body = {**_body(status), "checks": checks_to_dict(results)}
        return JSONResponse(body, status_code=503 if status == "unhealthy" else 200)

    def show_metrics(_request: Request) -> Response:
        """Answer a scrape of Prometheus."""
        return Response(metrics.render_text(), headers={"content-type": CONTENT_TYPE_LATEST})

    app = Starlette(routes=[Route("/ping", ping), Route("/health", health), Route("/metrics", show_metrics)])
    app.router.redirect_slashes = False  # an unknown path is 404
    return app


def _body(status: str) -> dict[str, Any]:
    return {"status": status, "timestamp": format_timestamp(), "service": SERVICE}
