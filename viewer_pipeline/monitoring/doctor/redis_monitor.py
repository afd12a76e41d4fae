"""What happens to the counters and on the channel, read from Redis's `MONITOR` for a limited time."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Literal, NamedTuple

from viewer_pipeline.flush.open_store import open_store
from viewer_pipeline.ingest.messages import InvalidMessage, parse_announcement, parse_view
from viewer_pipeline.layout import Layout
from viewer_pipeline.redis_url import RedisUrl
from viewer_pipeline.settings import Settings
from viewer_pipeline.stores.redis import as_text, connect, redis_errors

COMMAND_SECONDS = 3.0
POLL_SECONDS, POLL_SECONDS_OF_CLUSTER = 0.5, 0.02
MAX_COMMANDS = 500_000  # Redis buffers what a MONITOR client has not read yet, so their number is limited, too

LINE = re.compile(
    rb'[\d.]+ \[(\d+) (.*?)\] ("(?:INCR|INCRBY|PUBLISH|EVAL|EVALSHA|FCALL)" .*)', re.IGNORECASE | re.DOTALL
)
WORD = re.compile(rb'"((?:[^"\\]|\\.)*)"', re.DOTALL)
ESCAPE = re.compile(rb"\\(x[0-9a-f]{2}|.)", re.DOTALL)
ESCAPED = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"a": b"\a", b"b": b"\b"}


Source = Literal["message", "announcement", "producer", "worker"]


class ObservedViews(NamedTuple):
    """Views of one VOD: in a message, added to the counter by a producer, or added by a worker that folds.

    An announcement is a message that carries no views, and has one here.
    """

    at: float  # seconds since the beginning
    vod_id: str
    views: int
    source: Source


def watch_views_with_monitor(settings: Settings, seconds: float) -> Iterator[ObservedViews]:
    """Yield what MONITOR shows of the counters and the channel of this pipeline; other commands are dropped.

    Ends after `seconds`, even if Redis hangs, or after MAX_COMMANDS. Raises RedisUnavailable; RedisFailed where this
    user may not run MONITOR.
    """
    url = settings.require_redis_url()
    with redis_errors(url), connect(url, seconds=COMMAND_SECONDS, retries=0) as client, ExitStack() as stack:
        nodes = stack.enter_context(open_store(client, settings).node_clients())
        monitors = [
            stack.enter_context(node.monitor())  # type: ignore[no-untyped-call]  # so in redis-py
            for node in nodes.values()
        ]
        parsers = [_MonitorLineParser(settings) for _ in monitors]
        started, commands = time.monotonic(), 0
        while (elapsed := time.monotonic() - started) < seconds and commands < MAX_COMMANDS:
            is_idle = True
            for monitor, parser in zip(monitors, parsers, strict=True):
                if monitor.connection.can_read(timeout=0):
                    is_idle, commands = False, commands + 1
                    if views := parser.parse(monitor.connection.read_response()):
                        yield views._replace(at=time.monotonic() - started)
            if is_idle:
                poll = POLL_SECONDS if len(monitors) == 1 else POLL_SECONDS_OF_CLUSTER
                monitors[0].connection.can_read(timeout=min(poll, seconds - elapsed))


class _MonitorLineParser:
    """Parses the lines of MONITOR. A script's own line comes before those of the commands that it executes."""

    def __init__(self, settings: Settings) -> None:
        url = settings.redis_url or ""
        layout = Layout.of(url, settings.counter_prefix)
        self.database = RedisUrl.of(url).database if url else 0
        self._prefix, self._channel = layout.names.prefix.encode(), settings.pubsub_channel.encode()
        self._own_keys = {key.encode() for key in layout.names.pipeline_keys}
        self._own_beginning = layout.marker_beginning.encode()
        self._in_own_script = False

    def parse(self, line: bytes) -> ObservedViews | None:
        """Return the views of a line; None for a line that has none."""
        match = LINE.fullmatch(line)
        if match is None:
            return None
        database, client = int(match[1]), match[2]
        name, *arguments = map(_unescape, WORD.findall(match[3]))
        if client != b"lua":
            self._in_own_script = any(map(self._is_own_key, arguments))
        match name.upper(), arguments:
            case b"PUBLISH", [channel, payload] if channel == self._channel:
                return _views_of_message(payload)
            case ((b"INCR" | b"INCRBY"), [key, *amount]) if key.startswith(self._prefix) and database == self.database:
                source: Source = "worker" if self._in_own_script else "producer"
                views = int(amount[0]) if amount and amount[0].isdigit() else 1
                return ObservedViews(0.0, as_text(key.removeprefix(self._prefix)), views, source)
        return None

    def _is_own_key(self, argument: bytes) -> bool:
        return argument in self._own_keys or argument.startswith(self._own_beginning)


def _views_of_message(payload: bytes) -> ObservedViews | None:
    try:
        return ObservedViews(0.0, *parse_view(payload), "message")
    except InvalidMessage:
        try:
            return ObservedViews(0.0, *parse_announcement(payload), "announcement")
        except InvalidMessage:
            return None


def _unescape(word: bytes) -> bytes:
    """Return a word as the client sent it, without the escapes of MONITOR."""

    def character(match: re.Match[bytes]) -> bytes:
        code = match[1]
        return bytes([int(code[1:], 16)]) if len(code) > 1 else ESCAPED.get(code, code)

    return ESCAPE.sub(character, word)
