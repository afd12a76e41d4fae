"""The proxy counts the faults it injects, also when its thread hardly runs."""

from __future__ import annotations

import socket
import threading

from viewer_pipeline_tests.support.proxy import Proxy
from viewer_pipeline_tests.support.waiting import ENOUGH


def test_a_cut_request_is_not_a_lost_reply() -> None:
    """A reply to an earlier request, read together with the request that is cut: redis-py sends SETTLE in two parts."""
    with socket.create_server(("127.0.0.1", 0)) as listener, Proxy("127.0.0.1", listener.getsockname()[1]) as proxy:
        client = socket.create_connection(("127.0.0.1", proxy.port), ENOUGH)
        target, _ = listener.accept()
        with client, target:
            client.sendall(b"first")
            assert target.recv(5) == b"first"
            proxy.cut_at(b"second")
            proxy_waits, both_are_sent = threading.Event(), threading.Event()

            def wait() -> None:
                proxy_waits.set()
                both_are_sent.wait(ENOUGH)

            proxy._loop.call_soon_threadsafe(wait)
            assert proxy_waits.wait(ENOUGH)
            client.sendall(b"second")
            target.sendall(b"reply to the first")
            both_are_sent.set()
            assert client.recv(100) in (b"", b"reply to the first")
            assert target.recv(100) == b""
        assert (proxy.cut_requests, proxy.lost_replies) == (1, 0)
