"""One look at counters, marker and folds, all at one moment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

from viewer_pipeline.errors import MarkerUnreadable
from viewer_pipeline.flush.marker import MARKER_FIELDS, Marker, parse_marker
from viewer_pipeline.monitoring.doctor.traffic import Folds
from viewer_pipeline.redis_names import RedisNames


class Look(NamedTuple):
    """What was seen."""

    counters: dict[str, int]  # those that hold a number; one that is missing holds none, which is zero
    marker: Marker | None
    folds: Folds
    space: bytes  # id of the key space: another one means that Redis was emptied

    @classmethod
    def commands(cls, names: RedisNames, ids: Sequence[str]) -> list[tuple[str, ...]]:
        """Return what to ask."""
        counters = [("MGET", *(names.prefix + vod_id for vod_id in ids))] if ids else []
        return [
            ("HMGET", names.marker, *MARKER_FIELDS),
            ("HMGET", names.subscriber, "folded", "segment", "part", "parts", "id"),
            *counters,
        ]

    @classmethod
    def read(cls, ids: Sequence[str], answers: Sequence[Any]) -> Self:
        """Read the answers."""
        marker, folds, *values = answers
        counters = zip(ids, values[0] if values else [], strict=True)
        numbers = {vod_id: int(value or 0) for vod_id, value in counters if _is_number(value)}
        return cls(numbers, _marker(marker), Folds.read(folds[:4]), folds[4] or b"")


def _is_number(value: bytes | None) -> bool:
    return value is None or value.removeprefix(b"-").isdigit()


def _marker(fields: list[bytes | None]) -> Marker | None:
    try:
        return parse_marker(fields)
    except MarkerUnreadable:
        return None
