"""The worker's HTTP server without the worker, and a client of it."""

from __future__ import annotations

import json
import re
import time
from http.client import HTTPConnection
from typing import Any, NamedTuple

from psycopg.conninfo import conninfo_to_dict

from viewer_pipeline.ingest.subscriber_stats import SubscriberStats
from viewer_pipeline.monitoring.http_server import HealthServer, start_health_server
from viewer_pipeline.settings import Settings
from viewer_pipeline.stack.ports import LOOPBACK
from viewer_pipeline_tests.support.waiting import ENOUGH

SECRET = "s3cret:with@signs"
LATE = re.compile("no answer for|timeout", re.IGNORECASE)


class Response(NamedTuple):
    """A response."""

    status: int
    headers: dict[str, str]
    body: str

    def json(self) -> Any:
        """Return its object."""
        return json.loads(self.body)


class HttpWorld:
    """Serves the stats of a subscriber that is subscribed."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings.copy_unvalidated(health_check_port=0)  # any free port
        self.stats = SubscriberStats(state="listening")
        self.stopping = False
        self.hangs = False  # whether the test makes a server hang; else a check that is late is requested again
        self._server: HealthServer | None = None

    def start(self, **changes: Any) -> None:
        """Start with these settings changed."""
        self.settings = self.settings.copy_unvalidated(**changes)
        self._server = start_health_server(self.settings, self.stats, lambda: self.stopping)

    def stop(self) -> None:
        """Stop, if it was started."""
        if self._server is not None:
            self._server.stop()

    @property
    def port(self) -> int:
        """The port of the server."""
        assert self._server is not None
        return self._server.port

    def request(self, path: str, method: str = "GET", accept: str = "*/*") -> Response:
        """Send one request. The response comes while a server hangs, without secrets and stack traces."""
        connection = HTTPConnection(LOOPBACK, self.port, timeout=ENOUGH)
        try:
            connection.request(method, path, headers={"Accept": accept})
            response = connection.getresponse()
            body = response.read().decode()
        finally:
            connection.close()
        headers = {name.lower(): value for name, value in response.getheaders()}
        self._assert_nothing_secret(body + str(headers))
        return Response(response.status, headers, body)

    def health(self) -> tuple[int, str, dict[str, Any]]:
        """Return status code, status, and checks; on a busy machine, as soon as none of them is late."""
        deadline = time.monotonic() + ENOUGH
        while True:
            response = self.request("/health")
            health = response.json()
            late = any(LATE.search(check["message"]) for check in health["checks"].values())
            if self.hangs or not late or time.monotonic() > deadline:
                return response.status, health["status"], health["checks"]

    def check(self, name: str) -> tuple[int, str, str]:
        """Return status code of the whole, status and message of one check."""
        code, _, checks = self.health()
        return code, checks[name]["status"], checks[name]["message"]

    def _assert_nothing_secret(self, text: str) -> None:
        password = str(conninfo_to_dict(self.settings.require_database_url()).get("password"))
        for secret in (password, SECRET, "Traceback", 'File "', "uvicorn", "starlette"):
            assert secret not in text
