"""Segments of the channel, folded into counters and changed set, each once, by whoever holds the lease.

Redis delivers the messages of one connection in the order in which they were published. A cut is a message too, on a
channel of ours: so all subscribers cut the buffer at the same places, and a segment, the messages between two cuts,
holds the same messages for each of them. Its number is all that the folding script needs to count it once, whether
the client sends the script twice or two subscribers are at work. The lease says whose turn it is.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple
from uuid import uuid4

import redis

from viewer_pipeline.errors import TransientError
from viewer_pipeline.flush.identity import NO_LEDGER, LedgerIdentity
from viewer_pipeline.flush.pipeline_refusal import refusal
from viewer_pipeline.redis_names import RedisNames, presence_channel
from viewer_pipeline.stores.chunks import chunks
from viewer_pipeline.stores.redis import Script, redis_errors

REFUSED, LEDGER_UNKNOWN = -2, -3  # outcomes of the lease
FOLD_COUNTERS = 500  # counters in one script: holds Redis for about 1 ms

CUT, FOLD, KEY_SPACE = map(Script.load, ("ingest/cut", "ingest/fold", "ingest/key_space"))
LEASE = Script.load("flush/claim", "ingest/lease")


class NotHolder(Exception):
    """Another subscriber holds the lease."""


class OtherKeySpace(Exception):
    """The key space has another id than the one whose cuts this subscriber hears."""


class LedgerNotKnown(TransientError):
    """PostgreSQL has not answered yet, so it is not known whether these counters belong to its ledger"""


class LeaseResult(NamedTuple):
    """What became of an attempt: `kept`, `taken`, or not taken: another holds it, or another's term comes first."""

    outcome: Literal["held_by_other", "acquired", "renewed"]
    folded: int  # the last folded segment
    term: int  # how many there were, this one included
    ledger: str  # as Redis knows it; cuts and folds name it


@dataclass(frozen=True)
class LeaseRequest:
    """Who asks for the lease, and what it knows."""

    key_space: str
    token: str
    who: str  # for people
    term: int = 0  # how many there were, as far as it knows: older attempts are refused
    complete_after: int | None = None  # it heard every segment above this number whole; None: no number yet
    last_message_ms: int = 0  # when it heard its last message; 0: never
    done: int = 0  # as the holder, it has nothing to fold up to this number
    ledger: LedgerIdentity = NO_LEDGER  # with an empty id while PostgreSQL has not answered


@dataclass(frozen=True)
class FoldResult:
    """What became of a segment."""

    written: bool  # False: every part of it was written before
    refused: dict[str, str]  # ids whose counter cannot be raised, with Redis's reason


