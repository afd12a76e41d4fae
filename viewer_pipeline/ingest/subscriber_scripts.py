"""The scripts that write what a worker received: each segment of the channel is folded once, by the lease's holder.

Redis delivers the messages of one connection in the order in which they were published. A cut is a message too, on a
channel of ours: so all workers cut the messages at the same places, and a segment, the messages between two cuts, holds
the same messages for each of them. Its number is all that the folding script needs to count it once, whether the client
sends the script twice or two workers run it. The lease only decides which worker does the work.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple
from uuid import uuid4

from viewer_pipeline.errors import TransientError
from viewer_pipeline.flush.ledger_identity import NO_LEDGER, LedgerIdentity
from viewer_pipeline.flush.pipeline_refusal import refusal
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.ingest.segment_buffer import Cut
from viewer_pipeline.redis_names import presence_channel
from viewer_pipeline.stores.chunks import chunks
from viewer_pipeline.stores.redis import Script

REFUSED, LEDGER_UNKNOWN, ELSEWHERE = -2, -3, -4  # outcomes of the lease
PART_COUNTERS = 500  # counters in one script: holds Redis for about 1 ms

CUT = Script.load("ingest/single_node", "ingest/cut")
FOLD = Script.load("ingest/segment_part", "ingest/fold")
KEY_SPACE = Script.load("flush/claim", "ingest/key_space")
LEASE = Script.load("flush/claim", "ingest/single_node", "ingest/lease")

Part = list[tuple[str, int]]


class LeaseLost(Exception):
    """Another worker holds the lease."""


class KeySpaceChanged(Exception):
    """The key space in Redis has another id."""


class SubscribedElsewhere(Exception):
    """The subscription is at another node of the cluster than the lease."""


class LedgerUnknown(TransientError):
    """PostgreSQL has not answered yet, so it is not known whether these counters belong to its ledger"""


@dataclass(frozen=True)
class LeaseRequest:
    """An attempt to acquire or renew the lease, with what the worker knows."""

    key_space: str
    fencing_token: str
    worker: str  # for people
    term: int = 0  # the newest one that it knows: older attempts are refused
    complete_after: int | None = None  # it received all of every segment above this number; None: no cut yet
    last_message_ms: int = 0  # when it received its last message; 0: never
    empty_through: int = 0  # as the holder, it has nothing to fold up to this number
    ledger: LedgerIdentity = NO_LEDGER  # with an empty id while PostgreSQL has not answered
    node: str = ""  # of a cluster, at which it is subscribed; empty while it is not


class LeaseResult(NamedTuple):
    """What an attempt led to. `held_by_other` also where the lease is free, but another worker's term comes first."""

    outcome: Literal["held_by_other", "acquired", "renewed"]
    folded: int  # the last folded segment
    term: int  # the newest one
    ledger: str  # as Redis knows it; cuts and folds name it


class FoldResult(NamedTuple):
    """The outcome of folding a segment."""

    written: bool  # False: every part of it was written before
    refused: dict[str, str]  # ids whose counter cannot be raised, with Redis's reason


