"""The partitions of `view_counts`: the parts into which FLUSH_STREAMS cuts the VODs; none if it is 1.

A run flushes the parts that its tags name; without such tags, all of them, side by side.
"""

import warnings
from collections.abc import Mapping, Sequence

import dagster as dg
from dagster._core.launcher import DefaultRunLauncher

from viewer_pipeline.errors import StreamsRefused
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.orchestration.partitions import RANGE_END, RANGE_START
from viewer_pipeline.orchestration.settings_resource import LOADED
from viewer_pipeline.streams import Stream
from viewer_pipeline.this_process import name_this_process

# Checks by partition need this preview feature. Ignored here and not in pytest's settings: users would see it too.
warnings.filterwarnings("ignore", "Specifying a partitions_def on an AssetCheckSpec", dg.PreviewWarning)

STREAM_TAG = "viewer/stream"  # dagster.yaml allows one run at a time for each of its values
ALL = "all"
NAMES = [Stream(0, part, LOADED.flush_streams).name for part in range(LOADED.flush_streams)]
STREAMS = dg.StaticPartitionsDefinition(NAMES) if len(NAMES) > 1 else None
PARTITION = "dagster/partition"
STREAM_TAGS = (PARTITION, RANGE_START, RANGE_END, STREAM_TAG)  # by which a run names its parts


def has_run_for_each_stream(instance: dg.DagsterInstance) -> bool:
    """Whether each stream gets a run of its own, which may be on another machine; else one run flushes all of them."""
    return STREAMS is not None and not isinstance(instance.run_launcher, DefaultRunLauncher)


def stream_tags(names: Sequence[str] = NAMES) -> dict[str, str]:
    """Return the tags of a run that flushes one part, or all of them."""
    if STREAMS is None:
        return {}
    if len(names) == 1:
        return {PARTITION: names[0], STREAM_TAG: names[0]}
    return {RANGE_START: NAMES[0], RANGE_END: NAMES[-1], STREAM_TAG: ALL}


def streams_of_run(stores: Stores, tags: Mapping[str, str]) -> list[Stores]:
    """Return the streams that a run with these tags flushes.

    Raises StreamsRefused as `of_each_stream` does, and where the tags name parts of another number of streams.
    """
    streams = stores.of_each_stream()
    names = [stream.ledger.stream.name for stream in streams]
    first, last = tags.get(RANGE_START), tags.get(RANGE_END)
    if PARTITION in tags:
        first = last = tags[PARTITION]
    if first is None or last is None:
        return streams
    if first not in names or last not in names:
        raise StreamsRefused(
            f"the run is for {first} to {last}, and {name_this_process()} has FLUSH_STREAMS={len(names)},"
            " as the ledger has; restart the processes that have an old value"
        )
    return streams[names.index(first) : names.index(last) + 1]
