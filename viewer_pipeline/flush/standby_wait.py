"""The wait for standbys of PostgreSQL between the commit of a flush and its settling (rule R18).

Once a flush is settled, the ledger alone has its views. A standby that takes over and lacks the flush would lose them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

import psycopg
from psycopg import errors as pg

from viewer_pipeline.errors import MarkerMoved, NotReplicated, PostgresRefusesWrites, SettingsError
from viewer_pipeline.redaction import redact_text
from viewer_pipeline.settings import Settings
from viewer_pipeline.sql_identifiers import quoted
from viewer_pipeline.stores.named_queries import fetch_one, named_queries
from viewer_pipeline.stores.postgres import IN_RECOVERY
from viewer_pipeline.stores.postgres_errors import first_line
from viewer_pipeline.text_formatting import pluralize

SQL = named_queries(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.002, 0.1  # seconds between two queries; a standby nearby needs a few milliseconds
RIGHT = "pg_monitor"  # or pg_read_all_stats, which is part of it


class StandbyReading(NamedTuple):
    """What a server shows of its standbys at one moment."""

    in_recovery: bool
    is_permitted: bool
    has_flush: bool
    position: str | None  # in the WAL; None on a standby
    connected: int
    confirmed: int  # those that have everything up to `position` on disk
    role: str


@dataclass(frozen=True)
class StandbyWait:
    """How many standbys must have a flush on disk before it is settled, and the time for it."""

    standbys: int = 0
    timeout_ms: int = 10_000

    @classmethod
    def of(cls, settings: Settings) -> StandbyWait:
        """Return the requirement in the settings."""
        return cls(settings.postgres_wait_standbys, settings.postgres_wait_timeout_ms)

    @property
    def required(self) -> bool:
        """Whether there is anything to wait for."""
        return self.standbys > 0

    def require_support(self, connection: psycopg.Connection, url: str) -> None:
        """Raise SettingsError if this role cannot see the standbys of this server; on one, PostgresRefusesWrites."""
        if self.required:
            self._read(connection, url)

    def require_connected(self, connection: psycopg.Connection, url: str) -> None:
        """Raise NotReplicated if fewer standbys are connected, so that nothing could be settled that is committed now.

        Raises what `wait_until_replicated` raises, too.
        """
        if not self.required:
            return
        reading = self._read(connection, url)
        if reading.connected < self.standbys:
            raise NotReplicated(f"{self.setting}: {pluralize(reading.connected, 'standby')} connected")

    def wait_until_replicated(self, connection: psycopg.Connection, url: str, seq: int, flush_id: UUID | str) -> None:
        """Wait until enough standbys have this committed flush, and all before it, on disk.

        The flush is looked up in each query, on the server whose standbys it shows: the address may lead to another
        primary by now, which lacks the flush. Raises MarkerMoved then, NotReplicated on a time-out, SettingsError if
        this role cannot see the standbys.
        """
        if not self.required:
            return
        deadline, position, pause = time.monotonic() + self.timeout_ms / 1000, None, FIRST_PAUSE
        while True:
            reading = self._read(connection, url, flush_id, position)
            if not reading.has_flush:
                raise MarkerMoved(f"PostgreSQL has lost flush {seq}: {redact_text(url)} leads to a server without it")
            if reading.confirmed >= self.standbys:
                return
            if time.monotonic() >= deadline:
                connected = pluralize(reading.connected, "standby")
                raise NotReplicated(
                    f"{self.setting}: {reading.confirmed} of {connected} had flush {seq} on disk"
                    f" within {self.timeout_ms} ms"
                )
            position = reading.position
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    @property
    def setting(self) -> str:
        """The setting with its value, for messages."""
        return f"POSTGRES_WAIT_STANDBYS={self.standbys}"

    def _read(
        self,
        connection: psycopg.Connection,
        url: str,
        flush_id: UUID | str | None = None,
        position: str | None = None,
    ) -> StandbyReading:
        parameters = {"flush_id": None if flush_id is None else str(flush_id), "position": position}
        where = f"{self.setting}: {redact_text(url)}"
        try:
            reading = StandbyReading(*fetch_one(connection, SQL["read_standbys"], **parameters))
        except (pg.InsufficientPrivilege, pg.FeatureNotSupported) as error:
            raise SettingsError(f"{where} does not report what it has on disk: {first_line(error)}") from error
        if not reading.is_permitted:
            role = quoted(reading.role)
            raise SettingsError(
                f"{where} shows its standbys to members of {RIGHT} only, and {role} is none", f"GRANT {RIGHT} TO {role}"
            )
        if reading.in_recovery:
            raise PostgresRefusesWrites(f"{redact_text(url)}: {IN_RECOVERY}")
        return reading