class SubscriberScripts:
    """Lease, cuts and folds of one pipeline in a single Redis."""

    _cut, _lease = CUT, LEASE

    def __init__(self, store: RedisStore, *, increment: bool) -> None:
        self._store, self._increment = store, increment
        self._names, self._prefix = store.names, store.prefix_text
        self._changed_sets = [part.names.changed for part in store.of_each_part()]
        self._ledger = ""  # the ledger that the lease was acquired for
        self.published = Cut(0, 0)  # the last cut of this worker

    def read_or_create_key_space_id(self, previous_id: str = "") -> str:
        """Return the id of this key space, the same for all its workers; create it if there is none.

        Pub/sub does not know databases, and others may publish on a name that they can guess. `previous_id` is the id
        that a key space without one (it was emptied) had before. Raises PipelineRefused for one of version 0.1.0.
        """
        key_space, *refused = self._run(KEY_SPACE, [previous_id or uuid4().hex])
        if refused:
            raise refusal(self._prefix, NO_LEDGER, *refused)
        return bytes(key_space).decode()

    def count_subscribed_workers(self, key_space: str) -> int:
        """Return how many connections are subscribed to the cuts."""
        return self._store.subscriber_counts(self._names.cuts_channel(key_space))[0]

    def count_workers_of_other_pipelines(self, key_space: str, channel: str) -> int:
        """Return how many workers of other pipelines count the messages of a channel, in any Redis database."""
        counts = self._store.subscriber_counts(presence_channel(channel), self._names.cuts_channel(key_space))
        return max(0, counts[0] - counts[1])

    def acquire_or_renew_lease(self, request: LeaseRequest, lease_ms: int, grace_ms: int) -> LeaseResult:
        """Acquire the lease if it is free or over, or renew it.

        A worker that has not received all that is left to fold waits for `grace_ms` longer, if there are others.
        Raises KeySpaceChanged, LedgerUnknown, SubscribedElsewhere; PipelineRefused where these counters are not this
        ledger's.
        """
        ledger = request.ledger
        arguments: list[str | int] = [
            request.fencing_token,
            lease_ms,
            request.worker,
            request.last_message_ms,
            self._names.cuts_channel(request.key_space),
            request.key_space,
            request.term,
            "" if request.complete_after is None else request.complete_after,
            grace_ms,
            request.empty_through,
            self._prefix,
            ledger.key if ledger.ledger_id else "",
            ledger.place,
            request.node,
        ]
        outcome, *rest = self._run(self._lease, arguments, [self._names.subscriber, *self._names.registration_keys()])
        if outcome == REFUSED:
            raise refusal(self._prefix, ledger, *rest)
        if outcome == LEDGER_UNKNOWN:
            raise LedgerUnknown(f"the counters {self._prefix}* and the database {ledger.place}")
        if outcome == ELSEWHERE:
            raise SubscribedElsewhere
        if outcome < 0:
            raise KeySpaceChanged
        folded, term, known = rest
        self._ledger = bytes(known).decode()
        return LeaseResult(("held_by_other", "acquired", "renewed")[outcome], int(folded), int(term), self._ledger)

    def release_lease(self, fencing_token: str, key_space: str) -> None:
        """Release the lease, and notify the workers that stand by."""
        self._run(self._lease, [fencing_token, 0, "", 0, self._names.cuts_channel(key_space)])

    def publish_cut(self, key_space: str, fencing_token: str, last_cut: int, node: str = "") -> int:
        """End the open segment; return the number of the cut, which every worker receives. `published` is the cut.

        `last_cut` is the number of the last cut that this worker received, `node` that of its subscription, as of the
        lease. Raises LeaseLost, KeySpaceChanged, SubscribedElsewhere.
        """
        channel = self._names.cuts_channel(key_space)
        reply = self._run(self._cut, [key_space, channel, fencing_token, self._ledger, last_cut, node])
        if reply == 0:
            raise LeaseLost
        if reply == ELSEWHERE:
            raise SubscribedElsewhere
        cut = None if isinstance(reply, int) else Cut.parse(bytes(reply))
        if cut is None:
            raise KeySpaceChanged
        self.published = cut
        return cut.number

    def fold_segment(self, fencing_token: str, segment: int, views: Counter[str], now_ms: int) -> FoldResult:
        """Raise the counters (where messages carry the views) and mark the VODs changed, once per segment.

        Raises LeaseLost; parts that were written by then stay written, and no worker writes them again.
        """
        parts = split_into_parts(views)
        written, refused, number = False, dict[str, str](), 0
        while number < len(parts):
            outcome, *rest = self._fold_part(fencing_token, segment, number + 1, parts, now_ms)
            if outcome == -1:
                raise LeaseLost
            if outcome == -2:
                parts, number = split_by_id_hash(views, rest[0]), 0
                continue
            written |= outcome == 1
            part = parts[number]
            refused |= {part[at - 1][0]: str(error, "utf-8", "replace") for at, error in chunks(rest, 2)}
            number += 1
        return FoldResult(written, refused)

    def _fold_part(self, fencing_token: str, segment: int, number: int, parts: list[Part], now_ms: int) -> list[Any]:
        part = parts[number - 1]
        ids = [vod_id for vod_id, _ in part]
        keys = [self._names.subscriber, *self._changed_sets, *(self._prefix + vod_id for vod_id in ids)]
        counts = " ".join(str(count) for _, count in part)
        mode, length = int(self._increment), len(self._prefix.encode())
        place: list[str | int] = [fencing_token, segment, number, len(parts), now_ms, mode, length]
        sets: list[str | int] = [len(self._changed_sets), self._set_numbers(ids)]
        return list(self._run(FOLD, [*place, counts, self._ledger, *sets], keys))

    def _set_numbers(self, ids: Sequence[str]) -> str:
        """Return which of the changed sets each VOD belongs to, separated by blanks; empty if there is one."""
        sets = len(self._changed_sets)
        numbers = self._store.layout.parts_of([vod_id.encode() for vod_id in ids], sets) if sets > 1 else []
        return " ".join(map(str, numbers))

    def _run(self, script: Script, arguments: Sequence[str | int], keys: Sequence[str] = ()) -> Any:
        return self._store.run_script(script, keys or [self._names.subscriber], arguments)


def split_into_parts(views: Counter[str]) -> list[Part]:
    """Return the parts of a segment, of about PART_COUNTERS each; one at least."""
    return split_by_id_hash(views, -(-len(views) // PART_COUNTERS) or 1)


def split_by_id_hash(views: Counter[str], part_count: int) -> list[Part]:
    """Return the parts of a segment, each written by one script, in order; a part may be empty.

    By a hash of the id: two workers that received a segment differently still put an id into the same part.
    """
    parts: list[Part] = [[] for _ in range(part_count)]
    for vod_id, vod_views in views.items():
        parts[zlib.crc32(vod_id.encode()) % part_count].append((vod_id, vod_views))
    return parts
