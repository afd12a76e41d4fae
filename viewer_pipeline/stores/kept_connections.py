"""Connections to PostgreSQL that are kept between two uses, so that a run logs in once."""

from __future__ import annotations

import select
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import psycopg
from psycopg.pq import TransactionStatus

from viewer_pipeline.postgres_url import PostgresUrl
from viewer_pipeline.stores.postgres import BoundedConnection, open_connection


class KeptConnections:
    """Lends connections to one server, also to several threads at once. Close it in the end."""

    def __init__(self, url: PostgresUrl) -> None:
        self._url = url
        self._idle = list[BoundedConnection]()

    @contextmanager
    def lend(self) -> Iterator[BoundedConnection]:
        """Lend an idle connection, else a new one. It is kept afterwards, unless an error is raised inside.

        Of its user nothing remains: our settings of a session do not change, all others hold for one transaction.
        """
        with ExitStack() as closing:
            connection = closing.enter_context(self._take() or open_connection(self._url))
            yield connection
            if connection.info.transaction_status == TransactionStatus.IDLE:
                closing.pop_all()
                self._idle.append(connection)

    def close(self) -> None:
        """Close all that are idle."""
        while self._idle:
            self._idle.pop().close()

    def _take(self) -> BoundedConnection | None:
        """Take an idle connection; those that the server has closed are dropped."""
        with suppress(IndexError):  # there is none, or other threads were first
            while is_closed_by_server(connection := self._idle.pop()):
                connection.close()
            return connection
        return None


def is_closed_by_server(idle: psycopg.Connection) -> bool:
    """Whether the server has closed an idle connection. Without a round trip: it can be read from then."""
    poll = select.poll()
    poll.register(idle, select.POLLIN)
    return bool(poll.poll(0))
