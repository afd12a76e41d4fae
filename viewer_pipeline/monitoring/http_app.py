"""`/`, `/health`, `/ping` and `/metrics`."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from typing import Any

import orjson
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from viewer_pipeline.checks import CheckResult, checks_to_dict, worst_status
from viewer_pipeline.monitoring.metrics import PrometheusMetrics
from viewer_pipeline.monitoring.shared_call import SharedCall
from viewer_pipeline.monitoring.status_page.page import StatusPage
from viewer_pipeline.time_formatting import format_timestamp

SERVICE = "viewer-worker"
PAGE_FILES = {"status.css": "text/css", "status.js": "text/javascript"}
PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
    " img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


def build_health_app(
    run_checks: Callable[[], list[CheckResult]], metrics: PrometheusMetrics, page: StatusPage
) -> Starlette:
    """Return the application. It answers within a second, without secrets, versions or stack traces.

    Each path needs one thread, however many clients wait for it.
    """
    checks, samples, html = SharedCall(run_checks), SharedCall(metrics.render_text), SharedCall(page.html)

    async def ping(request: Request) -> Response:
        """Answer 200 while the process serves. Runs on the event loop, so it needs no free thread."""
        return _json(request, _body("healthy"), 200)

    async def health(request: Request) -> Response:
        """Answer 503 where views are not received or not persisted, or where the worker is stopping."""
        results = await checks.result()
        status = worst_status(results)
        body = {**_body(status), "checks": checks_to_dict(results)}
        return _json(request, body, 503 if status == "unhealthy" else 200)

    async def show_metrics(_request: Request) -> Response:
        """Answer a scrape of Prometheus."""
        return Response(await samples.result(), headers={"content-type": CONTENT_TYPE_LATEST})

    async def show_page(_request: Request) -> Response:
        """Answer 200 whatever the status is: the page tells it."""
        return HTMLResponse(await html.result(), headers=PAGE_HEADERS)

    endpoints = {"/ping": ping, "/health": health, "/metrics": show_metrics}
    known_paths = ", ".join(["/", *sorted(endpoints)])

    async def not_found(_request: Request, _error: Exception) -> Response:
        """Answer 404 with the paths that exist."""
        return PlainTextResponse(f"Not Found. There are {known_paths}\n", 404)

    routes = [Route("/", show_page)]
    for path, endpoint in endpoints.items():
        routes += [Route(path, endpoint), Route(f"{path}/", endpoint)]
    routes += [_file_route(name, kind) for name, kind in PAGE_FILES.items()]
    app = Starlette(routes=routes, exception_handlers={404: not_found})
    app.router.redirect_slashes = False  # an unknown path is 404
    return app


def _file_route(name: str, media_type: str) -> Route:
    content = resources.files("viewer_pipeline.monitoring.status_page").joinpath(name).read_bytes()

    async def show_file(_request: Request) -> Response:
        return Response(content, media_type=media_type, headers=PAGE_HEADERS)

    return Route(f"/{name}", show_file)


def _json(request: Request, body: dict[str, Any], status_code: int) -> Response:
    """Return one line of JSON to programs, several to browsers."""
    indent = orjson.OPT_INDENT_2 if "text/html" in request.headers.get("accept", "") else 0
    text = orjson.dumps(body, option=indent | orjson.OPT_APPEND_NEWLINE)
    return Response(text, status_code, media_type="application/json")


def _body(status: str) -> dict[str, Any]:
    return {"status": status, "timestamp": format_timestamp(), "service": SERVICE}
