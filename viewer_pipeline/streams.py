"""Streams: independent numberings of flushes, each of a part of the VODs. Pure.

A VOD belongs to the part that the hash slot of its counter is in, on a single Redis as in a cluster, and a part to one
stream at a time. Streams never wait for each other. The number of a flush names its stream: those of stream n follow
n * NUMBERS. When the VODs are cut into another number of parts, each part gets a new stream, so numbers only grow.
"""

from __future__ import annotations

from typing import NamedTuple

NUMBERS = 10**12  # of the flushes of one stream; also in migration 0014
MAX_STREAM = 2**53 // NUMBERS - 1  # Lua's numbers are exact up to there
MAX_PARTS = 64
SLOTS = 16384  # hash slots, as in a Redis Cluster


class Stream(NamedTuple):
    """A stream: the flushes of part `part` of `parts` parts of all VODs."""

    id: int = 0
    part: int = 0  # from 0
    parts: int = 1

    @property
    def first(self) -> int:
        """The number that its first flush follows."""
        return self.id * NUMBERS

    @property
    def last(self) -> int:
        """The last number that one of its flushes can have."""
        return self.first + NUMBERS - 1

    @property
    def slots(self) -> range:
        """The hash slots of its counters."""
        start, end = (-(-part * SLOTS // self.parts) for part in (self.part, self.part + 1))
        return range(start, end)

    @property
    def name(self) -> str:
        """Its part in words, such as `1of2`: in keys, partitions and metrics."""
        return f"{self.part + 1}of{self.parts}"

    @property
    def subject(self) -> str:
        """Its name where there are several, to begin a message; empty where it has all VODs."""
        return f"stream {self.name}" if self.parts > 1 else ""


WHOLE = Stream()  # of a pipeline whose VODs were never cut into parts


def stream_of(seq: int) -> int:
    """Return the id of the stream that a flush belongs to."""
    return seq // NUMBERS


def format_seq(seq: int) -> str:
    """Return the number of a flush for people: `17`, or `2/17` for flush 17 of stream 2."""
    stream, number = divmod(seq, NUMBERS)
    return f"{stream}/{number}" if stream else str(number)
