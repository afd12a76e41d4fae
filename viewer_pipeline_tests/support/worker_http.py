"""Requests to the HTTP server of a worker that is another process."""

from __future__ import annotations

import urllib.error
import urllib.request

from viewer_pipeline.stack.ports import LOOPBACK
from viewer_pipeline_tests.support.waiting import ENOUGH


def get(port: int, path: str) -> tuple[int, str]:
    """Return status code and body, also if something is unhealthy. Raises URLError if there is no server."""
    try:
        with urllib.request.urlopen(f"http://{LOOPBACK}:{port}{path}", timeout=ENOUGH) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
