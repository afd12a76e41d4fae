"""Reads of one pipeline's Redis: candidates, counters, the changed set, and fields of its hashes. Writes nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from datetime import UTC, datetime
from typing import Any, NamedTuple, Self

import redis

from viewer_pipeline.flush.counter_validation import counter_pattern
from viewer_pipeline.flush.readings import Readings
from viewer_pipeline.layout import Layout
from viewer_pipeline.stores.cancellation_between_statements import raise_if_canceled
from viewer_pipeline.stores.chunks import chunks
from viewer_pipeline.stores.redis import as_text, redis_errors
from viewer_pipeline.stores.sent_commands import SentCommands
from viewer_pipeline.streams import Stream

SCAN_COUNT = 500  # keys per SCAN call: holds Redis for about 0.4 ms, beside 10,000,000 keys
READ_COUNT = 1000  # counters per MGET: about 0.2 ms


CounterValues = tuple[Sequence[bytes], Sequence[bytes | None]]  # raw ids, and the value of each


class CounterPage(NamedTuple):
    """The counters that one SCAN call returned, and their values."""

    cursor: int  # of the next call; 0: there are no more keys
    ids: list[bytes]
    values: list[bytes | None]
    scan_seconds: float  # for which the call kept Redis busy, by the clock of Redis


class Pipeline(NamedTuple):
    """One entry of the registry: counter prefix, ledger, and the place of that ledger's database."""

    prefix: str
    ledger: str
    place: str


