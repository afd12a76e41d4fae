"""What a producer publishes, and what of it counts. Pure."""

from __future__ import annotations

import orjson

from viewer_pipeline.counting.counters import MAX_COUNT, why_no_id


class NotAView(ValueError):
    """A message that does not count; the text says why."""


def parse_view(payload: bytes) -> tuple[str, int]:
    """Return (vod id, views) of a message `{"vodId": non-empty text, "count": positive integer}`.

    Raises NotAView with the reason. Other fields are fine.
    """
    try:
        message = orjson.loads(payload)
    except orjson.JSONDecodeError:
        raise NotAView("not JSON") from None
    if not isinstance(message, dict):
        raise NotAView("not an object")
    vod_id, count = message.get("vodId"), message.get("count")
    if not isinstance(vod_id, str):
        raise NotAView("vodId is not text")
    if reason := why_no_id(vod_id):
        raise NotAView(f"vodId: {reason}")
    if type(count) is not int or not 1 <= count <= MAX_COUNT:
        raise NotAView("count is not a positive integer")
    return vod_id, count
