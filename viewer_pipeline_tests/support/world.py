"""Both servers with the views that a test sent, and the assertion that none is lost or counted twice."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from types import TracebackType
from typing import Any, Self
from unittest.mock import patch
from uuid import uuid4

import psycopg
import redis

from viewer_pipeline.flush.aggregate import Aggregate, aggregate
from viewer_pipeline.flush.commit import bulk_upsert
from viewer_pipeline.flush.counter_validation import counter_pattern
from viewer_pipeline.flush.drain import drain
from viewer_pipeline.flush.flush_request import FlushRequest, Mode
from viewer_pipeline.flush.incidents import open_incidents
from viewer_pipeline.flush.ledger_identity import LedgerIdentity
from viewer_pipeline.flush.marker import Marker
from viewer_pipeline.flush.run_report import RunReport
from viewer_pipeline.flush.settle import Settler
from viewer_pipeline.flush.snapshot import Snapshot
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline_tests.support.claims import identity_of

PREFIX = "vod:views:"


class World:
    """Both stores, and the views sent to them."""

    def __init__(self, stores: Stores, prefix: str = PREFIX) -> None:
        self.stores = stores
        self.prefix = prefix
        self.client: redis.Redis = stores.redis._client
        self.sent: Counter[str] = Counter()

    @property
    def identity(self) -> LedgerIdentity:
        """The identity of the ledger in its database."""
        return identity_of(self.stores.ledger.url)

    def send(self, vod_id: str, views: int = 1, *, announce: bool = False) -> None:
        """Send views as a producer that raises counters itself."""
        self.client.incrby(self.prefix + vod_id, views)
        if announce:
            self.client.zadd(self.stores.redis.names.changed, {vod_id: 1}, nx=True)
        self.sent[vod_id] += views

    def send_many(self, vods: int, views: int = 3) -> None:
        """Send `views` views to each of `vods` VODs."""
        for number in range(vods):
            self.send(f"vod{number:04d}", views)

    def flush(self, mode: Mode = "sweep", **options: Any) -> RunReport:
        """Run a whole flush in this process, over connections that it keeps, as in production."""
        with self.stores.ledger.keeping_connections() as ledger:
            stores = replace(self.stores, ledger=ledger)
            snapshot = drain(stores, self.request(mode, **options))
            return bulk_upsert(stores, snapshot, aggregate(snapshot.readings))

    def in_thread(self, **options: Any) -> Future[RunReport]:
        """Start a flush on another thread."""
        pool = ThreadPoolExecutor(1)
        try:
            return pool.submit(self.flush, **options)
        finally:
            pool.shutdown(wait=False)

    def flush_in_parts(self, counters: int, mode: Mode = "sweep") -> list[RunReport]:
        """Run flushes of about so many counters until none of those that are pending now remains."""
        runs, is_whole_pass, before = list[RunReport](), False, None
        while not runs or runs[-1].remaining or not is_whole_pass:
            done = self.flush(mode, run_max_counters=counters, announced_before=before)
            part = done.snapshot.progress.part
            is_whole_pass |= part is None or part.begin.cursor == 0
            before = None if part else done.snapshot.announced_before
            runs.append(done)
        return runs

    def drain(self, mode: Mode = "sweep", **options: Any) -> tuple[Snapshot, Aggregate]:
        """Run the first two steps of a flush."""
        snapshot = drain(self.stores, self.request(mode, **options))
        return snapshot, aggregate(snapshot.readings)

    def flush_unsettled(self, **options: Any) -> RunReport:
        """Run a flush that commits, but leaves its views in Redis."""
        with patch.object(Settler, "add", lambda *_: None):
            return self.flush(**options)

    def incidents(self) -> dict[str, int]:
        """Open incidents: kind -> views."""
        with self.stores.ledger.connect() as connection:
            return {incident.kind: incident.views for incident in open_incidents(connection)}

    @staticmethod
    def request(mode: Mode = "sweep", **options: Any) -> FlushRequest:
        """Return a request of a new run with small batches and flushes, so that a few VODs make several of each."""
        defaults: dict[str, Any] = {"run_id": uuid4().hex, "mode": mode, "batch_size": 2, "flush_max_counters": 4}
        return FlushRequest(**defaults | options)

    def totals(self) -> dict[str, int]:
        """Persisted counts without their baseline."""
        return dict(self.rows("SELECT vod_id, view_count - baseline FROM viewer.vod_view_counts"))

    def held(self) -> Counter[str]:
        """Held views."""
        rows = self.rows("SELECT vod_id, sum(views) FROM viewer.held GROUP BY vod_id")
        return Counter({vod_id: int(views) for vod_id, views in rows})

    def parked(self) -> dict[str, int]:
        """Parked views."""
        return {vod_id: int(views) for vod_id, views in self.rows("SELECT vod_id, views FROM viewer.parked")}

    def counters(self) -> dict[str, int]:
        """Pending views: the counters that hold a number."""
        counters = {}
        keys: Any = self.client.keys(counter_pattern(self.prefix))
        for key in keys:
            value: Any = self.client.get(key) if self.client.type(key) == b"string" else None
            if value is not None and value.lstrip(b"-").isdigit():
                counters[key[len(self.prefix) :].decode("utf-8", "backslashreplace")] = int(value)
        return counters

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Run a query."""
        with psycopg.connect(self.stores.ledger.url) as connection:
            return connection.execute(query).fetchall()

    def execute(self, statement: str, *parameters: Any) -> None:
        """Run a statement."""
        with psycopg.connect(self.stores.ledger.url) as connection:
            connection.execute(statement, parameters)

    def rejected(self) -> dict[str, str]:
        """Rejected inputs: subject -> reason."""
        return dict(self.rows("SELECT subject, reason FROM viewer.rejected"))

    def seqs(self) -> list[int]:
        """Numbers of the flushes in the ledger."""
        return [row[0] for row in self.rows("SELECT seq FROM viewer.flush ORDER BY seq")]

    def marker(self) -> Marker | None:
        """The position of the marker: seq, batch and number of batches."""
        marker = self.stores.redis.marker()
        return Marker(*marker[:3]) if marker else None

    def at(self, seq: int, batch: int, of: int) -> Marker:
        """A marker of the current epoch and ledger, at this position."""
        marker = self.stores.redis.marker()
        assert marker is not None
        return marker._replace(seq=seq, batch=batch, of=of)

    def accounted(self) -> Counter[str]:
        """All views by VOD: in totals, counters, parked and held views."""
        return Counter(self.totals()) + Counter(self.counters()) + Counter(self.parked()) + self.held()

    def assert_conserved(self) -> None:
        """Totals, counters, parked and held views sum up to what was sent, for each VOD. Call it while nothing runs."""
        assert self.accounted() == self.sent

    def assert_all_persisted(self) -> None:
        """Nothing is pending, and every view is in the totals, or held."""
        assert self.counters() == {}
        assert Counter(self.totals()) + self.held() == self.sent


class ConnectedWorld(World):
    """A world with one connection that stays open, for tests with hundreds of queries. Use as a context manager."""

    def __init__(self, stores: Stores) -> None:
        super().__init__(stores)
        self.connection = psycopg.connect(stores.ledger.url, autocommit=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.connection.close()

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Run a query."""
        return self.connection.execute(query).fetchall()

    def execute(self, statement: str, *parameters: Any) -> None:
        """Run a statement, or several if there are no parameters: all or none."""
        self.connection.execute(statement, parameters or None)
