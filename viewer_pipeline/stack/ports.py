"""TCP ports: free ones on the loopback address, and the address at which a local server can be reached."""

from __future__ import annotations

import errno
import ipaddress
import socket
import sys

LOOPBACK = "127.0.0.1"


def find_free_port(preferred: int | None = None) -> int:
    """Return `preferred` if nothing listens there, else any port that is free now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, preferred or 0))
        except OSError:
            if not preferred:
                raise
            return find_free_port()
        return int(probe.getsockname()[1])


class PortReservations:
    """Reserves ports that another process opens later: `up` takes ten seconds until then.

    No other `PortReservations` on this machine chooses a reserved port, until `release` or the end of the process.
    Linux only, by abstract sockets, which have the same scope as ports; elsewhere two stacks that start at the same
    time may choose the same port.
    """

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []

    def reserve(self, preferred: int | None = None) -> int:
        """Reserve and return `preferred` if nothing listens there and it is not reserved, else any other port."""
        port = find_free_port(preferred)
        while not self._try_to_reserve(port):
            port = find_free_port()
        return port

    def release(self) -> None:
        """Release all reserved ports."""
        for claim in self._sockets:
            claim.close()
        self._sockets.clear()

    def _try_to_reserve(self, port: int) -> bool:
        if sys.platform != "linux":
            return True
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0viewer-pipeline-port-{port}")
        except OSError as error:
            claim.close()
            return error.errno != errno.EADDRINUSE  # without abstract sockets, ports are not reserved
        self._sockets.append(claim)
        return True


def loopback_if_any_address(listen_host: str) -> str:
    """Return the address of a server that listens on `listen_host`: loopback if that is every address."""
    try:
        address = ipaddress.ip_address(listen_host)
    except ValueError:
        return listen_host
    if not address.is_unspecified:
        return listen_host
    return LOOPBACK if address.version == 4 else "::1"
