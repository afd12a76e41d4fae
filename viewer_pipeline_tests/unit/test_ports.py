"""Ports that are chosen now and opened later."""

from __future__ import annotations

import socket
import sys

import pytest

from viewer_pipeline.stack.ports import LOOPBACK, PortClaims, free_port


@pytest.mark.skipif(sys.platform != "linux", reason="ports are claimed on Linux only")
def test_two_that_start_at_once_choose_different_ports() -> None:
    """Although nobody listens yet; what was released is free again."""
    one, other = PortClaims(), PortClaims()
    usual = one.port()
    assert other.port(usual) != usual
    one.release()
    other.release()
    assert other.port(usual) == usual
    other.release()


def test_a_port_that_is_listened_on_is_not_chosen() -> None:
    """By whatever program."""
    with socket.create_server((LOOPBACK, 0)) as server:
        taken, claims = server.getsockname()[1], PortClaims()
        assert claims.port(taken) != taken
        claims.release()


def test_a_claimed_port_can_be_opened() -> None:
    """The claim is no listener."""
    claims = PortClaims()
    with socket.create_server((LOOPBACK, claims.port(free_port()))):
        claims.release()