class CounterReader:
    """The counters and the changed set of one stream of a pipeline."""

    def __init__(self, client: redis.Redis, url: str, prefix: str) -> None:
        self._client = client
        self.url = url
        self.layout = Layout.of(url, prefix)
        self.names = self.layout.names
        self.prefix_text = prefix
        self.prefix = prefix.encode()
        self._pattern = counter_pattern(prefix)

    def of_stream(self, stream: Stream) -> Self:
        """Return the same Redis, for the flushes of one stream."""
        store = copy(self)
        store.layout = Layout.of(self.url, self.prefix_text, stream)
        store.names = store.layout.names
        return store

    def changed_ids_oldest_first(self, limit: int = sys.maxsize) -> Iterator[list[bytes]]:
        """Yield `limit` raw ids of the changed set, oldest announcement first. A hint: it may miss and repeat ids."""
        start = 0
        while start < limit:
            with redis_errors(self.url):
                try:
                    ids: Any = self._client.zrange(self.names.changed, start, min(start + READ_COUNT, limit) - 1)
                except redis.ResponseError as error:
                    if not str(error).startswith("WRONGTYPE"):
                        raise
                    return  # another program took the name: sweeps find all counters
            yield ids
            if len(ids) < READ_COUNT:
                return
            start += READ_COUNT

    def scan_counters(self) -> Iterator[list[bytes]]:
        """Yield, per SCAN call over all keys, the raw ids of the counters in it; ids may come twice."""
        cut, cursor = len(self.prefix), -1
        while cursor != 0:
            cursor, keys = self._scan(max(cursor, 0), SCAN_COUNT)
            yield [key[cut:] for key in keys]

    def _scan(self, cursor: int, count: int) -> tuple[int, list[bytes]]:
        """Return the cursor of the next call, and the keys of counters among about `count` keys."""
        with redis_errors(self.url):
            reply: Any = self._client.scan(cursor, match=self._pattern, count=count)
        return int(reply[0]), list(reply[1])

    def scan_page(self, cursor: int, count: int) -> CounterPage:
        """Return the counters among about `count` keys after `cursor`, which may be of another Redis."""
        with redis_errors(self.url), self._client.pipeline(transaction=False) as pipe:
            pipe.time()
            pipe.scan(cursor if cursor < 2**64 else 0, match=self._pattern, count=count)
            pipe.time()
            before, (after, keys), now = pipe.execute()
        ids = [key[len(self.prefix) :] for key in keys]
        seconds = max(0.0, now[0] - before[0] + (now[1] - before[1]) / 1e6)
        return CounterPage(after, ids, self.values(ids) if ids else [], seconds)

    def read_page(self, ids: Sequence[bytes]) -> Readings:
        """Read the counters of these ids, and the type of what is no string."""
        return self.validated([(ids, self.values(ids))] if ids else [])

    def validated(self, pages: Iterable[CounterValues]) -> Readings:
        """Validate counters page by page; read the type of what is no string."""
        readings = Readings()
        for ids, values in pages:
            readings.add(ids, values)
        readings.types.update(self.types(raw for raw, value in readings.idle_or_invalid.items() if value is None))
        return readings

    def read(self, pages: Iterable[Sequence[bytes]]) -> Readings:
        """Read counters over one connection: Redis reads the next page while the last one is validated."""
        return self.validated(self._values_ahead(pages))

    def _values_ahead(self, pages: Iterable[Sequence[bytes]]) -> Iterator[CounterValues]:
        requested: Sequence[bytes] = ()
        with redis_errors(self.url), SentCommands.over_one_connection(self._client) as commands:
            for ids in _join_pages(pages):
                raise_if_canceled()
                values = commands.receive() if requested else []
                commands.send("MGET", *[self.prefix + raw for raw in ids])
                if requested:
                    yield requested, values
                requested = ids
            if requested:
                yield requested, commands.receive()

    def scan_ahead(self, cursor: int, limit: int) -> Iterator[tuple[int, list[bytes]]]:
        """Yield, per SCAN call over the keys after `cursor`, its own cursor and the raw ids of the counters in it.

        Ends with the call that reaches `limit` ids. Over one connection: Redis scans on while a page is used.
        """
        cut = len(self.prefix)
        with redis_errors(self.url), SentCommands.over_one_connection(self._client) as commands:
            more = True
            commands.send(*self._scan_command(cursor))
            while more:
                reply = commands.receive()
                cursor, ids = int(reply[0]), [key[cut:] for key in reply[1]]
                limit -= len(ids)
                more = cursor != 0 and limit > 0
                if more:
                    commands.send(*self._scan_command(cursor))
                yield cursor, ids

    def _scan_command(self, cursor: int) -> tuple[str | bytes | int, ...]:
        return "SCAN", cursor, "MATCH", self._pattern, "COUNT", SCAN_COUNT

    def values(self, ids: Sequence[bytes]) -> list[bytes | None]:
        """Return the counters of these ids in one MGET; None where a key is missing or no string."""
        with redis_errors(self.url):
            values: Any = self._client.mget([self.prefix + raw for raw in ids])
        return list(values)

    def seconds_to_live(self, ids: Iterable[bytes]) -> list[int]:
        """Return the TTL of each counter: -1 where it does not expire, -2 where there is none."""
        return self._of_each_counter("TTL", list(ids))

    def _of_each_counter(self, command: str, ids: Sequence[bytes]) -> list[Any]:
        """Return the reply to a command about each of these counters."""
        with redis_errors(self.url), self._client.pipeline(transaction=False) as pipe:
            for raw in ids:
                pipe.execute_command(command, self.prefix + raw)  # type: ignore[no-untyped-call]  # so in redis-py
            return list(pipe.execute())

    def count_keys(self) -> int:
        """Return the number of keys of this Redis database, whatever their names."""
        with redis_errors(self.url):
            keys: Any = self._client.dbsize()
        return int(keys)

    def subscriber_counts(self, *channels: str) -> list[int]:
        """Return the number of subscribers of each channel, without those of patterns."""
        with redis_errors(self.url):
            counts: Any = self._client.pubsub_numsub(*channels)
        return [int(count) for _, count in counts]

    def hash_fields(self, key: str, fields: Sequence[str]) -> list[bytes | None]:
        """Return fields of a hash; None where a field is missing."""
        with redis_errors(self.url):
            values: Any = self._client.hmget(key, list(fields))
        return list(values)

    def read_hashes(self, *hashes: tuple[str, Sequence[str]]) -> list[list[bytes | None]]:
        """Return fields of each (key, fields), in one round trip; None where a field is missing."""
        with redis_errors(self.url), self._client.pipeline(transaction=False) as pipe:
            for key, fields in hashes:
                pipe.hmget(key, list(fields))
            return list(pipe.execute())

    def subscriber_fields(self, fields: Sequence[str]) -> list[bytes | None]:
        """Return fields of the hash `viewer:subscriber`; None where a field is missing."""
        return self.hash_fields(self.names.subscriber, fields)

    def lease_ledger(self) -> str | None:
        """Return the ledger that the lease was last acquired for; None if it never was."""
        ledger = self.subscriber_fields(["ledger"])[0]
        return as_text(ledger) if ledger is not None else None

    def sweep_request(self) -> bytes | None:
        """Return the pending request for a sweep: the time (ns), a blank, the reason. None if there is none."""
        return self.subscriber_fields([self.layout.sweep_field])[0]

    def sweep_position(self) -> bytes:
        """Return where a sweep continues, as it is stored; empty if none is under way."""
        return self.subscriber_fields([self.layout.sweep_position_field])[0] or b""

    def server_run_id(self) -> str:
        """Return the id of this process of Redis: another one after a restart. Empty if it may not be read."""
        with redis_errors(self.url):
            try:
                server: Any = self._client.info("server")
            except redis.ResponseError:
                return ""
        return str(server.get("run_id", ""))

    def known_pipelines(self) -> list[Pipeline]:
        """Return all pipelines in the registry of this Redis, by prefix."""
        with redis_errors(self.url):
            prefixes: Any = self._client.hkeys(self.names.registry)
            values: Any = self._client.hmget(self.names.registry, prefixes) if prefixes else []
        pipelines = []
        for prefix, value in zip(prefixes, values, strict=True):
            ledger, _, place = as_text(value).partition(" ")
            pipelines.append(Pipeline(as_text(prefix), ledger, place))
        return sorted(pipelines)

    def now(self) -> datetime:
        """Return the time of the Redis server, in UTC."""
        with redis_errors(self.url):
            seconds, microseconds = self._client.time()
        return datetime.fromtimestamp(seconds, UTC).replace(microsecond=microseconds)

    def count_announced(self, before: float | None) -> int:
        """Return the number of VODs in the changed set that were announced before this Unix time; None: of all."""
        with redis_errors(self.url):
            try:
                if before is None:
                    count: Any = self._client.zcard(self.names.changed)
                else:
                    count = self._client.zcount(self.names.changed, "-inf", f"({int(before * 1000)}")
            except redis.ResponseError as error:
                if not str(error).startswith("WRONGTYPE"):
                    raise
                return 0  # another program took the name: sweeps find all counters
        return int(count)

    def changed_set_size_and_oldest(self) -> tuple[int, datetime | None]:
        """Return the number of VODs in the changed set, and when the oldest was announced."""
        with redis_errors(self.url), self._client.pipeline(transaction=False) as pipe:
            pipe.zcard(self.names.changed)
            pipe.zrange(self.names.changed, 0, 0, withscores=True)
            try:
                count, oldest = pipe.execute()
            except redis.ResponseError as error:
                if "WRONGTYPE" not in str(error):
                    raise
                count, oldest = 0, []  # another program took the name: sweeps find all counters
        return count, datetime.fromtimestamp(oldest[0][1] / 1000, UTC) if oldest else None

    def types(self, ids: Iterable[bytes]) -> dict[bytes, str]:
        """Return the type of each key of these ids; "none" where there is none."""
        types = dict[bytes, str]()
        for page in chunks(ids, READ_COUNT):
            types.update(zip(page, (kind.decode() for kind in self._of_each_counter("TYPE", page)), strict=True))
        return types


def _join_pages(pages: Iterable[Sequence[bytes]]) -> Iterator[Sequence[bytes]]:
    """Yield the ids in pages of READ_COUNT or more: a call of SCAN returns fewer."""
    ids = list[bytes]()
    for page in pages:
        ids += page
        if len(ids) >= READ_COUNT:
            yield ids
            ids = []
    if ids:
        yield ids
