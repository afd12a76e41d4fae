"""TCP ports: free ones, the process that has one, and the address at which a local server can be reached."""

from __future__ import annotations

import errno
import ipaddress
import socket
import sys

LOOPBACK = "127.0.0.1"


def is_port_taken(port: int, host: str = LOOPBACK) -> bool:
    """Whether a server cannot open this port of this address because another process listens there."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:  # another error, such as an address of another machine, is reported by the server itself
        return error.errno == errno.EADDRINUSE
    return False


def find_free_port(preferred: int | None = None) -> int:
    """Return `preferred` if nothing listens there, else any port that is free now."""
    if preferred and not is_port_taken(preferred):
        return preferred
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def find_free_port_from(first: int, host: str = LOOPBACK) -> int:
    """Return the lowest port from `first` on at which nothing listens; any that is free if there is none."""
    return next((port for port in range(first, 65536) if not is_port_taken(port, host)), None) or find_free_port()


class PortReservations:
    """Reserves ports that another process opens later: `up` takes ten seconds until then.

    No other `PortReservations` on this machine chooses a reserved port, until `release` or the end of the process.
    Linux only, by abstract sockets, which have the same scope as ports; elsewhere two stacks that start at the same
    time may choose the same port.
    """

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []

    def reserve(self, preferred: int | None = None, host: str = LOOPBACK) -> int:
        """Reserve and return `preferred` if nothing listens there and it is not reserved, else the next that is free.

        Without `preferred`, any other.
        """
        port = find_free_port_from(preferred, host) if preferred else find_free_port()
        while not self._try_to_reserve(port):
            port = find_free_port_from(port + 1, host) if preferred else find_free_port()
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


def format_http_url(listen_host: str, port: int) -> str:
    """Return the URL of a server that listens on `listen_host`, for programs on this machine."""
    host = loopback_if_any_address(listen_host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
