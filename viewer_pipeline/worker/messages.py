"""What a producer publishes, and what of it counts. Pure."""

from __future__ import annotations

import orjson

from viewer_pipeline.counting.counters import why_no_id

# One message must not make the views of others in its segment overflow the counter.
MAX_MESSAGE_COUNT = 1_000_000


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
    if type(count) is not int or count < 1:
        raise NotAView("count is not a positive integer")
    if count > MAX_MESSAGE_COUNT:
        raise NotAView(f"count is over {MAX_MESSAGE_COUNT}")
    return vod_id, count
