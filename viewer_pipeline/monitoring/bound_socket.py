"""A socket bound to an address that a setting or option names; an error names what to change."""

from __future__ import annotations

import errno
import socket

from viewer_pipeline.errors import SettingsError
from viewer_pipeline.port_listeners import describe_listener

BACKLOG = 128
HOST_SETTING, PORT_SETTING = "HEALTH_CHECK_HOST", "HEALTH_CHECK_PORT"


def bind_socket(
    host: str, port: int, host_setting: str = HOST_SETTING, port_setting: str = PORT_SETTING
) -> socket.socket:
    """Bind and listen. Raises SettingsError, which names the setting of the host or of the port."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError as error:
        raise SettingsError(f"{host_setting}={host!r}: {error.strerror}") from None
    both_families = family == socket.AF_INET6 and socket.has_dualstack_ipv6()
    try:
        return socket.create_server(address, family=family, backlog=BACKLOG, dualstack_ipv6=both_families)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            message = f"{port_setting}={port}: {describe_listener(port)} listens on this port of {host}"
            remedy = f"stop it, or choose another port with {port_setting}"
        elif error.errno == errno.EADDRNOTAVAIL:
            message = f"{host_setting}={host!r}: this machine has no such address"
            remedy = "set an address of this machine, or 0.0.0.0 for all of them"
        else:
            message = f"{port_setting}={port}: {error.strerror}"
            remedy = f"choose a port above 1023 with {port_setting}" if error.errno == errno.EACCES else ""
        raise SettingsError(message, remedy) from None
