"""What one run is to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from viewer_pipeline.setting_types import RedisWithoutMarker
from viewer_pipeline.settings import RUN_COUNTERS
from viewer_pipeline.streams import WHOLE, Stream

if TYPE_CHECKING:  # imports the client of Redis, which a command line without it does not need
    from viewer_pipeline.flush.shared_scan import SharedScan

Mode = Literal["changed", "sweep", "ids"]


@dataclass(frozen=True)
class FlushRequest:
    """The request of one run. `vod_ids` are for the mode `ids` alone, `announced_before` (Unix time) for `changed`."""

    run_id: str
    mode: Mode = "sweep"
    vod_ids: tuple[str, ...] = ()
    batch_size: int = 100
    flush_max_counters: int = 10_000
    run_max_counters: int = RUN_COUNTERS
    announced_before: float | None = None
    parked_retention_days: int | None = None
    redis_without_marker: RedisWithoutMarker = "hold"
    stream: Stream = WHOLE  # whose VODs it reads; `drain` sets it
    shared_scan: SharedScan | None = None  # of a sweep of several streams
