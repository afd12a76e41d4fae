"""A web server that accepts or refuses alerts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any


class Hook(ThreadingHTTPServer):
    """Responds with these statuses in order, and then with the last one; records the posted messages."""

    daemon_threads = True

    def __init__(self, statuses: Sequence[int], *, endless: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.endless, self.ends = endless, Event()
        self.statuses = list(statuses)
        self.posted: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        """Its address, which contains a secret."""
        return f"http://127.0.0.1:{self.server_port}/hooks/T0K3N"


class _Handler(BaseHTTPRequestHandler):
    server: Hook

    def do_POST(self) -> None:
        """Record a message."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.posted.append(json.loads(body) | {"path": self.path, "type": self.headers["Content-Type"]})
        statuses = self.server.statuses
        self.send_response(statuses.pop(0) if len(statuses) > 1 else statuses[0])
        self.send_header("Content-Length", "1000000" if self.server.endless else "0")
        self.send_header("Location", "/elsewhere")
        self.end_headers()
        with suppress(OSError):
            while self.server.endless and not self.server.ends.wait(0.1):
                self.wfile.write(b"x")

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


@contextmanager
def listening(*statuses: int, endless: bool = False) -> Iterator[Hook]:
    """Serve until the end; `endless`: with bodies that come byte by byte until then."""
    with Hook(statuses or (200,), endless=endless) as hook:
        thread = Thread(target=hook.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hook
        finally:
            hook.ends.set()
            hook.shutdown()
            thread.join()
