"""Reservation of ports that another process opens later."""

from __future__ import annotations

import socket
import sys

import pytest

from viewer_pipeline.stack.ports import LOOPBACK, PortClaims, free_port


@pytest.mark.skipif(sys.platform != "linux", reason="ports are claimed on Linux only")
def test_concurrent_claims_choose_different_ports() -> None:
    """A reserved port is not chosen although nothing listens yet; a released port is free again."""
    first, other = PortClaims(), PortClaims()
    usual = first.port()
    assert other.port(usual) != usual
    first.release()
    other.release()
    assert other.port(usual) == usual
    other.release()


def test_claims_avoid_a_port_in_use() -> None:
    """Whatever program listens on it."""
    with socket.create_server((LOOPBACK, 0)) as server:
        used, claims = server.getsockname()[1], PortClaims()
        assert claims.port(used) != used
        claims.release()


def test_claimed_port_can_be_opened() -> None:
    """A reservation does not listen on the port."""
    claims = PortClaims()
    with socket.create_server((LOOPBACK, claims.port(free_port()))):
        claims.release()
