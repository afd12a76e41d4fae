"""How many inputs were rejected, by source and reason: all of them, each once. Examples are in `viewer.rejected`.

An input is a message, or a counter with a value that can never be a count. Messages are counted by segment, as views
are, so that it does not matter which workers count them, and how often they try.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import psycopg
from psycopg.types.json import Jsonb

from viewer_pipeline.stores.named_queries import fetch_one, named_queries
from viewer_pipeline.text_formatting import pluralize

SQL = named_queries(__name__)

EXAMPLE_REASONS, EXAMPLE_CHARACTERS = 3, 60


class RejectedCount(NamedTuple):
    """How many inputs of a source (`message` or `counter`) were rejected for a reason."""

    source: str
    reason: str
    inputs: int


@dataclass(frozen=True)
class RejectedSegment:
    """The messages between two cuts that were rejected, by reason; `number` is that of the cut that ends them.

    `cuts_channel`: that of the key space in which the number counts.
    """

    cuts_channel: str
    number: int
    messages: Counter[str]


class RejectedExample(NamedTuple):
    """The begin of a message, or the id of a counter, that was rejected, and the reason."""

    subject: str
    reason: str


class RejectedSummary(NamedTuple):
    """All rejected inputs, those of most inputs first; and how long ago the last was counted, None if there is none.

    `examples`: one for each of the reasons of the last ones.
    """

    counts: list[RejectedCount]
    last_seconds: float | None
    examples: tuple[RejectedExample, ...] = ()

    @property
    def inputs(self) -> int:
        """Number of all."""
        return sum(count.inputs for count in self.counts)


def count_rejected_messages(connection: psycopg.Connection, segments: Sequence[RejectedSegment]) -> None:
    """Count the messages of segments of one key space that no worker has counted yet. Safe to repeat."""
    channel, last = segments[-1].cuts_channel, max(segment.number for segment in segments)
    with connection.transaction():
        (counted_through,) = fetch_one(connection, SQL["lock_counted_through"], channel=channel)
        messages: Counter[str] = sum((s.messages for s in segments if s.number > counted_through), Counter())
        if messages:
            rows = [{"source": "message", "reason": reason, "inputs": number} for reason, number in messages.items()]
            connection.execute(SQL["add_rejected_counts"], {"counts": Jsonb(rows)})
        connection.execute(SQL["set_counted_through"], {"channel": channel, "number": max(last, counted_through)})


def read_rejected_summary(connection: psycopg.Connection, examples_of_last_seconds: float = 0.0) -> RejectedSummary:
    """Return what was rejected so far, with examples if something was in the last seconds."""
    rows = connection.execute(SQL["rejected_counts"]).fetchall()
    last_seconds = min((age for *_, age in rows), default=None)
    examples: tuple[RejectedExample, ...] = ()
    if last_seconds is not None and last_seconds < examples_of_last_seconds:
        parameters = {"seconds": examples_of_last_seconds, "reasons": EXAMPLE_REASONS, "length": EXAMPLE_CHARACTERS}
        examples = tuple(RejectedExample(*row) for row in connection.execute(SQL["rejected_examples"], parameters))
    return RejectedSummary([RejectedCount(*row[:3]) for row in rows], last_seconds, examples)


def report_newly_rejected(connection: psycopg.Connection, run_id: str) -> list[RejectedCount]:
    """Return what was rejected since the previous run that called this; the same again for the same run."""
    rows = connection.execute(SQL["report_newly_rejected"], {"run_id": run_id}).fetchall()
    return sorted((RejectedCount(*row) for row in rows), key=lambda count: (-count.inputs, *count))


def describe_rejected(counts: Iterable[RejectedCount]) -> str:
    """Return e.g. `123 messages (not JSON: 120, not an object: 3) and 1 counter (value is negative)`; `none`."""
    by_source: dict[str, list[RejectedCount]] = {}
    for count in counts:
        by_source.setdefault(count.source, []).append(count)
    texts = [_describe_source(source, of_source) for source, of_source in sorted(by_source.items(), reverse=True)]
    return " and ".join(texts) or "none"


def _describe_source(source: str, counts: list[RejectedCount]) -> str:
    first, *others = counts
    reasons = ", ".join(f"{count.reason}: {count.inputs}" for count in counts) if others else first.reason
    return f"{pluralize(sum(count.inputs for count in counts), source)} ({reasons})"
