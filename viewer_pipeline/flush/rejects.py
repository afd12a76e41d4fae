"""Rejected input: what can never be a count, recorded once with the reason. Its queries are in rejects.sql."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from viewer_pipeline.stores.chunks import chunks
from viewer_pipeline.stores.named_queries import named_queries

SQL = named_queries(__name__)

SAMPLE_CHARACTERS = 300
BATCH_ROWS = 1000


@dataclass(frozen=True)
class Reject:
    """One input that can never be a count, with the reason. The texts are truncated; the digest covers the whole."""

    source: str
    subject: str
    value: str
    reason: str
    digest: bytes

    @classmethod
    def of(cls, source: str, subject: bytes, value: bytes, reason: str, occasion: str = "") -> Reject:
        """Return a reject whose texts PostgreSQL can hold, whatever the bytes.

        It is recorded once per `occasion`: once ever by default, or e.g. once per segment.
        """
        parts = (source.encode(), reason.encode(), occasion.encode(), subject)
        digest = hashlib.sha256(b"\x00".join(parts)).digest()
        return cls(source, printable(subject), printable(value), reason, digest)


def printable(raw: bytes) -> str:
    """Return at most SAMPLE_CHARACTERS of `raw` as text that PostgreSQL can hold."""
    text = raw[: SAMPLE_CHARACTERS * 4 + 4].decode("utf-8", "backslashreplace").replace("\x00", "\\x00")
    return text if len(text) <= SAMPLE_CHARACTERS else text[: SAMPLE_CHARACTERS - 1] + "…"


def record_new_rejects(connection: psycopg.Connection, rejects: Sequence[Reject]) -> None:
    """Record those that are not recorded yet, each once; in steps, so that a million of them is no long statement."""
    for batch in chunks(rejects, BATCH_ROWS):
        if new := find_unrecorded_rejects(connection, batch):
            connection.execute(SQL["insert_rejects"], _columns(new))


def record_message_rejects(connection: psycopg.Connection, rejects: Sequence[Reject], max_rows_per_reason: int) -> int:
    """Record rejects in order, while fewer than so many rows of their source and reason exist; return how many.

    Each is recorded once. The bound holds for all workers together and across restarts: one transaction at a time
    counts and adds.
    """
    unique = list({reject.digest: reject for reject in reversed(rejects)}.values())[::-1]
    if not unique:
        return 0
    parameters = {**_columns(unique), "max_rows": max_rows_per_reason}
    with connection.transaction():
        connection.execute(SQL["lock_message_rejects"])
        return connection.execute(SQL["insert_message_rejects"], parameters).rowcount


def find_unrecorded_rejects(connection: psycopg.Connection, rejects: Sequence[Reject]) -> list[Reject]:
    """Return those rejects that are not recorded yet."""
    rows = connection.execute(SQL["recorded_rejects"], {"digests": [r.digest for r in rejects]})
    recorded = {row[0] for row in rows}
    return [reject for reject in rejects if reject.digest not in recorded]


def _columns(rejects: Sequence[Reject]) -> dict[str, Any]:
    return {
        "digests": [r.digest for r in rejects],
        "sources": [r.source for r in rejects],
        "subjects": [r.subject for r in rejects],
        "values": [r.value for r in rejects],
        "reasons": [r.reason for r in rejects],
    }
