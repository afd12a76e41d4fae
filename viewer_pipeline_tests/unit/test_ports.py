"""Reservation of ports that another process opens later."""

from __future__ import annotations

import socket
import sys

import pytest

from viewer_pipeline.stack.ports import LOOPBACK, PortReservations, find_free_port


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
