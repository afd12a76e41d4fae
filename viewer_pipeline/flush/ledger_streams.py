"""The streams of a ledger: which are active, and how one set of them follows another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import psycopg

from viewer_pipeline.command_to_type import command_to_type
from viewer_pipeline.errors import PipelineRefused, StreamsRefused
from viewer_pipeline.stores.named_queries import named_queries
from viewer_pipeline.streams import MAX_STREAM, Stream
from viewer_pipeline.text_formatting import pluralize
from viewer_pipeline.this_process import name_this_process

SQL = named_queries(__name__)


class PlannedStream(NamedTuple):
    """A stream that no flush commits in yet, and the epoch of the markers with which it begins."""

    stream: Stream
    epoch: str


class OpenStreams(NamedTuple):
    """The streams that are not closed. Either `active` are all of them, or those of a change that is under way."""

    active: list[Stream]
    closing: list[Stream]  # no flush commits there any more, and not all are settled
    planned: list[PlannedStream]  # that follow them

    @property
    def all(self) -> list[Stream]:
        """All of them: each may have a marker in Redis."""
        return [*self.active, *self.closing, *(planned.stream for planned in self.planned)]


def read_open_streams(connection: psycopg.Connection) -> OpenStreams:
    """Read the streams that are not closed."""
    streams = OpenStreams([], [], [])
    for number, part, parts, state, epoch in connection.execute(SQL["open_streams"]):
        stream = Stream(number, part, parts)
        if state == "active":
            streams.active.append(stream)
        elif state == "closing":
            streams.closing.append(stream)
        else:
            streams.planned.append(PlannedStream(stream, epoch))
    return streams


def active_streams(connection: psycopg.Connection, expected: int) -> Sequence[Stream]:
    """Return the active streams, by part. Raises StreamsRefused if they are not as many as expected."""
    streams = read_open_streams(connection)
    apply = f"`{command_to_type('streams apply')}`"
    if not streams.active:
        raise StreamsRefused(f"a change of the streams was interrupted; {apply} completes it")
    if len(streams.active) != expected:
        has = pluralize(len(streams.active), "stream")
        raise StreamsRefused(
            f"FLUSH_STREAMS={expected}, and the ledger has {has}; restart {name_this_process()} if it has an old value,"
            f" else {apply} changes the ledger"
        )
    return streams.active


def plan_change(connection: psycopg.Connection, parts: int) -> OpenStreams:
    """Close the active streams to flushes, and plan one for each of `parts` parts. An earlier plan of as many stays.

    Returns no `closing` and no `planned` ones where as many are active. Safe to repeat. Raises PipelineRefused where
    the ledger has no numbers for as many streams.
    """
    with connection.transaction():
        connection.execute(SQL["lock_change"])
        streams = read_open_streams(connection)
        if len(streams.active) != parts and len(streams.planned) != parts:
            streams = _plan(connection, parts)
    return streams


def replan_change(connection: psycopg.Connection, planned: Sequence[PlannedStream]) -> OpenStreams:
    """Plan as many other streams, unless that was done already: some that were planned have markers in Redis.

    Raises PipelineRefused if another number of streams was planned meanwhile.
    """
    with connection.transaction():
        connection.execute(SQL["lock_change"])
        streams = read_open_streams(connection)
        if streams.planned == planned:
            streams = _plan(connection, len(planned))
        if len(streams.planned) != len(planned):
            raise _other_change()
    return streams


def activate(connection: psycopg.Connection, planned: Sequence[PlannedStream]) -> None:
    """Let flushes commit in the planned streams. Their predecessors must be settled. Safe to repeat.

    Raises PipelineRefused if others were planned meanwhile, which have no markers yet.
    """
    with connection.transaction():
        connection.execute(SQL["lock_change"])
        streams = read_open_streams(connection)
        if streams.planned == planned:
            connection.execute(SQL["activate_streams"])
        elif streams.active != [new.stream for new in planned]:
            raise _other_change()


def _plan(connection: psycopg.Connection, parts: int) -> OpenStreams:
    connection.execute(SQL["close_streams"])
    connection.execute(SQL["plan_streams"], {"parts": parts})
    streams = read_open_streams(connection)
    if (last := streams.planned[-1].stream.id) > MAX_STREAM:
        raise PipelineRefused(f"stream {last} would be above {MAX_STREAM}, the last one that can be")
    return streams


def _other_change() -> PipelineRefused:
    return StreamsRefused(f"the streams were changed twice at once; repeat `{command_to_type('streams apply')}`")
