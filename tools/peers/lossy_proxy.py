"""A TCP proxy that loses replies: it closes the connection instead of forwarding what a server has sent."""

from __future__ import annotations

import asyncio
import random
import threading
from typing import Self
from urllib.parse import urlsplit, urlunsplit

from viewer_pipeline.stack.ports import LOOPBACK

CHUNK = 1 << 16
SECONDS = 20  # for a start or a stop of the proxy


class LossyProxy:
    """Forwards from a port of its own to a server, on a thread. Loses the share `loss` of what the server sends."""

    def __init__(self, target_port: int, seed: int = 1) -> None:
        self.loss = 0.0
        self.lost = 0
        self.port = 0
        self._target_port = target_port
        self._server: asyncio.Server | None = None
        self._random = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="lossy proxy")

    def replace_port(self, url: str) -> str:
        """Return the URL with the port of the proxy."""
        parts = urlsplit(url)
        return urlunsplit(parts._replace(netloc=f"{parts.netloc.rpartition(':')[0]}:{self.port}"))

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(SECONDS)
        self._loop.close()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, LOOPBACK)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _end(self) -> None:
        if self._server is not None:
            self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        to_server = None
        try:
            from_server, to_server = await asyncio.open_connection(LOOPBACK, self._target_port)
            pumps = [
                asyncio.ensure_future(self._pump(from_client, to_server, replies=False)),
                asyncio.ensure_future(self._pump(from_server, to_client, replies=True)),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for writer in (to_client, to_server):
                if writer is not None:
                    writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, replies: bool) -> None:
        while data := await reader.read(CHUNK):
            if replies and self._random.random() < self.loss:
                self.lost += 1
                return
            writer.write(data)
            await writer.drain()
