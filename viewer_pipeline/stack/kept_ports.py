"""The ports of `up`, kept in VIEWER_HOME so that the next start has the same; none is replaced silently."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from viewer_pipeline.errors import SettingsError
from viewer_pipeline.files import write_atomically_if_changed
from viewer_pipeline.port_listeners import describe_listener
from viewer_pipeline.stack.ports import LOOPBACK, PortReservations, is_port_taken

PORTS_FILE = "ports.json"  # in VIEWER_HOME: service -> port
END_SECONDS = 3.0  # until the processes of an `up` that was killed have closed their ports


@dataclass(frozen=True)
class Service:
    """A server of `up`: its key in the file, its name in messages, and how to choose its port or do without it."""

    key: str
    name: str
    usual_port: int
    remedy: str


class KeptPorts:
    """Chooses the port of each service, and keeps it. `warnings` has a sentence for each that is not the wanted one."""

    def __init__(self, home: Path) -> None:
        self._file = home / PORTS_FILE
        self._ports = _read_ports(self._file)
        self._reservations = PortReservations()
        self.warnings: list[str] = []

    def find_wanted(self, service: Service, host: str = LOOPBACK) -> int:
        """Return the port of the latest start, as soon as its processes have closed it; else the usual port."""
        if (kept := self._ports.get(service.key)) is None:
            return service.usual_port
        _wait_until_closed(kept, host)
        return kept

    def reserve(self, service: Service, host: str) -> int:
        """Reserve the wanted port, or another if it is taken, until `release`; keep and return it."""
        wanted = self.find_wanted(service, host)
        return self.keep(service, wanted, self._reservations.reserve(wanted, host))

    def reserve_exactly(self, setting: str, port: int, host: str) -> int:
        """Reserve this port, and keep nothing. Raises SettingsError, which names the setting, if it is taken."""
        require_free_port(setting, port, host)
        if self._reservations.reserve(port, host) != port:
            raise _build_refusal(setting, port)
        return port

    def keep(self, service: Service, wanted: int, used: int) -> int:
        """Keep the port that a service uses, with a warning if it is not the wanted one; return it."""
        if used != wanted:
            self.warnings.append(
                f"port {wanted} is in use by {describe_listener(wanted)}: {service.name} has port {used},"
                f" also at the next start; {service.remedy}"
            )
        self._ports[service.key] = used
        with suppress(OSError):  # a convenience: no start fails because of it
            write_atomically_if_changed(self._file, json.dumps(self._ports))
        return used

    def reserve_any(self) -> int:
        """Reserve any port, so that the usual ones stay free, and keep nothing."""
        return self._reservations.reserve()

    def release(self) -> None:
        """End the reservations."""
        self._reservations.release()


def require_free_port(setting: str, port: int, host: str) -> None:
    """Check that nothing listens on this port. Raises SettingsError, which names the setting."""
    _wait_until_closed(port, host)
    if is_port_taken(port, host):
        raise _build_refusal(setting, port)


def _build_refusal(setting: str, port: int) -> SettingsError:
    return SettingsError(
        f"{setting}={port}: {describe_listener(port)} listens on this port",
        f"stop it, or choose another port with {setting}",
    )


def _read_ports(file: Path) -> dict[str, int]:
    """Return what the file holds; nothing if there is none or somebody has spoilt it."""
    with suppress(OSError, ValueError, AttributeError):
        stored = json.loads(file.read_text(encoding="utf-8")).items()
        return {key: port for key, port in stored if type(port) is int and 0 < port < 65536}
    return {}


def _wait_until_closed(port: int, host: str) -> None:
    deadline = time.monotonic() + END_SECONDS
    while is_port_taken(port, host) and time.monotonic() < deadline:
        time.sleep(0.1)
