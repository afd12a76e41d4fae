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

# The form of nearly all messages: parsed without building an object, and without anything else that JSON allows.
_is_plain = re.compile(
    rb'[ \t\r\n]*\{[ \t\r\n]*"vodId"[ \t\r\n]*:[ \t\r\n]*"([^"\\\x00-\x1f]+)"[ \t\r\n]*,'
    rb'[ \t\r\n]*"count"[ \t\r\n]*:[ \t\r\n]*([1-9][0-9]*)[ \t\r\n]*\}[ \t\r\n]*'
).fullmatch


class InvalidMessage(ValueError):
    """A message that does not count; the text is the reason."""


def parse_view(payload: bytes) -> tuple[str, int]:
    """Return (vod id, views) of a message `{"vodId": non-empty text, "count": positive integer}`.

    Other fields are ignored. Any other bytes raise InvalidMessage with the reason.
    """
    if len(payload) > MAX_MESSAGE_BYTES:
        raise InvalidMessage(f"longer than {MAX_MESSAGE_BYTES} bytes")
    if plain := _is_plain(payload):
        try:
            return _checked(plain[1].decode(), int(plain[2]))
        except UnicodeDecodeError:
            raise InvalidMessage("not UTF-8") from None
    message = _object(payload)
    vod_id, count = message.get("vodId"), message.get("count")
    if not isinstance(vod_id, str):
        raise InvalidMessage("vodId is not text")
    if type(count) is not int or count < 1:
        raise InvalidMessage("count is not a positive integer")
    return _checked(vod_id, count)


def _checked(vod_id: str, count: int) -> tuple[str, int]:
    if reason := id_error(vod_id):
        raise InvalidMessage(f"vodId: {reason}")
    if count > MAX_MESSAGE_COUNT:
        raise InvalidMessage(f"count is over {MAX_MESSAGE_COUNT}")
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
