"""TCP ports: free ones on the loopback address, and where a server on this machine answers."""

from __future__ import annotations

import errno
import ipaddress
import socket
import sys

LOOPBACK = "127.0.0.1"


def free_port(wanted: int | None = None) -> int:
    """Return `wanted` if nothing listens there, else any port that is free now."""
    for port in (wanted, 0) if wanted else (0,):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port or 0))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError("no free port on 127.0.0.1")


class PortClaims:
    """Ports that were chosen and are opened only later, by another process: `up` needs ten seconds until it does.

    What is claimed here, no other claims on this machine chooses, until `release` or the end of the process. Only on
    Linux, by names that are as local as ports are; elsewhere two that start at once may choose the same.
    """

    def __init__(self) -> None:
        self._held: list[socket.socket] = []

    def port(self, wanted: int | None = None) -> int:
        """Return `wanted` if nothing listens there and nobody has claimed it, else any other; claim it."""
        port = free_port(wanted)
        while not self._claim(port):
            port = free_port()
        return port

    def release(self) -> None:
        """Let others have them."""
        for held in self._held:
            held.close()
        self._held.clear()

    def _claim(self, port: int) -> bool:
        if sys.platform != "linux":
            return True
        held = socket.socket(socket.AF_UNIX)
        try:
            held.bind(f"\0viewer-pipeline-port-{port}")
        except OSError as error:
            held.close()
            return error.errno != errno.EADDRINUSE  # where such names are not to be had, ports are not claimed
        self._held.append(held)
        return True


def reachable(host: str) -> str:
    """Return where a server that listens on `host` answers: one that listens everywhere does so on the loopback."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if not address.is_unspecified:
        return host
    return LOOPBACK if address.version == 4 else "::1"
