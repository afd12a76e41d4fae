"""A collector of OpenTelemetry: a web server that takes traces as OTLP over HTTP, or does not respond."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Collector(ThreadingHTTPServer):
    """Records the spans it gets. `silent`: it responds only at its end. `status`: it responds with that, of HTTP."""

    daemon_threads = True

    def __init__(self, *, silent: bool = False, status: int = 200) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status = status
        self.spans, self.services, self.paths = list[Span](), set[str](), set[str]()
        self.requested, self.may_respond = Event(), Event()
        if not silent:
            self.may_respond.set()

    @property
    def url(self) -> str:
        """Its address, without a path."""
        return f"http://127.0.0.1:{self.server_port}"

    def trace(self, run_id: str) -> dict[str, Span]:
        """Return the spans of a run by name."""
        return {span.name: span for span in self.spans if span.trace_id.hex() == run_id.replace("-", "")}


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        """Record the spans of a request."""
        request = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requested.set()
        self.server.may_respond.wait()
        for of_resource in request.resource_spans:
            self.server.services.add(attributes(of_resource.resource.attributes)["service.name"])
            self.server.spans += [span for scope in of_resource.scope_spans for span in scope.spans]
        self.server.paths.add(self.path)
        self.send_response(self.server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


def attributes(pairs: Any) -> dict[str, Any]:
    """Return the attributes of a span or resource."""
    return {pair.key: _value(pair) for pair in pairs}


def _value(pair: KeyValue) -> Any:
    return getattr(pair.value, pair.value.WhichOneof("value") or "string_value")


@contextmanager
def collecting(*, silent: bool = False, status: int = 200) -> Iterator[Collector]:
    """Serve until the end."""
    with Collector(silent=silent, status=status) as collector:
        thread = Thread(target=collector.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield collector
        finally:
            collector.may_respond.set()
            collector.shutdown()
            thread.join()
