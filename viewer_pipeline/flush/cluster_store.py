"""One pipeline's Redis in cluster mode: each shard has a marker of its own, and all else is in the home slot.

What belongs to no shard (changed set, lease, registry, position of a sweep) is used as on a single Redis, over a client
of the node that serves the home slot. The marker of the home slot stands for the pipeline: its ledger and its epoch.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import uuid4

import redis

from viewer_pipeline.errors import MarkerUnreadable, RedisFailed
from viewer_pipeline.flush.cluster_counters import ClusterCounters, require_values
from viewer_pipeline.flush.ledger_identity import LedgerIdentity
from viewer_pipeline.flush.ledger_row_types import Batch, Flush, FlushRow, LastFlush
from viewer_pipeline.flush.marker import MARKER_FIELDS, Marker, parse_marker
from viewer_pipeline.flush.pipeline_refusal import refusal
from viewer_pipeline.flush.redis_store import RedisStore, hold_after
from viewer_pipeline.flush.sweep_position import SweepPart
from viewer_pipeline.layout import key_slot, slot_of_shard
from viewer_pipeline.logs import event
from viewer_pipeline.stores.chunks import chunks
from viewer_pipeline.stores.cluster_map import Address
from viewer_pipeline.stores.cluster_nodes import LOST, REDIRECTIONS, Command, Reply, ScriptCall
from viewer_pipeline.stores.grouped_scripts import GroupedScript, ScriptGroups, SlotCall
from viewer_pipeline.stores.redis import Script, as_ours, as_text, redis_errors

log = logging.getLogger("viewer_pipeline.cluster")

DRAIN = Script.load("flush/claim", "flush/marker", "flush/drain", "flush/one_shard")
DRAIN_EACH = Script.load("flush/claim", "flush/marker", "flush/drain", "flush/each_shard")
SETTLE_SHARD = Script.load("flush/one_slot", "flush/marker", "flush/settle", "flush/one_shard")
SETTLE_EACH = Script.load("flush/one_slot", "flush/marker", "flush/settle", "flush/each_shard")
DRAIN_GROUPED = GroupedScript(DRAIN, DRAIN_EACH, own=(5, 9))  # epoch, and the timeline that was seen
SETTLE_GROUPED = GroupedScript(SETTLE_SHARD, SETTLE_EACH, own=(2, 5, 6, 11, 14))  # batch, marker, deltas, hold
PREPARED = Script.load("flush/prepared")
CLEAR_HOLD = Script.load("flush/clear_hold")
HOLD_OF = b"hold:"  # fields of the home marker, by shard
HOLD_FIELD = MARKER_FIELDS.index("hold")
DRAIN_COUNT = 500  # counters of a shard in one call
PAGE_SIZE = 2_000  # settling scripts in memory


_Common = dict[tuple[object, ...], tuple[str | int, ...]]  # arguments of settling, by what they follow from


class BeginOfDrain(NamedTuple):
    """The run, and the end of the ledger at which markers are made that are missing.

    epoch: of these markers. A shard may lose one again before the next read, which therefore has another.
    """

    run_id: str
    last: LastFlush
    ledger: LedgerIdentity  # as the registry has it
    epoch: str


class ShardReading(NamedTuple):
    """What a script has read in one shard at one moment. `raw_values[i]`: of `ids[i]`."""

    marker: Marker
    is_new: bool  # whether the script made the marker
    node: Address  # that was read
    ids: list[bytes]
    raw_values: list[bytes | None]


class DrainedShards(NamedTuple):
    """The shards that answered, and why the others did not."""

    readings: dict[int, ShardReading]
    excluded: dict[int, str]


class SettledShards(NamedTuple):
    """The result of settling: where each marker stands now.

    `refused`: shards whose marker was elsewhere than expected, with that marker (None: gone). `unreached`: shards that
    did not answer, with the reason.
    """

    markers: dict[int, Marker]
    refused: dict[int, Marker | None]
    unreached: dict[int, str]
    already: int
    drift: int
    drifted: list[bytes]


class ClusterStore(ClusterCounters):
    """The counters, the changed set and the markers of one pipeline in a Redis Cluster."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._groups = ScriptGroups()  # shared by copies

    def delete_shard_markers(self) -> None:
        """Delete the markers of the stream. Raises RedisUnavailable if a node is out of reach; repeat it then."""
        commands = [
            Command(slot_of_shard(shard), ("DEL", self.layout.marker_key(shard))) for shard in self.layout.shards
        ]
        with redis_errors(self.url):
            require_values(self.nodes.run_following(commands))

    def _delete_keys(self, keys: Sequence[bytes]) -> None:
        require_values(self.nodes.run_following([Command(key_slot(key), ("DEL", key)) for key in keys]))

    def drain_shards(
        self, ids: Mapping[int, Sequence[bytes]], begin: BeginOfDrain, seen_timelines: Mapping[int, str]
    ) -> DrainedShards:
        """Read the counters of these ids by shard, each with its marker as of the same moment (rule R12).

        `seen_timelines`: of markers, as they were seen before the end of the ledger was read. Follows no redirection: a
        shard that does not answer, or whose marker moved between two calls, is excluded (rule R13). Raises
        PipelineRefused, MarkerUnreadable.
        """
        run_id, last, ledger, epoch = begin
        calls, shards, pages = list[SlotCall](), list[int](), list[tuple[bytes, ...]]()
        arguments = (
            run_id,
            last.seq,
            last.batches,
            str(last.flush_id or ""),
            epoch,
            ledger.key,
            ledger.place,
            last.timeline,
            "",
        )
        for shard, raws in ids.items():
            seen = f"={seen_timelines[shard]}" if shard in seen_timelines else ""
            marker_key = self.layout.marker_key(shard)
            for number, page in enumerate(chunks(raws, DRAIN_COUNT) if raws else [()]):
                keys: list[str | bytes] = [marker_key, *(self.prefix + raw for raw in page)]
                name = f"{epoch}-{number}" if number else epoch  # for each call: the shard may be emptied between two
                own, alone = (name, seen), (f"{name}-alone", seen)
                calls.append(SlotCall(slot_of_shard(shard), keys, arguments, own, alone))
                shards.append(shard)
                pages.append(page)
        readings, excluded = dict[int, ShardReading](), dict[int, str]()
        owners = self.nodes.map.owners()
        replies = self._groups.run(self.nodes, DRAIN_GROUPED, calls, following=False)
        for shard, page, reply in zip(shards, pages, replies, strict=True):
            if isinstance(reply, redis.RedisError):
                excluded[shard] = _exclusion(reply, self.url)
                continue
            made, *fields = reply
            if made < 0:
                raise refusal(self.prefix_text, ledger, *fields)
            if (reading := readings.get(shard)) is None:
                reading = self._begin_reading(shard, fields, owners, is_new=bool(made))
            elif reading.marker != parse_marker(fields[: len(MARKER_FIELDS)]):
                excluded[shard] = "another run settled it during the read"
            reading.ids.extend(page)
            reading.raw_values.extend(fields[len(MARKER_FIELDS) :])
            readings[shard] = reading
        for shard in excluded:
            readings.pop(shard, None)
        return DrainedShards(readings, excluded)

    def _begin_reading(
        self, shard: int, fields: Sequence[bytes | None], owners: Sequence[Address | None], *, is_new: bool
    ) -> ShardReading:
        marker = parse_marker(fields[: len(MARKER_FIELDS)])
        if marker is None:
            key = self.layout.marker_key(shard)
            raise MarkerUnreadable(f"{key}: {fields!r}; delete the key if nothing else uses it")
        node = owners[slot_of_shard(shard)]
        assert node is not None  # it has replied
        return ShardReading(marker, is_new, node, [], [])

    def prepared(self) -> tuple[str, int]:
        """Return the timeline for which all shards have a marker, and the highest number that any of them had then."""
        timeline, floor = self.hash_fields(self.names.marker, ("prepared", "floor"))
        return as_text(timeline), int(floor or 0)

    def set_prepared(self, timeline: str, floor: int) -> None:
        """Record that all shards have a marker with this timeline, and the highest number that any of them has."""
        self.run_script(PREPARED, [self.names.marker], [timeline, floor])

    def find_unsettled(self, newest: FlushRow, flushes: Sequence[Flush]) -> list[str]:  # noqa: ARG002 - of one marker
        """Return the shards whose marker stands before their last batch of these flushes, in words."""
        last = {batch.shard: batch for flush in flushes for batch in flush.batches}
        failing = list[str]()
        for shard, reply in self._query_markers(last).items():
            if isinstance(reply, redis.RedisError):
                failing.append(f"shard {shard}: {_exclusion(reply, self.url)}")
                continue
            marker = parse_marker(reply)
            if marker is None or marker[:2] < (last[shard].seq, last[shard].number):
                failing.append(
                    f"shard {shard}: marker {marker}, flush {last[shard].seq} has batch {last[shard].number}"
                )
        return failing

    def shard_markers(self, shards: Iterable[int] | None = None) -> dict[int, Marker | None]:
        """Return the markers of these shards, or of all; None where there is none. Raises RedisUnavailable."""
        replies = self._query_markers(self.layout.shards if shards is None else shards)
        with redis_errors(self.url):
            require_values(list(replies.values()))
        return {shard: parse_marker(fields) for shard, fields in replies.items()}

    def readable_markers(self, shards: Iterable[int]) -> dict[int, Marker]:
        """Return the markers of these shards, as far as there are any and their nodes answer."""
        markers = dict[int, Marker]()
        for shard, reply in self._query_markers(shards).items():
            if not isinstance(reply, redis.RedisError) and (marker := parse_marker(reply)) is not None:
                markers[shard] = marker
        return markers

    def _query_markers(self, shards: Iterable[int]) -> dict[int, Reply]:
        wanted = list(shards)
        commands = [
            Command(slot_of_shard(shard), ("HMGET", self.layout.marker_key(shard), *MARKER_FIELDS)) for shard in wanted
        ]
        return dict(zip(wanted, self.nodes.run_following(commands), strict=True))

    def wait_until_shards_durable(self, readings: Mapping[int, ShardReading]) -> dict[int, str]:
        """Wait at each node that was read from until what was read there is durable (rule R7).

        Returns the shards of nodes whose connection broke since, with the reason: nobody knows whether what was read
        there will last. Raises NotDurable on a time-out.
        """
        if not self.durability.required:
            return {}
        broken = {node: self._wait_at(node) for node in {reading.node for reading in readings.values()}}
        return {shard: reason for shard, reading in readings.items() if (reason := broken[reading.node])}

    def _wait_at(self, node: Address) -> str:
        """Return why the connection broke; empty once all is durable that was read over it."""
        for wait in self.durability.waits():
            (reply,) = self.nodes.run_at(node, wait.command)
            if isinstance(reply, LOST):
                return str(reply)
            with redis_errors(self.url):
                (reply,) = require_values([reply])
            self.durability.require_acknowledgement(wait, reply, f"{node[0]}:{node[1]}")
        return ""

    def settle_shards(self, markers: Mapping[int, Marker], batches: Sequence[Batch]) -> SettledShards:
        """Subtract these batches, of each shard the first of which follows its marker, each once and in order.

        Follows redirections, and repeats what got lost: the script is safe to repeat.
        """
        result = SettledShards(dict(markers), {}, {}, 0, 0, [])
        already = drift = 0
        by_shard = dict[int, list[Batch]]()
        for batch in batches:
            by_shard.setdefault(batch.shard, []).append(batch)
        common = _Common()
        rounds = max(map(len, by_shard.values()), default=0)
        for number in range(rounds):  # a batch of a shard is sent once the one before it is settled (rule R5)
            due = [
                listed[number]
                for shard, listed in by_shard.items()
                if number < len(listed) and shard not in result.refused and shard not in result.unreached
            ]
            for page in chunks(due, PAGE_SIZE):
                calls = [self._settle_call(result.markers[batch.shard], batch, common) for batch in page]
                replies = self._groups.run(self.nodes, SETTLE_GROUPED, calls, following=True)
                for batch, reply in zip(page, replies, strict=True):
                    if isinstance(reply, (*LOST, *REDIRECTIONS)):
                        result.unreached[batch.shard] = _exclusion(reply, self.url)
                        continue
                    if isinstance(reply, redis.RedisError):
                        raise as_ours(reply, self.url) from reply
                    outcome, missing, *rest = reply
                    if outcome == -1:
                        result.refused[batch.shard] = parse_marker(rest[: len(MARKER_FIELDS)])
                        continue
                    hold = as_text(rest[HOLD_FIELD]) if rest[HOLD_FIELD] else ""
                    result.markers[batch.shard] = result.markers[batch.shard].at(batch, hold)
                    already += outcome == 0
                    drift += int(missing)
                    result.drifted.extend(rest[len(MARKER_FIELDS) :])
        return result._replace(already=already, drift=drift)

    def _settle_call(self, marker: Marker, batch: Batch, common: _Common) -> SlotCall:
        """`common`: the arguments of earlier calls, for those that have the same."""
        prefix = self.prefix_text
        keys = [self.layout.marker_key(batch.shard), *[prefix + vod_id for vod_id in batch.vod_ids]]
        of = (batch.flush_id, batch.of, marker.epoch, marker.ledger, marker.missing_flushes, marker.timeline)
        if (arguments := common.get(of)) is None:
            arguments = common[of] = tuple(self._settle_arguments(marker, batch))
        own = (batch.number, marker.seq, marker.batch, " ".join(map(str, batch.deltas)), hold_after(batch))
        return SlotCall(slot_of_shard(batch.shard), keys, arguments, own)

    def holds(self) -> dict[int, str]:
        """Return, for each shard whose marker was seen with `hold`, its epoch and that, separated by a blank."""
        with redis_errors(self.url):
            fields: Any = self._client.hgetall(self.names.marker)
        return {
            int(name.removeprefix(HOLD_OF)): as_text(value)
            for name, value in fields.items()
            if name.startswith(HOLD_OF)
        }

    def has_hold(self, marker: Marker | None) -> bool:  # noqa: ARG002 - of the home slot
        """Whether the marker of any shard was seen with `hold`."""
        return bool(self.holds())

    def record_holds(self, markers: Mapping[int, Marker]) -> None:
        """Record which of these markers have `hold`, so that the end of a sweep that begins later removes it."""
        fields: Any = {
            HOLD_OF + str(shard).encode(): hold_of(marker) for shard, marker in markers.items() if marker.hold
        }
        if fields:
            with redis_errors(self.url):
                self._client.hset(self.names.marker, mapping=fields)

    def _clear_holds(self, ledger: str, holds: Mapping[int, str]) -> None:
        calls = [
            ScriptCall(slot_of_shard(shard), [self.layout.marker_key(shard)], [ledger, *seen.split(" ", 1)])
            for shard, seen in holds.items()
        ]
        for shard, reply in zip(holds, self.nodes.run_script_following(CLEAR_HOLD, calls), strict=True):
            if isinstance(reply, redis.RedisError):
                log.warning(event("hold_not_cleared", shard=shard, reason=reply))
                continue
            with redis_errors(self.url):
                self._client.hdel(self.names.marker, HOLD_OF + str(shard).encode())

    def advance_sweep(self, part: SweepPart) -> bool:
        """As on a single Redis; after the last part, remove `hold` of each marker that had it when the pass began."""
        holds = self.holds() if part.is_last and part.begin.hold else {}
        stored = super().advance_sweep(part._replace(begin=part.begin._replace(hold="")))
        if holds and holds_digest(holds) == part.begin.hold:
            self._clear_holds(part.begin.ledger, holds)
        return stored


def as_cluster(store: RedisStore) -> ClusterStore:
    """Return the store of a cluster as such. Called only where the layout is that of a cluster."""
    if not isinstance(store, ClusterStore):
        raise TypeError("a single Redis has no shards")
    return store


def hold_of(marker: Marker) -> str:
    """Return the epoch and `hold` of a marker, separated by a blank."""
    return f"{marker.epoch} {marker.hold}"


def holds_digest(holds: Mapping[int, str]) -> str:
    """Return a name for the `hold` of all shards; empty if none has it."""
    return hashlib.sha256(repr(sorted(holds.items())).encode()).hexdigest()[:32] if holds else ""


def new_epoch() -> str:
    """Return a name for markers that are made now."""
    return uuid4().hex


def _exclusion(error: redis.RedisError, url: str) -> str:
    """Return why a shard is left to the next run. Raises what no later run would overcome."""
    ours = as_ours(error, url)
    if not isinstance(error, (*LOST, *REDIRECTIONS)) and isinstance(ours, RedisFailed):
        raise ours from error
    return str(ours)
