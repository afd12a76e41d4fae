"""Names of this pipeline's own keys and channels in Redis, derived from the counter prefix. Pure.

Several pipelines can share one Redis: each has names of its own, and all are listed in one registry.
"""

from __future__ import annotations

import re
from typing import NamedTuple, Self

from viewer_pipeline.streams import WHOLE, Stream

DEFAULT_PREFIX = "vod:views:"
REGISTRY_KEY = "viewer:pipelines"  # hash: counter prefix -> its ledger and database
MARKER, CHANGED, SUBSCRIBER, CUTS = "viewer:settled", "viewer:changed", "viewer:subscriber", "viewer:cuts:"
# Nothing is published on it: workers that count the messages of a channel subscribe to it.
PRESENCE = "viewer:counting:"
KEY_NAMESPACES = (CHANGED, REGISTRY_KEY, MARKER, SUBSCRIBER)
CHANNEL_NAMESPACES = (CUTS, PRESENCE)
# Version 0.1.0 used these names with every prefix; their present content makes it refuse to run.
OLD_MARKER, OLD_SUBSCRIBER, OLD_CHANGED = MARKER, SUBSCRIBER, CHANGED


class RedisNames(NamedTuple):
    """The keys of one stream of a pipeline. `cuts`: prefix of the channel for cuts. `tag`: ends all keys in a cluster.

    Streams share all but the marker, which is named after the stream, and the changed set, after the part of the VODs.
    """

    prefix: str
    marker: str
    changed: str
    subscriber: str
    cuts: str
    tag: str = ""

    @classmethod
    def of(cls, prefix: str, stream: Stream = WHOLE) -> Self:
        """Return the names for a counter prefix. Different prefixes have different names."""
        marker = f"{MARKER}@{stream.id}" if stream.id else MARKER
        changed = f"{CHANGED}@{stream.name}" if stream.parts > 1 else CHANGED
        if prefix == DEFAULT_PREFIX:
            return cls(prefix, marker, changed, SUBSCRIBER, CUTS)
        ending = escape_braces(prefix)
        return cls(prefix, f"{marker}:{ending}", f"{changed}:{ending}", f"{SUBSCRIBER}:{ending}", f"{CUTS}{ending}:")

    def with_tag(self, tag: str) -> Self:
        """Return the same names with this hash tag, such as `{viewer}`: a cluster keeps them in one slot."""
        keys = (f"{key}:{tag}" for key in (self.marker, self.changed, self.subscriber))
        return self._replace(tag=f":{tag}", **dict(zip(("marker", "changed", "subscriber"), keys, strict=True)))

    @property
    def registry(self) -> str:
        """The key of the registry of all pipelines of this Redis."""
        return REGISTRY_KEY + self.tag

    @property
    def old_marker(self) -> str:
        """The key of the marker of version 0.1.0, which made no keys in a cluster."""
        return OLD_MARKER + self.tag

    @property
    def old_subscriber(self) -> str:
        """The key of the subscriber of version 0.1.0."""
        return OLD_SUBSCRIBER + self.tag

    @property
    def pipeline_keys(self) -> tuple[str, str, str]:
        """The keys of the pipeline, without the counters."""
        return self.changed, self.marker, self.subscriber

    @property
    def stream_patterns(self) -> tuple[str, str]:
        """Patterns of keys that belong to streams but the first, of all pipelines."""
        return f"{MARKER}@*", f"{CHANGED}@*"

    def is_of_stream(self, key: str) -> bool:
        """Whether a key is a marker or a changed set of some stream of this pipeline, and not of its first."""
        ending = re.escape(self.of(self.prefix).marker.removeprefix(MARKER)) + (r":\{[^{}]*\}" if self.tag else "")
        return re.fullmatch(rf"({MARKER}@\d+|{CHANGED}@\d+of\d+){ending}", key) is not None

    def cuts_channel(self, key_space: str) -> str:
        """Return the channel for cuts of a key space."""
        return self.cuts + key_space

    def registration_keys(self) -> tuple[str, ...]:
        """Return the keys that a script reads and writes to enter this pipeline in the registry."""
        return self.registry, self.old_marker, self.old_subscriber, self.marker, self.subscriber


def escape_braces(prefix: str) -> str:
    """Return a prefix without braces, which Redis Cluster would read as a hash tag. Reversible."""
    return re.sub(r"[%{}]", lambda brace: f"%{ord(brace[0]):02X}", prefix)


def presence_channel(channel: str) -> str:
    """Return the channel to which workers subscribe that count the messages of `channel`."""
    return PRESENCE + channel


def check_redis_names(counter_prefix: str, pubsub_channel: str, totals_channel: str) -> None:
    """Check that these settings overlap neither with each other nor with our own names. Raises ValueError."""
    for key in KEY_NAMESPACES:
        if key.startswith(counter_prefix):
            raise ValueError(f"COUNTER_PREFIX={counter_prefix!r}: our own key {key} begins with it")
        if counter_prefix.startswith(key):
            raise ValueError(f"COUNTER_PREFIX={counter_prefix!r}: names that begin with {key} are reserved")
    for name, channel in (("PUBSUB_CHANNEL", pubsub_channel), ("TOTALS_CHANNEL", totals_channel)):
        for namespace in CHANNEL_NAMESPACES:
            if channel.startswith(namespace):
                raise ValueError(f"{name}={channel!r}: names that begin with {namespace} are reserved")
    if pubsub_channel == totals_channel:
        raise ValueError(
            f"TOTALS_CHANNEL={totals_channel!r}: expected another name than PUBSUB_CHANNEL, or the worker"
            " would receive its own totals as views"
        )
