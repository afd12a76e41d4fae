"""One pipeline's Redis: counters, changed set and marker. Every write is harmless when the client sends it twice."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Any, NamedTuple, Self
from uuid import uuid4

import redis

from viewer_pipeline.errors import MarkerUnreadable
from viewer_pipeline.flush.counter_reader import READ_COUNT, SCAN_COUNT, CounterReader
from viewer_pipeline.flush.ledger_identity import NO_LEDGER, LedgerIdentity
from viewer_pipeline.flush.ledger_row_types import Batch, Flush, FlushRow, LastFlush
from viewer_pipeline.flush.marker import MARKER_FIELDS, NONE_MISSING, Marker, parse_marker
from viewer_pipeline.flush.pipeline_refusal import refusal
from viewer_pipeline.flush.sweep_position import SweepPart
from viewer_pipeline.settings import Settings
from viewer_pipeline.stores.chunks import chunks
from viewer_pipeline.stores.non_reconnecting_redis import non_reconnecting_client
from viewer_pipeline.stores.redis import Script, as_text, redis_errors
from viewer_pipeline.stores.redis_durability_wait import Durability
from viewer_pipeline.streams import Stream
from viewer_pipeline.text_formatting import pluralize

PIPELINE_SCRIPTS = 50
PIPELINE_MESSAGES = 100  # of a few kB each
DEFAULT_TOTALS_CHANNEL = "view_count_totals"

BEGIN = Script.load("flush/claim", "flush/marker", "flush/begin")
CONFIRM = Script.load("flush/marker", "flush/confirm")
SETTLE = Script.load("flush/all_keys_together", "flush/marker", "flush/settle", "flush/one_shard")
DISCARD, ADVANCE_SWEEP = Script.load("flush/discard"), Script.load("flush/advance_sweep")
REGISTER = Script.load("flush/claim", "flush/register")


class Settled(NamedTuple):
    """The result of settling. `refused`: the marker (None: gone) was elsewhere than expected; read the ledger again."""

    marker: Marker | None
    refused: bool
    already: int  # batches that were subtracted before: by another run, or by a script whose reply was lost
    drift: int  # views missing from counters
    drifted: list[bytes]


class RedisStore(CounterReader):
    """The counters, the changed set and the marker of one stream of a pipeline, and the channel of the new totals."""

    def __init__(
        self,
        client: redis.Redis,
        url: str,
        prefix: str,
        totals_channel: str = DEFAULT_TOTALS_CHANNEL,
        durability: Durability = Durability(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__(client, url, prefix)
        self.totals_channel = totals_channel
        self.durability = durability
        self.parts = 1  # into which the VODs are cut, by the settings

    @classmethod
    def of(cls, client: redis.Redis, settings: Settings) -> Self:
        """Return the store of the pipeline that the settings name, over this client."""
        url, durability = settings.require_redis_url(), Durability.of(settings)
        store = cls(client, url, settings.counter_prefix, settings.totals_channel, durability)
        store.parts = settings.flush_streams
        return store

    def of_each_part(self) -> list[Self]:
        """Return the same Redis for each part of the VODs: all but the marker is named after it."""
        return [self.of_stream(Stream(0, part, self.parts)) for part in range(self.parts)]

    def of_prefix(self, prefix: str) -> RedisStore:
        """Return the store of another pipeline on the same Redis."""
        return type(self)(self._client, self.url, prefix)

    def require_all_nodes(self) -> None:
        """Check that all of this Redis answers, before work that must be complete. Raises RedisUnavailable."""
        with redis_errors(self.url):
            self._client.ping()

    def leave_server(self) -> None:
        """Close idle connections: the address may lead to another server by now."""
        self._client.connection_pool.disconnect(inuse_connections=False)

    @contextmanager
    def node_clients(self) -> Iterator[dict[str, redis.Redis]]:
        """Open a client of each server that has counters, by its name; that of a single Redis is empty."""
        yield {"": self._client}

    def unserved_slots(self) -> int:
        """Return how many slots of a cluster no node serves."""
        return 0

    def delete_shard_markers(self) -> None:
        """Delete the markers of shards, which a single Redis does not have."""

    def delete_marker(self) -> None:
        """Delete the markers of the stream."""
        with redis_errors(self.url):
            self._client.delete(self.names.marker)
        self.delete_shard_markers()

    def delete_stream_keys(self) -> None:
        """Delete markers and changed sets of all streams but the first, whether the ledger still has them or not."""
        for client in self._clients_with_keys():
            with redis_errors(self.url):
                for pattern in self.names.stream_patterns:
                    keys = client.scan_iter(match=pattern, count=SCAN_COUNT)
                    self._delete_keys([key for key in keys if self.names.is_of_stream(as_text(key))])

    def _clients_with_keys(self) -> Iterator[redis.Redis]:
        """Yield a client of each server."""
        with self.node_clients() as clients:
            yield from clients.values()

    def _delete_keys(self, keys: Sequence[bytes]) -> None:
        for page in chunks(keys, READ_COUNT):
            self._client.delete(*page)

    @contextmanager
    def on_one_connection(self, *, only_names: bool = False) -> Iterator[RedisStore]:
        """Open the same store over one connection that is never made again: RedisUnavailable once it breaks.

        What is settled before a read must be settled in the Redis that is read (rule R3), and durability must be waited
        for where it was read (rule R7): no replica promoted in between, no restart with an older state. Raises
        SettingsError if this Redis cannot wait as configured; not checked if `only_names` of counters are read there.
        """
        with non_reconnecting_client(self._client, self.durability.seconds) as client:
            if not only_names:
                self.durability.require_support(client, self.url)
            store = copy(self)
            store._client = client  # noqa: SLF001 - a copy of this store
            yield store

    def register_pipeline(self, identity: LedgerIdentity) -> None:
        """Enter this pipeline, with its ledger, in the registry. Raises PipelineRefused."""
        arguments = [self.prefix_text, identity.key, identity.place]
        outcome, *rest = self.run_script(REGISTER, self.names.registration_keys(), arguments)
        if outcome < 0:
            raise refusal(self.prefix_text, identity, *rest)

    def begin(
        self, run_id: str, last: LastFlush, ledger: LedgerIdentity, seen_timeline: str | None = None
    ) -> tuple[bool, Marker]:
        """Write the run's id, create the marker at `last` if there is none; return whether it is new, and the marker.

        Also write the timeline of `last`, if the marker has that of `seen_timeline`, which was read before `last` was.
        If the marker that is returned has another one, read the last flush again (rule R17).

        It counts as new until a run has confirmed that this is `reported`: the run that created it may have died
        before. Raises PipelineRefused if this ledger must not settle these counters, RedisRefusesWrites if Redis cannot
        write now (rule R11), MarkerUnreadable if the hash holds something else.
        """
        keys = [self.names.marker, *self.names.registration_keys()]
        at: list[str | int] = [last.seq, last.batches, str(last.flush_id or ""), uuid4().hex]
        seen = "" if seen_timeline is None else f"={seen_timeline}"
        arguments = [run_id, *at, self.prefix_text, ledger.key, ledger.place, last.timeline, seen]
        made, *fields = self.run_script(BEGIN, keys, arguments)
        if made < 0:
            raise refusal(self.prefix_text, ledger, *fields)
        marker = parse_marker(fields)
        if marker is None:
            raise MarkerUnreadable(f"{self.names.marker}: {fields!r}; delete the key if nothing else uses it")
        return bool(made), marker

    def wait_until_reads_durable(self, run_id: str, marker: Marker, clear_unreported: bool = False) -> Marker | None:
        """Write the run's id again, and wait until that, and so everything read before, is durable (rule R7).

        `clear_unreported`: it is recorded that the marker is new, so no later run need report it. Returns the current
        marker; if its epoch or ledger differs from `marker`, nothing was written. Raises RedisRefusesWrites (rule R11)
        and NotDurable: then nothing may be committed.
        """
        arguments: list[str | int] = [run_id, marker.ledger, marker.epoch, int(clear_unreported)]
        fields = self.run_script(CONFIRM, [self.names.marker], arguments)
        self.durability.wait_until_durable(self._client, self.url)
        return parse_marker(fields)

    def marker(self) -> Marker | None:
        """Return the marker; None if there is none. Raises PipelineRefused for a marker of version 0.1.0."""
        form, old, *fields = self.hash_fields(self.names.marker, ("format", "seq", *MARKER_FIELDS))
        if old is not None and form is None:
            raise refusal(self.prefix_text, NO_LEDGER, b"old", b"")
        return parse_marker(fields)

    def has_hold(self, marker: Marker | None) -> bool:
        """Whether views that are read now may have been counted before, and are held (rule R16)."""
        return bool(marker and marker.hold)

    def find_unsettled(self, newest: FlushRow, flushes: Sequence[Flush]) -> list[str]:  # noqa: ARG002 - of a cluster
        """Return why Redis is not settled through the newest of these flushes, in words; nothing if it is."""
        marker = self.marker()
        if marker is not None and (marker.seq, marker.batch) >= (newest.seq, newest.batches):
            return []
        return [f"marker {marker}, flush {newest.seq} has {pluralize(newest.batches, 'batch')}"]

    def settle(self, marker: Marker, batches: Sequence[Batch]) -> Settled:
        """Subtract these batches, the first of which follows `marker`, each once and in order.

        A batch that was subtracted before is skipped. Stops at the first that is refused.
        """
        at: Marker | None = marker
        already, drift, drifted = 0, 0, list[bytes]()
        for group in chunks(batches, PIPELINE_SCRIPTS):
            for outcome, missing, *rest in self._send_settle_scripts(marker, group):
                at = parse_marker(rest[: len(MARKER_FIELDS)])
                already += outcome == 0
                drift += int(missing)
                drifted += rest[len(MARKER_FIELDS) :]
                if outcome == -1:
                    return Settled(at, True, already, drift, drifted)
            marker = marker.at(group[-1])
        return Settled(at, False, already, drift, drifted)

    def _send_settle_scripts(self, marker: Marker, batches: Sequence[Batch]) -> list[list[Any]]:
        with redis_errors(self.url), self._client.pipeline(transaction=False) as pipe:
            pipe.script_load(SETTLE.source)
            for batch in batches:
                keys = [self.names.marker, self.names.changed, *(self.prefix_text + vod_id for vod_id in batch.vod_ids)]
                pipe.evalsha(SETTLE.sha, len(keys), *keys, *self._settle_arguments(marker, batch))
                marker = marker.at(batch)
            return list(pipe.execute()[1:])

    def _settle_arguments(self, marker: Marker, batch: Batch) -> list[str | int]:
        before = (marker.seq, marker.batch, marker.epoch, marker.ledger)
        taken_ms = int(batch.taken_at.timestamp() * 1000)
        deltas = " ".join(map(str, batch.deltas))
        missing = "{} {}".format(*marker.missing_flushes) if marker.missing_flushes != NONE_MISSING else ""
        at: list[str | int] = [*batch[:3], batch.flush_id, *before, taken_ms, len(self.prefix)]
        return [*at, deltas, missing, marker.timeline, hold_after(batch)]

    def _announcement(self) -> tuple[int, dict[str, bool]]:
        """Return the time (ms) of an announcement, and the option of ZADD: VODs that are in the set keep their time."""
        return time.time_ns() // 1_000_000, {"nx": True}

    def add_to_changed_set(self, vod_ids: Iterable[str | bytes]) -> int:
        """Add VODs to the changed set, announced now, and return how many were not in it."""
        (now_ms, option), added = self._announcement(), 0
        for page in chunks(vod_ids, SCAN_COUNT):
            with redis_errors(self.url):
                try:
                    times: Any = dict.fromkeys(page, now_ms)
                    new: Any = self._client.zadd(self.names.changed, times, **option)
                except redis.ResponseError as error:
                    if not str(error).startswith("WRONGTYPE"):
                        raise
                    return 0  # another program took the name: sweeps find all counters
            added += new
        return added

    def announce(self, vod_ids: Sequence[str]) -> int:
        """Add VODs to the changed sets of their parts, and return how many were in none."""
        by_part = self.layout.split([vod_id.encode() for vod_id in vod_ids], self.parts)
        return sum(part.add_to_changed_set(ids) for part, ids in zip(self.of_each_part(), by_part, strict=True))

    def delete_changed_set(self) -> None:
        """Delete the changed set: sweeps find all counters."""
        with redis_errors(self.url):
            self._client.delete(self.names.changed)

    def remove_from_changed_set(self, ledger: str, idle: Iterable[bytes], rejected: Iterable[bytes]) -> None:
        """Remove ids from the changed set: idle ones if they are still idle, rejected ones in any case."""
        for ids, in_any_case in ((idle, 0), (rejected, 1)):
            for page in chunks(ids, READ_COUNT):
                keys: list[str | bytes] = [self.names.marker, self.names.changed]
                keys += [self.prefix + raw for raw in page]
                self.run_script(DISCARD, keys, [ledger, len(self.prefix), in_any_case])

    def request_sweep(self, reason: str) -> None:
        """Request a sweep of this stream of the sensor at its next tick: announcements may have been missed."""
        self.write_subscriber_field(self.layout.sweep_field, f"{time.time_ns()} {reason}".encode())

    def request_sweeps(self, reason: str) -> None:
        """Request a sweep of every stream."""
        for part in self.of_each_part():
            part.request_sweep(reason)

    def write_subscriber_field(self, field: str, value: bytes) -> None:
        """Set a field of the subscriber's hash."""
        with redis_errors(self.url):
            self._client.hset(self.names.subscriber, field, value)

    def request_sweep_unless_requested(self, reason: str) -> None:
        """Request a sweep, unless one is requested already: a newer request is not fulfilled by a sweep under way."""
        with redis_errors(self.url):
            self._client.hsetnx(self.names.subscriber, self.layout.sweep_field, f"{time.time_ns()} {reason}")

    def advance_sweep(self, part: SweepPart) -> bool:
        """Store that this part is committed and settled; return False if another run has moved the position since.

        After the last part, remove the request that the pass fulfils; a newer one stays. Remove `hold` of the marker as
        well, if it is the same as when the pass began (rule R16).
        """
        begin, end = part.begin, b"" if part.is_last else part.end.encode()
        arguments: list[str | bytes | int] = [begin.ledger, begin.epoch, part.stored, end, begin.request, begin.hold]
        arguments += [self.layout.sweep_field, self.layout.sweep_position_field]
        return bool(self.run_script(ADVANCE_SWEEP, [self.names.subscriber, self.names.marker], arguments))

    def add_views(self, vod_id: str, views: int) -> None:
        """Raise a counter as a producer does. Not to be repeated: it may have been raised although it raises."""
        with redis_errors(self.url):
            self._client.incrby(self.prefix_text + vod_id, views)

    def publish_totals(self, messages: Iterable[bytes]) -> None:
        """Publish on the channel of totals, in order. Although it raises, messages may go out, and twice."""
        for page in chunks(messages, PIPELINE_MESSAGES):
            with redis_errors(self.url), self._client.pipeline(transaction=False) as pipe:
                for message in page:
                    pipe.publish(self.totals_channel, message)
                pipe.execute()

    def require_writes(self) -> None:
        """Send a write that changes nothing: ZADD with XX of a member that is missing.

        Raises RedisRefusesWrites if Redis refuses it.
        """
        with redis_errors(self.url):
            try:
                self._client.zadd(self.names.changed, {"": 0}, xx=True)
            except redis.ResponseError as error:
                if not str(error).startswith("WRONGTYPE"):  # another program uses the name, and writes are accepted
                    raise

    def run_script(self, script: Script, keys: Sequence[str | bytes], arguments: Sequence[str | bytes | int]) -> Any:
        """Run a script on this Redis and return its reply."""
        with redis_errors(self.url):
            return script.run(self._client, keys, arguments)


def hold_after(batch: Batch) -> str:
    """Return what `hold` of a marker becomes at this batch; empty if it stays."""
    return f"{batch.seq}.{batch.number}.{uuid4().hex}" if batch.holds else ""  # unique: a copy may bring it back
