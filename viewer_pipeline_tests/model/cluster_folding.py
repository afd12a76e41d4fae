"""Numbers of messages in a Redis Cluster: two nodes that deliver the same messages in orders of their own.

The subscribers keep what they receive in the buffer of the worker itself; what Redis does is modelled. One step is one
cut, one message that a node receives from another, or one that a subscriber reads. Any subscriber may cut and fold: the
scripts that raise counters compare numbers of segments, and no token.

The law: no message is in two segments with different numbers, whichever subscriber has them. So none counts twice, as
long as a shard folds each number once. The second during which cuts are void stands for: by its end, a node has
received all messages that were published before it published its first cut.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from viewer_pipeline.ingest.node_segment_buffer import NodeSegmentBuffer
from viewer_pipeline.ingest.segment_buffer import VOID, Cut
from viewer_pipeline_tests.model.search import search

RULES = {
    "void": "the first cut at another node is not void",
    "second": "only the first cut at another node is void",
    "after the second": "the first cut after the second is not void",
    "other node": "cuts of another node than that of the subscription end segments, too",
    "tail": "views of a connection that broke are in the segment that the next cut ends, whatever cut was before it",
}
NODES = (0, 1)
Messages = frozenset[int]


class Buffer(NamedTuple):
    """The state of a NodeSegmentBuffer without its segments."""

    last_cut: int = 0
    numbered: bool = False
    open: Messages = frozenset()
    node: str = ""
    is_void: bool = False
    tail: Messages = frozenset()
    tail_after: int = 0
    published: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, made: NodeSegmentBuffer) -> Buffer:
        """Return the state of a buffer."""
        published = tuple(sorted(made.published.items()))
        at = made.last_cut, made.numbered, _ids(made.open_views), made.node, made.is_void
        return cls(*at, _ids(made.tail), made.tail_after, published)

    def make(self) -> NodeSegmentBuffer:
        """Return a buffer in this state."""
        return NodeSegmentBuffer(
            last_cut=self.last_cut,
            numbered=self.numbered,
            open_views=_views(self.open),
            node=self.node,
            is_void=self.is_void,
            tail=_views(self.tail),
            tail_after=self.tail_after,
            published=dict(self.published),
        )


class Sub(NamedTuple):
    """A subscriber: the node at which it is subscribed, and its position there."""

    node: int = 0
    at: int = 0
    buffer: Buffer = Buffer()


class Cluster(NamedTuple):
    """The state of both nodes, and the subscribers."""

    streams: tuple[tuple[int | Cut, ...], ...] = ((), ())  # what each node has delivered, in its order
    on_the_way: tuple[frozenset[int | Cut], ...] = (frozenset(), frozenset())  # to each node
    numbers: tuple[frozenset[int], ...] = ()  # of the segments that have it, message by message
    home: int = 0
    cut_at: int = -1  # the node that published the last cut
    cut: int = 0
    awaited: Messages = frozenset()  # published before the first cut at this node
    has_waited: bool = True  # a cut was published at this node when all of them were there
    subs: tuple[Sub, ...] = (Sub(), Sub())
    sends: int = 1
    cuts: int = 3
    moves: int = 1
    breaks: int = 1  # besides those of subscribers that move to the home node


SCENES = {
    "one subscriber": Cluster(subs=(Sub(),)),
    "two subscribers": Cluster(cuts=2, breaks=0),
    "two subscribers, one node": Cluster(moves=0),
}
LARGE = {
    "two subscribers, three cuts": Cluster(breaks=0),
    "one subscriber, there and back": Cluster(subs=(Sub(),), moves=2),
}
BROKEN = {
    "void": "one subscriber",
    "second": "one subscriber",
    "after the second": "one subscriber",
    "other node": "two subscribers",
    "tail": "two subscribers, one node",
}


def explore(rule: str = "", first: Cluster = Cluster()) -> tuple[int, str, list[str]]:  # noqa: B008 - frozen
    """Visit every state; return their number, and a violation of the law with the path to it."""
    return search(first, lambda now: _successors(now, rule), _violation)


def _violation(now: Cluster) -> str:
    return f"numbers {now.numbers}" if any(len(numbers) > 1 for numbers in now.numbers) else ""


def _successors(now: Cluster, rule: str) -> Iterator[tuple[str, Cluster]]:
    if now.sends:
        message = len(now.numbers) + 1
        to_all = tuple(sent | {message} for sent in now.on_the_way)
        yield "publish", now._replace(on_the_way=to_all, numbers=(*now.numbers, frozenset()), sends=now.sends - 1)
    for node in NODES:
        if not now.moves and node != now.home and all(sub.node != node for sub in now.subs):
            continue  # nobody will read there
        for entry in now.on_the_way[node]:
            yield f"node {node} receives {entry}", _delivered(now, node, entry)
    if now.moves:
        yield "the home slot moves", now._replace(home=1 - now.home, moves=now.moves - 1)
    for n, sub in enumerate(now.subs):
        for label, after in _of_subscriber(now, n, sub, rule):
            yield f"subscriber {n}: {label}", after


def _delivered(now: Cluster, node: int, entry: int | Cut) -> Cluster:
    streams = tuple((*stream, entry) if n == node else stream for n, stream in enumerate(now.streams))
    on_the_way = tuple(sent - {entry} if n == node else sent for n, sent in enumerate(now.on_the_way))
    return now._replace(streams=streams, on_the_way=on_the_way)


def _of_subscriber(now: Cluster, n: int, sub: Sub, rule: str) -> Iterator[tuple[str, Cluster]]:
    if sub.at < len(now.streams[sub.node]):
        yield "reads", _read(now, n, sub, rule)
    if sub.node == now.home and now.cuts:
        yield "cuts", _cut(now, n, sub, rule)
    if now.breaks or sub.node != now.home:
        buffer, segments = _closed(sub.buffer)
        again = Sub(now.home, len(now.streams[now.home]), buffer)
        left = now.breaks - (sub.node == now.home)
        yield f"subscribes at node {now.home}", _with(now, n, again, segments)._replace(breaks=left)


def _cut(now: Cluster, n: int, sub: Sub, rule: str) -> Cluster:
    """Publish a cut at the home node: there at once, and sent to the other one."""
    is_first = now.cut_at not in (-1, now.home)
    awaited = frozenset(range(1, len(now.numbers) + 1)) if is_first else now.awaited
    missing = now.on_the_way[now.home] & awaited
    is_void = is_first or {"second": False, "after the second": bool(missing)}.get(rule, not now.has_waited)
    previous = VOID if rule != "void" and is_void else now.cut
    cut = Cut(max(now.cut, sub.buffer.last_cut) + 1, 0, previous, str(now.home))
    on_the_way = tuple(sent | {cut} if node != now.home else sent for node, sent in enumerate(now.on_the_way))
    after = _delivered(now, now.home, cut)._replace(on_the_way=on_the_way)
    after = _with(after, n, sub._replace(buffer=_noted(sub.buffer, cut)), ())
    has_waited = not is_first and (now.has_waited or not missing)
    return after._replace(cut=cut.number, cut_at=now.home, awaited=awaited, has_waited=has_waited, cuts=now.cuts - 1)


def _read(now: Cluster, n: int, sub: Sub, rule: str) -> Cluster:
    entry, sub = now.streams[sub.node][sub.at], sub._replace(at=sub.at + 1)
    if isinstance(entry, int):
        return _with(now, n, sub._replace(buffer=sub.buffer._replace(open=sub.buffer.open | {entry})), ())
    node = str(sub.node)
    if rule == "other node":
        entry = entry._replace(node=node)
    if rule == "tail" and entry.previous != VOID:
        entry = entry._replace(previous=sub.buffer.tail_after or entry.previous)
    buffer, segments = _with_cut(sub.buffer, entry, node)
    return _with(now, n, sub._replace(buffer=buffer), segments)


Segments = tuple[tuple[int, Messages], ...]  # number, messages


@cache
def _with_cut(state: Buffer, cut: Cut, node: str) -> tuple[Buffer, Segments]:
    buffer = state.make()
    buffer.receive_cut(cut, node)
    return Buffer.of(buffer), _segments(buffer)


@cache
def _noted(state: Buffer, cut: Cut) -> Buffer:
    buffer = state.make()
    buffer.note_published(cut)
    return Buffer.of(buffer)


@cache
def _closed(state: Buffer) -> tuple[Buffer, Segments]:
    buffer = state.make()
    buffer.close_segment_of_lost_connection(is_holder=False)
    return Buffer.of(buffer), _segments(buffer)


def _segments(buffer: NodeSegmentBuffer) -> Segments:
    return tuple((segment.number, _ids(segment.views)) for segment in buffer.segments)


def _with(now: Cluster, n: int, sub: Sub, segments: Segments) -> Cluster:
    """Return the state with a subscriber, which may fold these segments from now on."""
    subs = (*now.subs[:n], sub, *now.subs[n + 1 :])
    numbers = now.numbers
    for number, messages in segments:
        numbers = tuple(had | {number} if m in messages else had for m, had in enumerate(numbers, 1))
    return now._replace(subs=subs, numbers=numbers)


def _ids(views: Counter[str]) -> Messages:
    return frozenset(map(int, views))


def _views(messages: Messages) -> Counter[str]:
    return Counter(map(str, messages))