class FoldStore:
    """LeaseResult, cuts and folds in one Redis."""

    def __init__(self, client: redis.Redis, url: str, prefix: str, *, increment: bool) -> None:
        self._client, self._url, self._prefix, self._increment = client, url, prefix, increment
        self._names = RedisNames.of(prefix)
        self._ledger = ""  # what the lease was taken for

    def key_space(self, known: str = "") -> str:
        """Return the id of this key space, the same for all its subscribers.

        Pub/sub does not know databases, and others may publish on a name that they can guess. `known` is the id that
        a key space without one (it was emptied) had before. Raises PipelineRefused for one of version 0.1.0.
        """
        answer, *refused = self._run(KEY_SPACE, [known or uuid4().hex])
        if refused:
            raise refusal(self._prefix, NO_LEDGER, *refused)
        return bytes(answer).decode()

    def subscriber_count(self, key_space: str) -> int:
        """Return how many connections are subscribed to the cuts."""
        return self.numsub(self._names.cuts_channel(key_space))

    def numsub(self, channel: str) -> int:
        """Return how many connections are subscribed to a channel of the server that commands go to."""
        with redis_errors(self._url):
            answer: Any = self._client.pubsub_numsub(channel)
        return int(answer[0][1])

    def other_pipelines(self, key_space: str, channel: str) -> int:
        """Return how many subscribers of other pipelines count the messages of a channel, in any Redis database."""
        with redis_errors(self._url):
            answer: Any = self._client.pubsub_numsub(presence_channel(channel), self._names.cuts_channel(key_space))
        return max(0, int(answer[0][1]) - int(answer[1][1]))

    def acquire_or_renew(self, claim: LeaseRequest, milliseconds: int, grace_ms: int) -> LeaseResult:
        """Take the lease if it is free or over, or keep it.

        One that has not heard all that is to be folded waits for `grace_ms` longer, if there are others.
        Raises OtherKeySpace, LedgerNotKnown; PipelineRefused where these counters are not this ledger's.
        """
        ledger = claim.ledger
        arguments: list[str | int] = [
            claim.token,
            milliseconds,
            claim.who,
            claim.last_message_ms,
            self._names.cuts_channel(claim.key_space),
            claim.key_space,
            claim.term,
            "" if claim.complete_after is None else claim.complete_after,
            grace_ms,
            claim.done,
            self._prefix,
            ledger.key if ledger.ledger_id else "",
            ledger.place,
        ]
        outcome, *rest = self._run(LEASE, arguments, [self._names.subscriber, *self._names.claimed_keys()])
        if outcome == REFUSED:
            raise refusal(self._prefix, ledger, *rest)
        if outcome == LEDGER_UNKNOWN:
            raise LedgerNotKnown(f"the counters {self._prefix}* and the database {ledger.place}")
        if outcome < 0:
            raise OtherKeySpace
        folded, term, known = rest
        self._ledger = bytes(known).decode()
        return LeaseResult(("held_by_other", "acquired", "renewed")[outcome], int(folded), int(term), self._ledger)

    def release(self, token: str, key_space: str) -> None:
        """Give the lease back, and say so to those who stand by."""
        self._run(LEASE, [token, 0, "", 0, self._names.cuts_channel(key_space)])

    def cut(self, key_space: str, token: str, heard: int) -> int:
        """End the segment that is open; return its number, which every subscriber receives with what is folded.

        `heard` is the last number that this subscriber heard. Raises NotHolder, OtherKeySpace.
        """
        number = int(self._run(CUT, [key_space, self._names.cuts_channel(key_space), token, self._ledger, heard]))
        if number == 0:
            raise NotHolder
        if number < 0:
            raise OtherKeySpace
        return number

    def fold(self, token: str, segment: int, views: Counter[str], now_ms: int) -> FoldResult:
        """Raise the counters (where messages carry the views) and mark the VODs changed, once per segment.

        Raises NotHolder; what was written by then stays written, and is not written again by anybody.
        """
        parts = _parts(views, -(-len(views) // FOLD_COUNTERS) or 1)
        written, refused, number = False, dict[str, str](), 0
        while number < len(parts):
            outcome, *rest = self._fold_part(token, segment, number + 1, parts, now_ms)
            if outcome == -1:
                raise NotHolder
            if outcome == -2:
                parts, number = _parts(views, rest[0]), 0
                continue
            written |= outcome == 1
            part = parts[number]
            refused |= {part[at - 1][0]: str(error, "utf-8", "replace") for at, error in chunks(rest, 2)}
            number += 1
        return FoldResult(written, refused)

    def _fold_part(
        self, token: str, segment: int, number: int, parts: list[list[tuple[str, int]]], now_ms: int
    ) -> list[Any]:
        part = parts[number - 1]
        keys = [self._names.subscriber, self._names.changed, *(self._prefix + vod_id for vod_id, _ in part)]
        counts = " ".join(str(count) for _, count in part)
        mode, cut = int(self._increment), len(self._prefix.encode())
        about: list[str | int] = [token, segment, number, len(parts), now_ms, mode, cut, counts, self._ledger]
        return list(self._run(FOLD, about, keys))

    def _run(self, script: Script, arguments: Sequence[str | int], keys: Sequence[str] = ()) -> Any:
        with redis_errors(self._url):
            return script.run(self._client, keys or [self._names.subscriber], arguments)


def part_of(vod_id: str, parts: int) -> int:
    """Return which of so many parts of a segment an id is in, from 1 on.

    By a hash of the id: two subscribers that heard a segment differently still put an id into the same part.
    """
    return 1 + zlib.crc32(vod_id.encode()) % parts


def _parts(views: Counter[str], count: int) -> list[list[tuple[str, int]]]:
    if count == 1:
        return [list(views.items())]
    parts: list[list[tuple[str, int]]] = [[] for _ in range(count)]
    for vod_id, views_of_it in views.items():
        parts[part_of(vod_id, count) - 1].append((vod_id, views_of_it))
    return parts
