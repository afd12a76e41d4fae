"""Segments of the channel, folded into counters and changed set, each once.

Redis delivers the messages of one connection in the order in which they were published. A cut is a message too, on a
channel of ours: so all subscribers cut the stream at the same places, and a segment, the messages between two cuts,
holds the same messages for each of them. Its number is all that the folding script needs to count it once, whether
the client sends the script twice or two subscribers are at work.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import redis

from viewer_pipeline.counting.chunks import chunks
from viewer_pipeline.counting.counters import CHANGED_KEY, SUBSCRIBER_KEY
from viewer_pipeline.counting.redis_client import Script, redis_errors
from viewer_pipeline.settings import CUTS_CHANNEL

FOLD_COUNTERS = 500  # counters in one script: holds Redis for about 1 ms

CUT, FOLD = Script.load("cut"), Script.load("fold")


@dataclass(frozen=True)
class Folded:
    """What became of a segment."""

    written: bool  # False: every part of it was written before
    refused: dict[str, str]  # ids whose counter cannot be raised, with Redis's reason


class FoldStore:
    """Cuts and folds in one Redis."""

    def __init__(self, client: redis.Redis, url: str, prefix: str, *, increment: bool) -> None:
        self._client, self._url, self._prefix, self._increment = client, url, prefix, increment

    def cuts_channel(self) -> str:
        """Return the channel of the cuts of this key space, the same for all its subscribers."""
        with redis_errors(self._url):
            self._client.hsetnx(SUBSCRIBER_KEY, "id", uuid4().hex)
            known: Any = self._client.hget(SUBSCRIBER_KEY, "id")
        return CUTS_CHANNEL + bytes(known).decode()

    def cut(self, channel: str) -> int:
        """End the segment that is open; return its number, which every subscriber receives on `channel`."""
        with redis_errors(self._url):
            return int(CUT.run(self._client, [SUBSCRIBER_KEY], [channel]))

    def fold(self, segment: int, views: Counter[str], now_ms: int) -> Folded:
        """Raise the counters (where messages carry the views) and mark the VODs changed, once per segment."""
        parts = list(chunks(views.items(), FOLD_COUNTERS)) or [()]
        written, refused = False, dict[str, str]()
        for number, part in enumerate(parts, 1):
            keys = [SUBSCRIBER_KEY, CHANGED_KEY, *(self._prefix + vod_id for vod_id, _ in part)]
            counts = " ".join(str(count) for _, count in part)
            mode, cut = int(self._increment), len(self._prefix.encode())
            with redis_errors(self._url):
                done, *errors = FOLD.run(self._client, keys, [segment, number, len(parts), now_ms, mode, cut, counts])
            written |= bool(done)
            refused |= {part[at - 1][0]: str(error, "utf-8", "replace") for at, error in chunks(errors, 2)}
        return Folded(written, refused)
