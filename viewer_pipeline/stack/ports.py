"""TCP ports: free ones on the loopback address, and the address at which a local server can be reached."""

from __future__ import annotations

import errno
import ipaddress
import socket
import sys

LOOPBACK = "127.0.0.1"


def free_port(wanted: int | None = None) -> int:
    """Return `wanted` if nothing listens there, else any port that is free now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, wanted or 0))
        except OSError:
            if not wanted:
                raise
            return free_port()
        return int(probe.getsockname()[1])


class PortClaims:
    """Reserves ports that another process opens later: `up` takes ten seconds until then.

    Another `PortClaims` on this machine does not choose a reserved port, until `release` or the end of the process.
    Linux only, by abstract sockets, which have the same scope as ports; elsewhere two stacks that start at the same
    time may choose the same port.
    """

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []

    def port(self, wanted: int | None = None) -> int:
        """Reserve and return `wanted` if nothing listens there and it is not reserved, else any other port."""
        port = free_port(wanted)
        while not self._claim(port):
            port = free_port()
        return port

    def release(self) -> None:
        """Release all reserved ports."""
        for claim in self._sockets:
            claim.close()
        self._sockets.clear()

    def _claim(self, port: int) -> bool:
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


def connect_host(host: str) -> str:
    """Return the address to connect to, for a server that listens on `host`: loopback if that is every address."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if not address.is_unspecified:
        return host
    return LOOPBACK if address.version == 4 else "::1"
