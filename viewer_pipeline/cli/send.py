"""Views sent by hand."""

from __future__ import annotations

from typing import Any

import orjson

from viewer_pipeline.errors import SettingsError
from viewer_pipeline.flush.counters import why_no_id
from viewer_pipeline.settings import Settings
from viewer_pipeline.stores.redis import connect, redis_errors


def send_views(settings: Settings, vod_id: str, count: int, how: str) -> dict[str, Any]:
    """Send `count` views as a producer does: by `publish`, `incr`, or `both`. Raises SettingsError for a bad id."""
    if reason := why_no_id(vod_id):
        raise SettingsError(f"VOD_ID={vod_id[:40]!r}: {reason}")
    url = settings.require_redis_url()
    heard = 0
    with connect(url) as client, redis_errors(url):
        if how in ("incr", "both"):
            client.incrby(settings.counter_prefix + vod_id, count)
        if how in ("publish", "both"):
            heard = client.publish(settings.pubsub_channel, orjson.dumps({"vodId": vod_id, "count": count}))
    return {"vod_id": vod_id, "count": count, "how": how, "heard": heard}
