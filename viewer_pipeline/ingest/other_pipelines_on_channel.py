"""Whether other pipelines count the same messages: channels span all databases of a Redis, and all its pipelines."""

from __future__ import annotations

import logging
import time

from viewer_pipeline.ingest.subscriber_scripts import SubscriberScripts
from viewer_pipeline.logs import event
from viewer_pipeline.redis_names import presence_channel
from viewer_pipeline.settings import Settings

log = logging.getLogger("viewer_pipeline.shared_channel")

CHECK_SECONDS = 30.0
REMEDY = "give each pipeline a PUBSUB_CHANNEL of its own, unless each is meant to count every message"


class SharedChannelCheck:
    """Checks from time to time, and logs a change. Only where messages carry views (PUBSUB_MODE=increment)."""

    def __init__(self, scripts: SubscriberScripts, settings: Settings) -> None:
        self._scripts, self._channel = scripts, settings.pubsub_channel
        self._counts = settings.pubsub_mode == "increment"
        self._due, self._last_count = 0.0, 0

    @property
    def presence_channels(self) -> list[str]:
        """Return the channels that a worker subscribes to only so that other pipelines can count it."""
        return [presence_channel(self._channel)] if self._counts else []

    def check_if_due(self, key_space: str) -> None:
        """Check if it is time, and log where others came or left; after a change, check again a second later."""
        now = time.monotonic()
        if not self._counts or now < self._due:
            return
        others = self._scripts.count_workers_of_other_pipelines(key_space, self._channel)
        self._due = now + (CHECK_SECONDS if others == self._last_count else 1.0)
        if others and not self._last_count:
            log.warning(event("channel_shared", channel=self._channel, others=others, remedy=REMEDY))
        elif self._last_count and not others:
            log.info(event("channel_not_shared", channel=self._channel))
        self._last_count = others
