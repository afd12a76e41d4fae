"""Redis: candidates, readings, settling. Every write here is harmless when the client sends it twice."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import copy
from datetime import UTC, datetime
from typing import Any, NamedTuple, Self
from uuid import uuid4

import redis

from viewer_pipeline.errors import MarkerUnreadable
from viewer_pipeline.flush.counters import counter_pattern
from viewer_pipeline.flush.identity import NO_LEDGER, LedgerIdentity
from viewer_pipeline.flush.ledger import Batch, LastFlush
from viewer_pipeline.flush.pipeline_refusal import refusal
from viewer_pipeline.flush.readings import Readings
from viewer_pipeline.flush.registry import Pipeline, known_pipelines, register
from viewer_pipeline.redis_names import RedisNames
from viewer_pipeline.settings import Settings
from viewer_pipeline.stores.chunks import chunks
from viewer_pipeline.stores.durability import Durability
from viewer_pipeline.stores.one_connection import one_connection
from viewer_pipeline.stores.redis import Script, as_text, redis_errors

SCAN_COUNT = 1000  # keys a SCAN looks at: holds Redis for about 0.2 ms
READ_COUNT = 1000  # counters in one MGET: about 0.2 ms
PIPELINE_SCRIPTS = 50
MAX_SEQ = 2**53  # as far as Lua counts by ones
PIPELINE_MESSAGES = 100  # of a few kB each
DEFAULT_TOTALS_CHANNEL = "view_count_totals"


class Marker(NamedTuple):
    """The last batch that was subtracted: `batch` of the `of` batches of flush `seq`.

    `epoch` is made with the marker: another one means that Redis was emptied in between. `ledger` is the one whose
    batches are subtracted, `flush_id` the id of its flush `seq`.
    """

    seq: int
    batch: int
    of: int
    epoch: str = ""
    flush_id: str = ""
    ledger: str = ""
    # Flushes above the first number, through the second, that the ledger had lost when Redis was settled last: it was
    # restored from a backup. (0, 0): none.
    missing: tuple[int, int] = (0, 0)

    def at(self, batch: Batch) -> Marker:
        """Return it after this batch was subtracted."""
        return self._replace(seq=batch.seq, batch=batch.number, of=batch.of, flush_id=batch.flush_id)


class Settled(NamedTuple):
    """How far settling came. `refused`: the marker (None: gone) was not where it should be; ask the ledger again."""

    marker: Marker | None
    refused: bool
    subtracted: int  # batches that this call subtracted
    already: int  # batches that were subtracted before: by another run, or by a script whose answer was lost
    drift: int  # views that counters should have held and did not
    drifted: list[bytes]


MARKER_FIELDS = ("flush", "batch", "batches", "epoch", "flush_id", "ledger", "missing")
BEGIN = Script.load("flush/claim", "flush/begin")
CONFIRM, SETTLE, FORGET, SWEPT = map(Script.load, ("flush/confirm", "flush/settle", "flush/forget", "flush/swept"))


class RedisStore:
    """The counters, the changed set and the marker of one Redis, and the channel that totals go out on."""

    def __init__(
        self,
        client: redis.Redis,
        url: str,
        prefix: str,
        totals_channel: str = DEFAULT_TOTALS_CHANNEL,
        durability: Durability = Durability(),  # noqa: B008 - frozen
    ) -> None:
        self._client = client
        self.url = url
        self.totals_channel = totals_channel
        self.durability = durability
        self.names = RedisNames.of(prefix)
        self.prefix_text = prefix
        self.prefix = prefix.encode()
        self._pattern = counter_pattern(prefix)

    @classmethod
    def of(cls, client: redis.Redis, settings: Settings) -> Self:
        """Return the store of the pipeline that the settings name, over this client."""
        url, durability = settings.require_redis_url(), Durability.of(settings)
        return cls(client, url, settings.counter_prefix, settings.totals_channel, durability)

    @contextmanager
    def one_server(self) -> Iterator[RedisStore]:
        """Open the same store over one connection that is not made again where it breaks: RedisUnavailable then.

        What was settled before a read must be settled in the very Redis that is read (rule R3), and what is waited
        for must be where it was read (rule R7): no replica that took over in between, no restart with an older state.
        Raises SettingsError where this Redis cannot wait for what it should.
        """
        with one_connection(self._client, self.durability.seconds) as client:
            self.durability.require(client, self.url)
            store = copy(self)
            store._client = client  # noqa: SLF001 - a copy of this store
            yield store

    def confirm(self, run_id: str, marker: Marker, told: bool = False) -> Marker | None:
        """Write the run's id again, and wait until that, and so all that was read before, is durable (rule R7).

        `told`: that the marker was made anew is recorded, and no later run need report it. Returns where the marker
        stands now; where it has another epoch or ledger than `marker`, nothing was written. Raises RedisRefusesWrites
        (rule R11), NotDurable: then nothing may be committed.
        """
        fields = self.run_script(CONFIRM, [self.names.marker], [run_id, marker.ledger, marker.epoch, int(told)])
        self.durability.wait(self._client, self.url)
        return marker_of(fields)

    def begin(self, run_id: str, last: LastFlush, ledger: LedgerIdentity) -> tuple[bool, Marker]:
        """Write the run's id, make the marker at `last` if there is none; return whether it was made, and it.

        It counts as made until a run has confirmed that it `told`: who made it may have died before that.
        Raises PipelineRefused where this ledger must not settle these counters, RedisRefusesWrites where Redis cannot
        write now (rule R11), MarkerUnreadable for rubbish in the hash.
        """
        keys = [self.names.marker, *self.names.claimed_keys()]
        at: list[str | int] = [last.seq, last.batches, str(last.flush_id or ""), uuid4().hex]
        made, *fields = self.run_script(BEGIN, keys, [run_id, *at, self.prefix_text, ledger.key, ledger.place])
        if made < 0:
            raise refusal(self.prefix_text, ledger, *fields)
        marker = marker_of(fields)
        if marker is None:
            raise MarkerUnreadable(f"{self.names.marker}: {fields!r}; delete the key if nothing else uses it")
        return bool(made), marker

    def marker(self) -> Marker | None:
        """Read the marker; None where there is none. Raises PipelineRefused for one of version 0.1.0."""
        with redis_errors(self.url):
            answer: Any = self._client.hmget(self.names.marker, ["format", "seq", *MARKER_FIELDS])
        form, old, *fields = answer
        if old is not None and form is None:
            raise refusal(self.prefix_text, NO_LEDGER, b"old", b"")
        return marker_of(fields)

    def lease_ledger(self) -> str | None:
        """Return the ledger that the lease was last acquired for; None where it never was."""
        (ledger,) = self.subscriber_fields(["ledger"])
        return as_text(ledger) if ledger is not None else None

    def changed(self) -> Iterator[list[bytes]]:
        """Yield the raw ids of the changed set, oldest announcement first. A hint: it may miss some, and repeat."""
        start = 0
        while True:
            with redis_errors(self.url):
                try:
                    ids: Any = self._client.zrange(self.names.changed, start, start + READ_COUNT - 1)
                except redis.ResponseError as error:
                    if not str(error).startswith("WRONGTYPE"):
                        raise
                    return  # somebody took the name: a hint less, sweeps find all
            yield ids
            if len(ids) < READ_COUNT:
                return
            start += READ_COUNT

    def swept(self) -> Iterator[list[bytes]]:
        """Yield, per SCAN call over all keys, the raw ids of the counters it found; ids may come twice."""
        cursor, cut = 0, len(self.prefix)
        keys: Any
        while True:
            with redis_errors(self.url):
                cursor, keys = self._client.scan(cursor, match=self._pattern, count=SCAN_COUNT)
            yield [key[cut:] for key in keys]
            if cursor == 0:
                return

    def read(self, candidates: Iterable[list[bytes]]) -> Readings:
        """Read the counters of these ids, and the type of what is no string. Reads some while others are looked for."""
        ids: list[bytes] = []
        values: list[bytes | None] = []
        reader = ThreadPoolExecutor(1, "reader")
        try:
            reading = [(some, reader.submit(self.values, some)) for some in candidates if some]
            for some, read in reading:
                values += read.result()
                ids += some
        finally:
            reader.shutdown(cancel_futures=True)  # after an error, the rest would wait for one time-out each
        missing = [raw for raw, value in zip(ids, values, strict=True) if value is None] if None in values else []
        return Readings(ids, values, self._types(missing))

    def values(self, ids: list[bytes]) -> list[bytes | None]:
        """Return the counters of these ids in one MGET; None where a key is missing or no string."""
        with redis_errors(self.url):
            values: Any = self._client.mget([self.prefix + raw for raw in ids])
        return list(values)

    def seconds_to_live(self, ids: Iterable[bytes]) -> list[int]:
        """Return the TTL of each counter: -1 where it does not expire, -2 where there is none."""
        with redis_errors(self.url), self._client.pipeline(transaction=False) as pipe:
            for raw in ids:
                pipe.ttl(self.prefix + raw)
            return list(pipe.execute())

    def count_keys(self) -> int:
        """Return the number of keys of this Redis database, whatever their names."""
        with redis_errors(self.url):
            keys: Any = self._client.dbsize()
        return int(keys)

    def subscriber_counts(self, *channels: str) -> list[int]:
        """Return the number of subscribers of each channel; those of a pattern are not among them."""
        with redis_errors(self.url):
            counts: Any = self._client.pubsub_numsub(*channels)
        return [int(count) for _, count in counts]

    def hash_fields(self, *hashes: tuple[str, Sequence[str]]) -> list[list[bytes | None]]:
        """Return fields of each (key, fields), in one round trip; None where a field is missing."""
        with redis_errors(self.url), self._client.pipeline(transaction=False) as pipe:
            for key, fields in hashes:
                pipe.hmget(key, list(fields))
            return list(pipe.execute())

    def subscriber_fields(self, fields: Sequence[str]) -> list[bytes | None]:
        """Return fields of the hash `viewer:subscriber`; None where a field is missing."""
        return self.hash_fields((self.names.subscriber, fields))[0]

    def known_pipelines(self) -> list[Pipeline]:
        """Return all pipelines that this Redis knows, by prefix."""
        return known_pipelines(self._client, self.url)

    def register(self, identity: LedgerIdentity) -> None:
        """Make this pipeline known to Redis, with its ledger. Raises PipelineRefused."""
        register(self._client, self.url, self.prefix_text, identity)

    def now(self) -> datetime:
        """Return the time of the Redis server, in UTC."""
        with redis_errors(self.url):
            seconds, microseconds = self._client.time()
        return datetime.fromtimestamp(seconds, UTC).replace(microsecond=microseconds)

    def pending(self) -> tuple[int, datetime | None]:
        """Return how many VODs are in the changed set, and when the oldest was announced."""
        with redis_errors(self.url), self._client.pipeline(transaction=False) as pipe:
            pipe.zcard(self.names.changed)
            pipe.zrange(self.names.changed, 0, 0, withscores=True)
            try:
                count, oldest = pipe.execute()
            except redis.ResponseError as error:
                if "WRONGTYPE" not in str(error):
                    raise
                count, oldest = 0, []  # somebody took the name: a hint less, sweeps find all
        return count, datetime.fromtimestamp(oldest[0][1] / 1000, UTC) if oldest else None

    def require_writes(self) -> None:
        """Write something harmless. Raises RedisRefusesWrites where Redis refuses that."""
        with redis_errors(self.url):
            self._client.hset(self.names.subscriber, "checked", time.time_ns() // 1_000_000)

    def ask_for_sweep(self, reason: str) -> None:
        """Ask the sensor for a sweep at its next look, because announcements may have been missed."""
        with redis_errors(self.url):
            self._client.hset(self.names.subscriber, "sweep", f"{time.time_ns()} {reason}")

    def asked_sweep(self) -> bytes | None:
        """Return what was asked for, None where no sweep was: the time (ns), a blank, the reason."""
        return self.subscriber_fields(["sweep"])[0]

    def sweep_done(self, asked: bytes | None, ledger: str) -> None:
        """Take the request back that `asked_sweep` returned before the sweep; a newer one stays."""
        if asked is not None:
            self.run_script(SWEPT, [self.names.subscriber, self.names.marker], [asked, ledger])

    def settle(self, marker: Marker, batches: Sequence[Batch]) -> Settled:
        """Subtract these batches, the first of which follows `marker`, each once and in order.

        A batch that was subtracted before is passed over. Stops at the first that is refused.
        """
        at: Marker | None = marker
        subtracted, already, drift, drifted = 0, 0, 0, list[bytes]()
        for group in chunks(batches, PIPELINE_SCRIPTS):
            for answer in self._settle_some(marker, group):
                outcome, missing, *rest = answer
                at = marker_of(rest[: len(MARKER_FIELDS)])
                subtracted += outcome == 1
                already += outcome == 0
                drift += int(missing)
                drifted += rest[len(MARKER_FIELDS) :]
                if outcome == -1:
                    return Settled(at, True, subtracted, already, drift, drifted)
            marker = marker.at(group[-1])
        return Settled(at, False, subtracted, already, drift, drifted)

    def publish_totals(self, messages: Iterable[bytes]) -> None:
        """Publish on the channel of totals, in order. Some may go out, and twice, although it raises."""
        for some in chunks(messages, PIPELINE_MESSAGES):
            with redis_errors(self.url), self._client.pipeline(transaction=False) as pipe:
                for message in some:
                    pipe.publish(self.totals_channel, message)
                pipe.execute()

    def forget(self, ledger: str, idle: Iterable[bytes], rejected: Iterable[bytes]) -> None:
        """Take ids out of the changed set: idle ones if they are still idle, rejected ones in any case."""
        for ids, whatever in ((idle, 0), (rejected, 1)):
            for some in chunks(ids, READ_COUNT):
                keys: list[str | bytes] = [self.names.marker, self.names.changed]
                keys += [self.prefix + raw for raw in some]
                self.run_script(FORGET, keys, [ledger, len(self.prefix), whatever])

    def _settle_some(self, marker: Marker, batches: Sequence[Batch]) -> list[list[Any]]:
        with redis_errors(self.url), self._client.pipeline(transaction=False) as pipe:
            pipe.script_load(SETTLE.source)
            for batch in batches:
                keys = [self.names.marker, self.names.changed, *(self.prefix_text + vod_id for vod_id in batch.vod_ids)]
                taken_ms = int(batch.taken_at.timestamp() * 1000)
                deltas = " ".join(map(str, batch.deltas))
                before = (marker.seq, marker.batch, marker.epoch, marker.ledger)
                missing = "{} {}".format(*marker.missing) if any(marker.missing) else ""
                about: list[str | int] = [
                    *batch[:3],
                    batch.flush_id,
                    *before,
                    taken_ms,
                    len(self.prefix),
                    deltas,
                    missing,
                ]
                pipe.evalsha(SETTLE.sha, len(keys), *keys, *about)
                marker = marker.at(batch)
            return list(pipe.execute()[1:])

    def _types(self, ids: Iterable[bytes]) -> dict[bytes, str]:
        types: dict[bytes, str] = {}
        for some in chunks(ids, READ_COUNT):
            with redis_errors(self.url), self._client.pipeline(transaction=False) as pipe:
                for raw in some:
                    pipe.type(self.prefix + raw)
                types.update(zip(some, (kind.decode() for kind in pipe.execute()), strict=True))
        return types

    def run_script(self, script: Script, keys: Sequence[str | bytes], arguments: Sequence[str | bytes | int]) -> Any:
        """Run a script on this Redis and return its reply."""
        with redis_errors(self.url):
            return script.run(self._client, keys, arguments)


def marker_of(fields: Sequence[bytes | None]) -> Marker | None:
    """Read MARKER_FIELDS; None where there is no marker. Raises MarkerUnreadable."""
    numbers, (epoch, flush_id, ledger), missing = fields[:3], map(as_text, fields[3:6]), fields[6]
    if all(field is None for field in numbers):
        return None
    try:
        seq, batch, of = (int(field or b"") for field in numbers)
        after, through = map(int, (missing or b"0 0").split())
    except ValueError:
        raise MarkerUnreadable(f"flush, batch, batches, missing = {[*numbers, missing]!r}") from None
    if seq > MAX_SEQ:
        raise MarkerUnreadable(f"flush = {seq}: no ledger comes as far")
    return Marker(seq, batch, of, epoch, flush_id, ledger, (after, through))
