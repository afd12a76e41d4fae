"""Folding of a channel by two subscribers: cuts, segments, and a lease with a token.

A fold raises counters and nothing else, as a producer does: so it is modelled apart from the flush. One step is one
script of Redis, or a subscriber that reads one message of its connection. A script that a subscriber has sent may run
much later; it carries the token that was valid when it was sent.

The law: no message is counted twice. Numbers alone keep it: the token only saves work ("token" may be left out). With
nobody dead and no connection lost, no message is missed either: each was counted, or is held by a subscriber.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from viewer_pipeline_tests.model.search import search

RULES = {
    "number": "fold a segment although it was folded before",
    "older connection": "the holder also keeps views without a number of a connection that is older than its lease",
    "unnumbered": "fold before a cut was received on this connection: it may add to the last segment",
    "unsequenced": "a standby keeps views without a number, and folds them under its next cut",
}


class Sub(NamedTuple):
    """A subscriber, with the messages that it received and that were not folded as far as it knows."""

    alive: bool = True
    token: int = 0  # of its lease; 0: none
    at: int = 0  # its position in the stream
    numbered: bool = False  # a cut was received on this connection
    last: int = 0  # number of the last cut that was received
    open: frozenset[int] = frozenset()  # messages since then
    predates_lease: bool = False  # the connection is older than the lease, and no cut was received since
    unsequenced: frozenset[int] = frozenset()  # received on a connection that broke before its first cut
    segments: tuple[tuple[int, frozenset[int]], ...] = ()
    sent: tuple[int, int, frozenset[int]] | None = None  # a fold that was sent: token, number, messages


class Channel(NamedTuple):
    """The state of Redis that folding uses, and the two subscribers."""

    stream: tuple[int, ...] = ()  # messages as 1, 2, …; cuts as -number
    counted: tuple[int, ...] = ()  # message by message
    holder: int = 0  # token of the lease
    tokens: int = 0
    cut: int = 0
    folded: int = 0
    subs: tuple[Sub, ...] = (Sub(), Sub())
    sends: int = 1
    cuts: int = 2
    breaks: int = 1
    crashes: int = 1
    leases: int = 2
    resent: int = 1
    calm: bool = False  # no subscriber dies, no connection breaks


def explore(rule: str = "", first: Channel = Channel()) -> tuple[int, str, list[str]]:  # noqa: B008 - frozen
    """Visit every state; return their number, and a violation of the law with the path to it."""
    return search(first, lambda now: successors(now, rule), violation)


def violation(now: Channel) -> str:
    """Return the violation: a message that was counted twice, or missed although no subscriber died."""
    for message, times in enumerate(now.counted, 1):
        if times > 1:
            return f"message {message} was counted {times} times"
    if now.calm and (missing := lost(now)):
        return f"messages {missing} are nowhere"
    return ""


def lost(now: Channel) -> list[int]:
    """Return the messages that are neither counted, nor held by a live subscriber, nor still to be read."""
    held = set[int]()
    for sub in now.subs:
        if sub.alive:
            held |= (
                sub.open
                | sub.unsequenced
                | {m for _, messages in sub.segments for m in messages}
                | set(now.stream[sub.at :])
            )
        if sub.sent:
            held |= sub.sent[2]
    return [m for m in range(1, len(now.counted) + 1) if not now.counted[m - 1] and m not in held]


def successors(now: Channel, rule: str) -> Iterator[tuple[str, Channel]]:
    """Yield every step, with its label."""
    if now.sends:
        message = len(now.counted) + 1
        yield (
            f"publish {message}",
            now._replace(stream=(*now.stream, message), counted=(*now.counted, 0), sends=now.sends - 1),
        )
    for n, sub in enumerate(now.subs):
        for label, after in _of_subscriber(now, n, sub, rule):
            yield f"subscriber {n}: {label}", after
    if now.holder and now.leases:
        yield "the lease runs out", now._replace(holder=0)


def _of_subscriber(now: Channel, n: int, sub: Sub, rule: str) -> Iterator[tuple[str, Channel]]:
    if sub.sent:
        replied = _replied(sub, refused=rule != "token" and sub.sent[0] != now.holder)
        yield "its fold arrives", _fold(_with(now, n, replied), sub.sent, rule)
        if now.resent:
            yield "its fold arrives, and is sent again", _fold(now, sub.sent, rule)._replace(resent=now.resent - 1)
    if not sub.alive:
        return
    if sub.at < len(now.stream):
        yield "receives", _with(now, n, _receive(sub, now.stream[sub.at], now.folded))
    if not now.holder and now.leases:
        token = now.tokens + 1
        kept = tuple(segment for segment in sub.segments if segment[0] > now.folded)
        holding = sub._replace(token=token, unsequenced=frozenset(), segments=kept, predates_lease=not sub.numbered)
        yield "takes the lease", _with(now, n, holding)._replace(holder=token, tokens=token, leases=now.leases - 1)
    if sub.token and sub.token == now.holder and now.cuts:
        number = max(now.cut, now.folded, sub.last) + 1
        yield "cuts", now._replace(stream=(*now.stream, -number), cut=number, cuts=now.cuts - 1)
    if sub.token and sub.segments and not sub.sent and (sub.numbered or rule == "unnumbered"):
        number, messages = sub.segments[0]
        sending = sub._replace(sent=(sub.token, number, messages))
        yield "sends a fold", _with(now, n, sending)
    if now.breaks:
        yield "reconnects", _with(now, n, _interrupted(sub, len(now.stream), rule))._replace(breaks=now.breaks - 1)
    if now.crashes:
        dead = Sub(alive=False, sent=sub.sent)
        yield "dies", _with(now, n, dead)._replace(crashes=now.crashes - 1)


def _receive(sub: Sub, message: int, folded: int) -> Sub:
    sub = sub._replace(at=sub.at + 1)
    if message > 0:
        return sub._replace(open=sub.open | {message})
    number, views = -message, sub.open | sub.unsequenced
    segments = _add(sub.segments, number, views)
    pruned = tuple(segment for segment in segments if segment[0] > folded)
    return sub._replace(
        last=number, numbered=True, open=frozenset(), predates_lease=False, unsequenced=frozenset(), segments=pruned
    )


def _interrupted(sub: Sub, end: int, rule: str) -> Sub:
    """Lose the connection: messages that were published and not read are missed."""
    if sub.numbered:
        sub = sub._replace(segments=_add(sub.segments, sub.last + 1, sub.open))
    elif rule == "unsequenced" or (sub.token and (not sub.predates_lease or rule == "older connection")):
        sub = sub._replace(unsequenced=sub.unsequenced | sub.open)
    return sub._replace(open=frozenset(), numbered=False, predates_lease=False, at=end)


def _add(
    segments: tuple[tuple[int, frozenset[int]], ...], number: int, views: frozenset[int]
) -> tuple[tuple[int, frozenset[int]], ...]:
    if not views:
        return segments
    if segments and segments[-1][0] == number:
        return (*segments[:-1], (number, segments[-1][1] | views))
    return (*segments, (number, views))


def _fold(now: Channel, sent: tuple[int, int, frozenset[int]], rule: str) -> Channel:
    token, number, messages = sent
    if rule != "token" and token != now.holder:
        return now
    if rule != "number" and number <= now.folded:
        return now
    counted = tuple(n + (m in messages) for m, n in enumerate(now.counted, 1))
    return now._replace(counted=counted, folded=max(number, now.folded))


def _replied(sub: Sub, *, refused: bool) -> Sub:
    """Drop the segment, unless another subscriber holds the lease, which may not have it."""
    assert sub.sent is not None
    kept = tuple(segment for segment in sub.segments if refused or segment[0] != sub.sent[1])
    return sub._replace(sent=None, segments=kept)


def _with(now: Channel, n: int, sub: Sub) -> Channel:
    return now._replace(subs=(*now.subs[:n], sub, *now.subs[n + 1 :]))
