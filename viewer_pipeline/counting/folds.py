"""Segments of the channel, folded into counters and changed set, each once, by whoever holds the lease.

Redis delivers the messages of one connection in the order in which they were published. A cut is a message too, on a
channel of ours: so all subscribers cut the stream at the same places, and a segment, the messages between two cuts,
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

from viewer_pipeline.counting.chunks import chunks
from viewer_pipeline.counting.counters import CHANGED_KEY, SUBSCRIBER_KEY
from viewer_pipeline.counting.redis_client import Script, redis_errors
from viewer_pipeline.settings import CUTS_CHANNEL

FOLD_COUNTERS = 500  # counters in one script: holds Redis for about 1 ms

CUT, FOLD, LEASE = map(Script.load, ("cut", "fold", "lease"))


class NotHolder(Exception):
    """Another subscriber holds the lease."""


class OtherKeySpace(Exception):
    """The key space has another id than the one whose cuts this subscriber hears."""


class Lease(NamedTuple):
    """What became of an attempt: `kept`, `taken`, or not taken: another holds it, or another's turn comes first."""

    outcome: Literal["other", "taken", "kept"]
    folded: int  # the last folded segment
    turn: int  # how many holdings there were, this one included


@dataclass(frozen=True)
class Claim:
    """Who asks for the lease, and what it knows."""

    cuts_id: str
    token: str
    who: str  # for people
    turn: int = 0  # how many holdings there were, as far as it knows: older attempts are refused
    whole_after: int | None = None  # it heard every segment above this number whole; None: no number yet
    heard_ms: int = 0  # when it heard its last message; 0: never
    done: int = 0  # as the holder, it has nothing to fold up to this number


@dataclass(frozen=True)
class Folded:
    """What became of a segment."""

    written: bool  # False: every part of it was written before
    refused: dict[str, str]  # ids whose counter cannot be raised, with Redis's reason


class FoldStore:
    """Lease, cuts and folds in one Redis."""

    def __init__(self, client: redis.Redis, url: str, prefix: str, *, increment: bool) -> None:
        self._client, self._url, self._prefix, self._increment = client, url, prefix, increment

    def cuts_id(self, known: str = "") -> str:
        """Return the id of this key space, the same for all its subscribers.

        Pub/sub does not know databases, and others may publish on a name that they can guess. `known` is the id that
        a key space without one (it was emptied) had before.
        """
        with redis_errors(self._url):
            found: Any = self._client.hget(SUBSCRIBER_KEY, "id")
            if found is None:  # else nothing is written: one may listen to a Redis that takes no writes now
                self._client.hsetnx(SUBSCRIBER_KEY, "id", known or uuid4().hex)
                found = self._client.hget(SUBSCRIBER_KEY, "id")
        return bytes(found or b"").decode()

    def hearers(self, cuts_id: str) -> int:
        """Return how many connections are subscribed to the cuts."""
        with redis_errors(self._url):
            answer: Any = self._client.pubsub_numsub(cuts_channel(cuts_id))
        return int(answer[0][1])

    def lease(self, claim: Claim, milliseconds: int, patience_ms: int) -> Lease:
        """Take the lease if it is free or over, or keep it. Raises OtherKeySpace.

        One that has not heard all that is to be folded waits for `patience_ms` longer, if there are others.
        """
        whole_after = "" if claim.whole_after is None else claim.whole_after
        about: list[str | int] = [
            claim.who,
            claim.heard_ms,
            cuts_channel(claim.cuts_id),
            claim.cuts_id,
            claim.turn,
            whole_after,
        ]
        outcome, folded, turn = self._run(LEASE, [claim.token, milliseconds, *about, patience_ms, claim.done])
        if outcome < 0:
            raise OtherKeySpace
        return Lease(("other", "taken", "kept")[outcome], int(folded), int(turn))

    def release(self, token: str, cuts_id: str) -> None:
        """Give the lease back, and say so to those who stand by."""
        self._run(LEASE, [token, 0, "", 0, cuts_channel(cuts_id)])

    def cut(self, cuts_id: str, token: str, heard: int) -> int:
        """End the segment that is open; return its number, which every subscriber receives with what is folded.

        `heard` is the last number that this subscriber heard. Raises NotHolder, OtherKeySpace.
        """
        number = int(self._run(CUT, [cuts_id, cuts_channel(cuts_id), token, heard]))
        if number == 0:
            raise NotHolder
        if number < 0:
            raise OtherKeySpace
        return number

    def fold(self, token: str, segment: int, views: Counter[str], now_ms: int) -> Folded:
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
        return Folded(written, refused)

    def _fold_part(
        self, token: str, segment: int, number: int, parts: list[list[tuple[str, int]]], now_ms: int
    ) -> list[Any]:
        part = parts[number - 1]
        keys = [SUBSCRIBER_KEY, CHANGED_KEY, *(self._prefix + vod_id for vod_id, _ in part)]
        counts = " ".join(str(count) for _, count in part)
        mode, cut = int(self._increment), len(self._prefix.encode())
        return list(self._run(FOLD, [token, segment, number, len(parts), now_ms, mode, cut, counts], keys))

    def _run(self, script: Script, arguments: Sequence[str | int], keys: Sequence[str] = (SUBSCRIBER_KEY,)) -> Any:
        with redis_errors(self._url):
            return script.run(self._client, keys, arguments)


def cuts_channel(cuts_id: str) -> str:
    """Return the channel of the cuts of a key space."""
    return CUTS_CHANNEL + cuts_id


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
