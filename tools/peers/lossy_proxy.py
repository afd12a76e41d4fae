"""A TCP proxy that loses replies: it closes the connection instead of forwarding what a server has sent."""

from __future__ import annotations

import asyncio
import random
from typing import Self
from urllib.parse import urlsplit, urlunsplit

from viewer_pipeline.bench.failover_forwarder import FailoverForwarder, copy_bytes


class LossyProxy(FailoverForwarder):
    """Forwards from a port of its own to a server, on a thread. Loses the share `loss` of what the server sends."""

    def __init__(self, target_port: int, seed: int = 1) -> None:
        super().__init__(target_port)
        self.loss = 0.0
        self.lost = 0
        self._random = random.Random(seed)

    def replace_port(self, url: str) -> str:
        """Return the URL with the port of the proxy."""
        parts = urlsplit(url)
        return urlunsplit(parts._replace(netloc=f"{parts.netloc.rpartition(':')[0]}:{self.port}"))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def copy_replies(self, from_server: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        """Forward what the server sends until some of it is lost."""
        await copy_bytes(from_server, to_client, self._is_lost)

    def _is_lost(self) -> bool:
        lost = self._random.random() < self.loss
        self.lost += lost
        return lost
