"""Reservation of ports that another process opens later."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from viewer_pipeline.errors import SettingsError
from viewer_pipeline.port_listeners import describe_listener
from viewer_pipeline.settings import Settings
from viewer_pipeline.stack.kept_ports import PORTS_FILE, KeptPorts, Service
from viewer_pipeline.stack.port_choice import UI, reserve_ui_port
from viewer_pipeline.stack.ports import (
    LOOPBACK,
    PortReservations,
    find_free_port,
    format_http_url,
    is_port_taken,
)


@pytest.mark.skipif(sys.platform != "linux", reason="ports are claimed on Linux only")
def test_concurrent_claims_choose_different_ports() -> None:
    """A reserved port is not chosen although nothing listens yet; a released port is free again."""
    first, other = PortReservations(), PortReservations()
    usual = first.reserve()
    assert other.reserve(usual) != usual
    first.release()
    other.release()
    assert other.reserve(usual) == usual
    other.release()


def test_claims_avoid_a_port_in_use() -> None:
    """Whatever program listens on it."""
    with socket.create_server((LOOPBACK, 0)) as server:
        used, claims = server.getsockname()[1], PortReservations()
        assert claims.reserve(used) != used
        claims.release()


def test_claimed_port_can_be_opened() -> None:
    """A reservation does not listen on the port."""
    claims = PortReservations()
    with socket.create_server((LOOPBACK, claims.reserve(find_free_port()))):
        claims.release()


def test_ports_are_kept_until_they_are_taken(tmp_path: Path) -> None:
    """The next start gets the same; one that is taken is replaced by the next above it, with a warning."""
    service = Service("ui", "the UI", find_free_port(), "stop it")
    port = _reserve_once(tmp_path, service)[0]
    assert port == service.usual_port
    with socket.create_server((LOOPBACK, port)):
        another, (warning,) = _reserve_once(tmp_path, service)
    assert another > port
    assert warning.startswith(f"port {port} is in use by ")
    assert warning.endswith(f": the UI has port {another}, also at the next start; stop it")
    assert _reserve_once(tmp_path, service) == (another, [])


def _reserve_once(home: Path, service: Service) -> tuple[int, list[str]]:
    """Reserve the port of a service in one start; return it, and the warnings."""
    ports = KeptPorts(home)
    port = ports.reserve(service, LOOPBACK)
    ports.release()
    return port, ports.warnings


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"ui": "3000"}', b'{"ui": 70000}', b'{"ui": true}', b'{"ui": true', b"\0", b"\xff"]
)
def test_a_spoilt_file_of_ports_is_replaced(tmp_path: Path, content: bytes) -> None:
    """It is a convenience: a start does not fail because of it."""
    (tmp_path / PORTS_FILE).write_bytes(content)
    service = Service("ui", "the UI", find_free_port(), "")
    assert _reserve_once(tmp_path, service) == (service.usual_port, [])
    assert json.loads((tmp_path / PORTS_FILE).read_text()) == {"ui": service.usual_port}


def test_ports_that_cannot_be_kept_are_used(tmp_path: Path) -> None:
    """A file that can neither be read nor written."""
    (tmp_path / PORTS_FILE).mkdir()
    service = Service("ui", "the UI", find_free_port(), "")
    assert _reserve_once(tmp_path, service) == (service.usual_port, [])


@pytest.fixture
def ports(tmp_path: Path) -> Iterator[KeptPorts]:
    """Ports of a start, with the file in `tmp_path`."""
    ports = KeptPorts(tmp_path)
    yield ports
    ports.release()


def test_a_port_that_was_chosen_is_kept(ports: KeptPorts, tmp_path: Path) -> None:
    """The next start has that of `--ui-port`, and the URL of the UI follows it; a DAGSTER_UI_URL that is set stays."""
    port = find_free_port()
    settings, used = reserve_ui_port(Settings(_env_file=None), ports, "0.0.0.0", port)
    assert (used, settings.dagster_ui_url) == (port, f"http://{LOOPBACK}:{port}")
    assert json.loads((tmp_path / PORTS_FILE).read_text()) == {UI.key: port}
    assert KeptPorts(tmp_path).find_wanted(UI) == port
    assert ports.warnings == []
    own_url = Settings(_env_file=None, dagster_ui_url="https://dagster.example.com")
    assert reserve_ui_port(own_url, ports, LOOPBACK, find_free_port())[0] == own_url


def test_the_command_that_chooses_a_port_is_for_this_home(ports: KeptPorts, tmp_path: Path) -> None:
    """As it can be typed in any terminal; without the variable where it has its default."""
    with socket.create_server((LOOPBACK, 0)) as server:
        ports.keep(UI, server.getsockname()[1], server.getsockname()[1])
        reserve_ui_port(Settings(_env_file=None), ports, LOOPBACK, None)
        reserve_ui_port(Settings(_env_file=None, viewer_home=tmp_path / "a b"), ports, LOOPBACK, None)
    assert [warning.rpartition("to choose: `")[2].partition("viewer-pipeline")[0] for warning in ports.warnings] == [
        "",
        f"VIEWER_HOME='{tmp_path}/a b' ",
    ]


def test_a_port_is_taken_on_one_address_only(ports: KeptPorts) -> None:
    """A server on another address does not take it; one on every address does, and is named."""
    with socket.create_server(("127.0.0.2", 0)) as server:
        port = server.getsockname()[1]
        assert not is_port_taken(port, LOOPBACK)
        assert is_port_taken(port, "0.0.0.0")
        if sys.platform == "linux":
            assert describe_listener(port).endswith(f" (process {os.getpid()})")
        with pytest.raises(SettingsError, match=f"--ui-port={port}: .* listens on this port"):
            reserve_ui_port(Settings(_env_file=None), ports, "0.0.0.0", port)
    assert describe_listener(port) == "another process"
    assert not is_port_taken(port, "no such host")


def test_urls_of_local_servers() -> None:
    """An address that means all becomes one that can be opened; IPv6 has brackets."""
    hosts = "127.0.0.1", "0.0.0.0", "::", "example.com"
    assert [format_http_url(host, 80) for host in hosts] == [
        "http://127.0.0.1:80",
        "http://127.0.0.1:80",
        "http://[::1]:80",
        "http://example.com:80",
    ]
