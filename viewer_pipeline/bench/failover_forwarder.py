"""One address in front of changing servers, like a load balancer or a DNS name."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress

from viewer_pipeline.stack.ports import LOOPBACK

CHUNK = 1 << 16
END_SECONDS = 5.0


class FailoverForwarder:
    """Forwards each new connection to the current target. Existing connections stay with their target."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port  # port on this machine
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="forwarder", daemon=True)
        self._server: asyncio.Server | None = None

    def start(self) -> None:
        """Listen on a free port."""
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(END_SECONDS)

    def stop(self) -> None:
        """Close all connections and stop listening."""
        asyncio.run_coroutine_threadsafe(self._close_listener_and_connections(), self._loop).result(END_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(END_SECONDS)
        self._loop.close()

    async def copy_replies(self, from_server: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        """Forward what the server sends on one connection, which is closed when this ends."""
        await copy_bytes(from_server, to_client)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._forward_connection, LOOPBACK, 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close_listener_and_connections(self) -> None:
        if self._server is not None:
            self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _forward_connection(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        try:
            from_server, to_server = await asyncio.open_connection(LOOPBACK, self.target_port)
        except OSError:
            to_client.close()
            return
        pumps = [
            asyncio.ensure_future(copy_bytes(from_client, to_server)),
            asyncio.ensure_future(self.copy_replies(from_server, to_client)),
        ]
        try:
            with suppress(asyncio.CancelledError):  # by `stop`
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            for writer in (to_client, to_server):
                writer.close()


async def copy_bytes(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_lost: Callable[[], bool] = lambda: False
) -> None:
    """Forward until either side closes, or `is_lost` returns True after a read: then that is not forwarded."""
    with suppress(OSError):
        while (data := await reader.read(CHUNK)) and not is_lost():
            writer.write(data)
            await writer.drain()
