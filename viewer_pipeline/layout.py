"""Layout: which keys are in one place of Redis, and so can change together. Pure; nothing else knows this mapping.

A *shard* is the counters that one script may touch, with the marker that records how far they were lowered: those of a
stream on a single Redis, one hash slot of a cluster. A shard belongs to one stream (streams.py).
"""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple, Self

from viewer_pipeline.redis_names import RedisNames
from viewer_pipeline.redis_url import is_cluster_url
from viewer_pipeline.streams import SLOTS, WHOLE, Stream

SINGLE_SHARD = 0  # of a single Redis; those of a cluster are 1 .. 16384: slot + 1
HOME_TAG = "{viewer}"  # hash tag of the keys that belong to no shard: one slot has them all


class Layout(NamedTuple):
    """The places of the keys of one stream of a pipeline."""

    names: RedisNames
    cluster: bool
    stream: Stream = WHOLE

    @classmethod
    def of(cls, redis_url: str, prefix: str, stream: Stream = WHOLE) -> Self:
        """Return the layout in the Redis of this URL, for a counter prefix."""
        names, cluster = RedisNames.of(prefix, stream), is_cluster_url(redis_url)
        return cls(names.with_tag(HOME_TAG) if cluster else names, cluster, stream)

    @property
    def shards(self) -> range:
        """The shards of the stream in a cluster."""
        slots = self.stream.slots
        return range(slots.start + 1, slots.stop + 1)

    @property
    def sweep_field(self) -> str:
        """The field of the subscriber's hash with the request for a sweep of the stream."""
        return self._field("sweep")

    @property
    def sweep_position_field(self) -> str:
        """The field of the subscriber's hash with the position of a sweep of the stream."""
        return self._field("sweep_position")

    def _field(self, name: str) -> str:
        return f"{name}@{self.stream.name}" if self.stream.parts > 1 else name

    def owned(self, ids: Sequence[bytes]) -> Sequence[bytes]:
        """Return those of these raw ids whose counters belong to the stream."""
        parts = self.stream.parts
        return ids if parts == 1 else self.split(ids, parts)[self.stream.part]

    def split(self, ids: Sequence[bytes], parts: int) -> list[list[bytes]]:
        """Return the raw ids of each of so many parts of all VODs."""
        by_part: list[list[bytes]] = [[] for _ in range(parts)]
        for raw, part in zip(ids, self.parts_of(ids, parts), strict=True):
            by_part[part].append(raw)
        return by_part

    def parts_of(self, ids: Sequence[bytes], parts: int) -> list[int]:
        """Return which of so many parts of all VODs each of these raw ids is in. See Stream.slots."""
        prefix = self.names.prefix.encode()
        if b"{" in prefix or any(b"{" in raw for raw in ids):
            slots = [key_slot(prefix + raw) for raw in ids]
        else:  # no hash tag: the hash of the prefix is computed once
            before = crc_hqx(prefix, 0)
            slots = [crc_hqx(raw, before) % SLOTS for raw in ids]
        return [slot * parts // SLOTS for slot in slots]

    def shard_of(self, counter: bytes) -> int:
        """Return the shard of a counter of the stream, by its whole key: an id may hold a hash tag."""
        return key_slot(counter) + 1 if self.cluster else SINGLE_SHARD

    def shards_of_ids(self, vod_ids: Sequence[str]) -> list[int]:
        """Return the shard of the counter of each id, in a cluster."""
        return self.shards_of_raw_ids([vod_id.encode() for vod_id in vod_ids])

    def shards_of_raw_ids(self, raws: Sequence[bytes]) -> list[int]:
        """Return the shard of the counter of each id, in a cluster. Half the time of `shard_of` for each."""
        prefix = self.names.prefix.encode()
        if b"{" in prefix:
            return [key_slot(prefix + raw) + 1 for raw in raws]
        crc = crc_hqx(prefix, 0)
        return [(key_slot(prefix + raw) if b"{" in raw else crc_hqx(raw, crc) % SLOTS) + 1 for raw in raws]

    def marker_key(self, shard: int) -> str:
        """Return the key of the marker of a shard: in its slot."""
        if shard == SINGLE_SHARD:
            return self.names.marker
        return f"{self.names.marker.removesuffix(self.names.tag)}:{{{slot_tags()[shard - 1]}}}"

    @property
    def marker_beginning(self) -> str:
        """The beginning of the keys of all markers of this pipeline, and of no other key."""
        return self.names.marker.removesuffix(HOME_TAG) + "{" if self.cluster else self.names.marker


def key_slot(key: bytes) -> int:
    """Return the hash slot of a key, as the specification of Redis Cluster has it: that of its hash tag if it has one.

    redis-py has the same function, in a package whose import takes a tenth of a second.
    """
    start = key.find(b"{")
    end = key.find(b"}", start + 1) if start >= 0 else -1
    return crc_hqx(key[start + 1 : end] if end > start + 1 else key, 0) % SLOTS


HOME_SLOT = key_slot(HOME_TAG.encode())


def slot_of_shard(shard: int) -> int:
    """Return the slot of a shard of a cluster."""
    return shard - 1


@cache
def slot_tags() -> Sequence[str]:
    """Return, for each slot, the shortest decimal number that hashes to it. Takes 0.1 s once."""
    tags, number, missing = [""] * SLOTS, 0, SLOTS
    while missing:
        text = str(number)
        slot = key_slot(text.encode())
        if not tags[slot]:
            tags[slot] = text
            missing -= 1
        number += 1
    return tags
