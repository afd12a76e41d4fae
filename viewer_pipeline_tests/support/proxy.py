"""A TCP proxy that injects faults: closed connections, lost traffic, lost replies. It parses no protocol."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

from viewer_pipeline_tests.support.certificates import Certificate

LOOPBACK = "127.0.0.1"
CHUNK = 1 << 16
SECONDS = 20  # for operations of the proxy itself


@dataclass(slots=True)
class _Faults:
    """What was injected into one connection."""

    cut: bool = False  # a request was not delivered
    silent: bool = False  # replies wait
    loses: bool = False  # the next reply is lost


class Proxy:
    """Forwards from a port of its own to a target, in a thread. Use as a context manager.

    Faults may be combined in any order; `heal` ends those of `cut`, `blackhole` and `fall_silent_at`.
    """

    def __init__(self, host: str, port: int, certificate: Certificate | None = None) -> None:
        self._target = (host, port)
        self._tls: ssl.SSLContext | None = None
        if certificate is not None:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(certificate.certificate, certificate.key)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy")
        self._server: asyncio.Server | None = None
        self._passing = asyncio.Event()
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._needle = b""
        self._losses_left = 0
        self._unwanted = b""
        self._cuts_left = 0
        self._silencer = b""
        self._silences_left = 0
        self._delivers = True
        self._speaking = asyncio.Event()  # set: silent connections resume
        self.port = 0
        self.lost_replies = 0  # that the client did not receive
        self.cut_requests = 0  # that the target did not receive
        self.silenced = 0  # connections

    @classmethod
    def of(cls, url: str, default_port: int, certificate: Certificate | None = None) -> Proxy:
        """Return a proxy of the server of a URL; with a certificate, clients connect to it by TLS."""
        parts = urlsplit(url)
        return cls(parts.hostname or LOOPBACK, parts.port or default_port, certificate)

    def url(self, url: str) -> str:
        """Return the URL with the address of the proxy."""
        parts = urlsplit(url)
        login, at, _ = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{login}{at}{LOOPBACK}:{self.port}"))

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._listen())
        self._loop.call_soon_threadsafe(self._passing.set)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(SECONDS)
        self._loop.close()

    def cut(self) -> None:
        """Close all connections and refuse new ones."""
        self._do(self._cut())

    def blackhole(self) -> None:
        """Keep connections and accept new ones, but deliver nothing, in either direction, until `heal`.

        Data sent meanwhile is delivered then, even if the sender has timed out, as on a real network.
        """
        self._do(self._pass(self._passing.clear))

    def heal(self) -> None:
        """Accept and forward again, on the same port."""
        self._silences_left = 0
        self._do(self._pass(self._speaking.set))
        self._do(self._pass(self._passing.set))
        self._do(self._listen())

    def retarget(self, url: str) -> None:
        """Forward new connections to another server; existing ones stay with the old one.

        So does a load balancer, or a DNS name, in front of a pair that fails over.
        """
        parts = urlsplit(url)
        self._target = (parts.hostname or LOOPBACK, parts.port or self._target[1])

    def lose_reply_to(self, needle: bytes, times: int = 1) -> None:
        """Deliver the next requests that contain `needle`, and close the connection when the reply arrives.

        The bytes are searched in what a client sends at a time, so they should be few.
        """
        self._needle, self._losses_left = needle, times

    def cut_at(self, needle: bytes, times: int = 1) -> None:
        """Close the connection of the next requests that contain `needle`, and deliver nothing of them."""
        self._unwanted, self._cuts_left = needle, times

    def fall_silent_at(self, needle: bytes, *, deliver: bool, times: int = 1) -> None:
        """Keep the connection of the next requests that contain `needle`, but deliver nothing on it until `heal`.

        `deliver`: deliver the request itself, but not its reply. Other connections are not affected.
        """
        self._silencer, self._delivers, self._silences_left = needle, deliver, times
        self._loop.call_soon_threadsafe(self._speaking.clear)

    # --- in the loop's thread ---

    def _do(self, operation: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(operation, self._loop).result(SECONDS)

    @staticmethod
    async def _pass(change: Callable[[], None]) -> None:
        change()

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, LOOPBACK, self.port, ssl=self._tls)
            self.port = self._server.sockets[0].getsockname()[1]

    async def _cut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        while cut := dict(self._connections):
            for connection in cut:
                connection.cancel()
            await asyncio.wait(cut)
            for to_client in cut.values():  # a task that was cancelled before it began has closed nothing
                to_client.transport.abort()

    async def _end(self) -> None:
        await self._cut()
        while others := asyncio.all_tasks() - {asyncio.current_task()}:  # connections that are just being accepted
            await asyncio.wait(others)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._server is None:
            writer.transport.abort()
            return
        connection = asyncio.ensure_future(self._serve(reader, writer))
        self._connections[connection] = writer
        connection.add_done_callback(self._connections.pop)

    async def _serve(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        to_target: asyncio.StreamWriter | None = None
        pumps: list[asyncio.Task[None]] = []
        faults, abort = _Faults(), False
        try:
            await self._passing.wait()
            from_target, to_target = await asyncio.open_connection(*self._target)
            pumps = [
                asyncio.ensure_future(self._requests(from_client, to_target, faults)),
                asyncio.ensure_future(self._replies(from_target, to_client, faults)),
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        except OSError:
            pass
        except asyncio.CancelledError:  # cut
            abort = True
        finally:
            for pump in pumps:
                pump.cancel()
            for writer in (to_client, to_target):  # before anything is awaited: it may be cancelled while it ends
                if writer is not None and (abort or faults.cut or faults.loses):
                    writer.transport.abort()
                elif writer is not None:
                    writer.close()  # delivers what was read before one side closed
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, faults: _Faults) -> None:
        while data := await reader.read(CHUNK):
            await self._passing.wait()
            if self._cuts_left and self._unwanted in data:
                self._cuts_left -= 1
                self.cut_requests += 1
                faults.cut = True
                return
            if self._silences_left and self._silencer in data:
                self._silences_left -= 1
                self.silenced += 1
                faults.silent = True
                if not self._delivers:
                    await self._speaking.wait()
            if self._losses_left and self._needle in data:
                self._losses_left -= 1
                faults.loses = True
            writer.write(data)
            await writer.drain()
        await self._passing.wait()

    async def _replies(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, faults: _Faults) -> None:
        while data := await reader.read(CHUNK):
            await self._passing.wait()
            if faults.silent:
                await self._speaking.wait()
            if faults.cut:  # a reply to an earlier request: neither delivered nor lost by a fault
                return
            if faults.loses:
                self.lost_replies += 1
                return
            writer.write(data)
            await writer.drain()
