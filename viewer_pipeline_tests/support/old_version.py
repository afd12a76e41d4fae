"""The scripts of version 0.1.0, run with the keys and arguments that its programs sent."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import psycopg
import redis

from viewer_pipeline_tests.support.stored import FOLDER

OLD = "format 2: written by a newer viewer-pipeline; upgrade this program"  # what it reads in place of a number
MARKER, CHANGED, SUBSCRIBER, CUTS = "viewer:settled", "viewer:changed", "viewer:subscriber", "viewer:cuts:"
INSERT_FLUSH = (FOLDER / "programs" / "insert_flush.sql").read_bytes()


class OldPrograms:
    """Writes of the worker and the flush runs of version 0.1.0."""

    def __init__(self, client: redis.Redis, prefix: str) -> None:
        self._client, self._prefix = client, prefix

    def begin(self, run_id: str, seq: int, batches: int, epoch: str) -> list[Any]:
        """Begin a run: return {made, seq, batch, of, epoch}."""
        return list(self._run("begin", [MARKER], [run_id, seq, batches, epoch]))

    def lease(self, token: str, key_space: str, term: int = 0, milliseconds: int = 6000) -> list[int]:
        """Request the lease: return {outcome, folded, term}."""
        arguments = [token, milliseconds, "old:1", 0, CUTS + key_space, key_space, term, 0, 2000, 0]
        return list(self._run("lease", [SUBSCRIBER], arguments))

    def release(self, token: str, key_space: str) -> None:
        """Give the lease back."""
        self._run("lease", [SUBSCRIBER], [token, 0, "", 0, CUTS + key_space])

    def cut(self, token: str, key_space: str) -> int:
        """End a segment: return its number, 0 or -1 where that is refused."""
        return int(self._run("cut", [SUBSCRIBER], [key_space, CUTS + key_space, token, 0]))

    def fold(self, token: str, segment: int, views: Mapping[str, int]) -> int:
        """Fold a segment: return the outcome."""
        counts = " ".join(map(str, views.values()))
        arguments = [token, segment, 1, 1, 1, 1, len(self._prefix.encode()), counts]
        return int(self._run("fold", [SUBSCRIBER, CHANGED, *self._keys(views)], arguments)[0])

    def settle(self, batch: tuple[int, int, int], before: tuple[int, int], epoch: str, views: Mapping[str, int]) -> int:
        """Settle a batch (seq, batch, of) of a marker that stands at `before`: return the outcome."""
        counts = " ".join(map(str, views.values()))
        arguments = [*batch, *before, epoch, 1, len(self._prefix.encode()), counts]
        return int(self._run("settle", [MARKER, CHANGED, *self._keys(views)], arguments)[0])

    def remove_empty(self, ids: Mapping[str, int]) -> int:
        """Remove ids with empty counters from the changed set: return how many."""
        return int(self._run("forget", [CHANGED, *self._keys(ids)], [len(self._prefix.encode())]))

    def swept(self, requested: bytes) -> int:
        """Clear a request for a sweep: return 1 if it was cleared."""
        return int(self._run("swept", [SUBSCRIBER], [requested]))

    def _keys(self, ids: Mapping[str, int]) -> list[str]:
        return [self._prefix + vod_id for vod_id in ids]

    def _run(self, name: str, keys: list[str], arguments: list[Any]) -> Any:
        source = (FOLDER / "programs" / f"{name}.lua").read_text(encoding="utf-8")
        return self._client.eval(source, len(keys), *keys, *arguments)


def insert_flush(connection: psycopg.Connection, seq: int) -> None:
    """Commit a flush to the ledger as version 0.1.0 does."""
    values = {"seq": seq, "base": seq - 1, "flush_id": uuid4(), "run_id": "old", "mode": "sweep", "after": None}
    values |= {"taken_at": datetime.now(UTC), "counters": 1, "views": 1, "batches": 1, "epoch": ""}
    connection.execute(INSERT_FLUSH, values)
