"""The Redis hash `viewer:subscriber`: the lease, how far cutting and folding got, and requests of the subscriber."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

from viewer_pipeline.errors import SubscriberStateUnreadable
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.stores.redis import as_text

MAX_LEASE_MS = 120_000  # no lease is as long: the clock of Redis was set back since (claim.lua)


@dataclass(frozen=True)
class SubscriberState:
    """One attribute for each field of the hash, under the same name. Times are in ms, by the clock of Redis.

    A missing field reads as an empty text or as 0. The scripts in `ingest/lua` write the hash; `adopt` and `upgrade` in
    `flush/lua` move it to another ledger or version.
    """

    id: str = ""  # of the key space, which the channel for cuts is named after
    format: str = ""
    ledger: str = ""  # whose counters the lease was taken for
    place: str = ""  # host, port and name of that ledger's database
    holder: str = ""  # fencing token of the worker that folds
    worker: str = ""  # host and process id of that worker
    expires: int = 0
    term: int = 0  # how often the lease was acquired
    late: int = 0  # since when workers that have not received everything try to acquire the lease
    tried: int = 0  # when one of them tried last
    last_message: int = 0  # when the holder received its last message; 0: none
    cut: int = 0  # number of the last cut
    folded: int = 0  # all segments up to this number are folded
    segment: int = 0  # the segment that was folded last, or is being folded: `part` of its `parts` are written
    part: int = 0
    parts: int = 0
    node: str = ""  # of a cluster: the id of the node that published the last cut
    node_since: int = 0  # when it published its first one (µs), for a second or more after those of another node; 0
    sweep: str = ""  # a request for a sweep: time (ns), a blank, the reason
    sweep_position: str = ""  # where a sweep continues that is under way (flush/sweep_position.py)
    settings: str = ""  # in use, as JSON (flush/recorded_settings.py)
    until: str = ""  # a sentence where version 0.1.0 expects a number, so that it refuses to run

    @classmethod
    def read(cls, store: RedisStore) -> Self:
        """Read the hash of one pipeline. Raises RedisUnavailable, RedisFailed, SubscriberStateUnreadable."""
        return cls.parse(store.subscriber_fields(FIELDS))

    @classmethod
    def parse(cls, values: Sequence[bytes | None]) -> Self:
        """Return the state from the values of FIELDS, in that order. Raises SubscriberStateUnreadable."""
        parsed: dict[str, Any] = {}
        for field, value in zip(fields(cls), values, strict=True):
            if value is None:
                continue
            try:
                parsed[field.name] = int(value) if isinstance(field.default, int) else as_text(value)
            except ValueError:
                raise SubscriberStateUnreadable(f"{field.name} = {value!r} is not an integer") from None
        return cls(**parsed)

    def is_lease_held_by_any_worker(self, now_ms: float) -> bool:
        """Whether a worker holds the lease at this time of Redis's clock."""
        return 0 < self.expires - now_ms < MAX_LEASE_MS


FIELDS = tuple(field.name for field in fields(SubscriberState))
