"""The messages of the producers: parse one, or reject it with a reason. Pure."""

from __future__ import annotations

import json
import re
from typing import Any

import orjson

from viewer_pipeline.flush.counter_validation import id_error

MAX_MESSAGE_BYTES = 4096
# One message must not make the views of others in its segment overflow the counter.
MAX_MESSAGE_COUNT = 1_000_000

# The forms of nearly all messages: parsed without building an object, and without anything else that JSON allows.
_is_plain = re.compile(
    rb'[ \t\r\n]*\{[ \t\r\n]*"vodId"[ \t\r\n]*:[ \t\r\n]*"([^"\\\x00-\x1f]+)"[ \t\r\n]*'
    rb'(?:,[ \t\r\n]*"count"[ \t\r\n]*:[ \t\r\n]*([1-9][0-9]*)[ \t\r\n]*)?\}[ \t\r\n]*'
).fullmatch

NO_COUNT = "count is missing, and PUBSUB_MODE=increment needs it"


class InvalidMessage(ValueError):
    """A message that does not count; the text is the reason."""


def parse_view(payload: bytes) -> tuple[str, int]:
    """Return (vod id, views) of a message `{"vodId": non-empty text, "count": positive integer}`.

    Other fields are ignored. Any other bytes raise InvalidMessage with the reason.
    """
    vod_id, count = _vod_id_and_count(payload)
    if count == b"":
        raise InvalidMessage(NO_COUNT)
    if type(count) is bytes:
        count = int(count)
    if type(count) is not int or count < 1:
        raise InvalidMessage("count is not a positive integer")
    if count > MAX_MESSAGE_COUNT:
        raise InvalidMessage(f"count is over {MAX_MESSAGE_COUNT}")
    return vod_id, count


def parse_announcement(payload: bytes) -> tuple[str, int]:
    """Return (vod id, 1) of a message `{"vodId": non-empty text}`: one announcement, whatever its count is.

    Other fields are ignored, `count` too. Any other bytes raise InvalidMessage with the reason.
    """
    return _vod_id_and_count(payload)[0], 1


def _vod_id_and_count(payload: bytes) -> tuple[str, Any]:
    """Return the valid id and the count: digits as bytes, none of them if there is no count; or any value of JSON."""
    if len(payload) > MAX_MESSAGE_BYTES:
        raise InvalidMessage(f"longer than {MAX_MESSAGE_BYTES} bytes")
    count: Any
    if plain := _is_plain(payload):
        try:
            vod_id, count = plain[1].decode(), plain[2] or b""
        except UnicodeDecodeError:
            raise InvalidMessage("not UTF-8") from None
    else:
        message = _object(payload)
        vod_id, count = message.get("vodId"), message.get("count", b"")
        if not isinstance(vod_id, str):
            raise InvalidMessage("vodId is not text")
    if reason := id_error(vod_id):
        raise InvalidMessage(f"vodId: {reason}")
    return vod_id, count


def _object(payload: bytes) -> dict[str, Any]:
    """Parse strictly; then again to find repeated keys, which JSON allows and parsers read differently."""
    try:
        message = orjson.loads(payload)
        if not isinstance(message, dict):
            raise InvalidMessage("not an object")
        json.loads(payload, object_pairs_hook=_unique)
    except orjson.JSONDecodeError:
        raise InvalidMessage("not JSON") from None
    except RecursionError:
        raise InvalidMessage("nested too deeply") from None
    return message


def _unique(pairs: list[tuple[str, Any]]) -> None:
    if len({key for key, _ in pairs}) < len(pairs):
        raise InvalidMessage("a key comes twice")
