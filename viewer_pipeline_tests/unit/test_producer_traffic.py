"""Which PUBSUB_MODE producers need, from what MONITOR showed; and the lines of MONITOR."""

from __future__ import annotations

import pytest

from viewer_pipeline.monitoring.doctor.pubsub_mode_of_producers import ProducerTraffic, evaluate_producers
from viewer_pipeline.monitoring.doctor.redis_monitor import ObservedViews, Source, _MonitorLineParser
from viewer_pipeline.setting_types import PubSubMode
from viewer_pipeline.settings import Settings

SECONDS = 10.0
MESSAGE = r'"PUBLISH" "view_count_updates" "{\"vodId\":\"a b\",\"count\":3}"'


def watched(*parts: tuple[str, Source, int], at: float = 5.0) -> list[ObservedViews]:
    """Return `number` single views of a VOD from each source."""
    return [ObservedViews(at, vod_id, 1, source) for vod_id, source, number in parts for _ in range(number)]


def result_of(observed: list[ObservedViews], mode: PubSubMode, others: int = 0) -> tuple[str, str]:
    """Return status and message."""
    settings = Settings(pubsub_mode=mode)
    result = evaluate_producers(ProducerTraffic.of(observed, SECONDS), settings, others)
    assert result.passed or result.remedy
    return result.status, result.message


@pytest.mark.parametrize(
    ("observed", "mode", "status", "message"),
    [
        (watched(("a", "message", 9), ("a", "producer", 9)), "announce", "healthy", "producers count themselves"),
        (
            watched(("a", "message", 9), ("a", "producer", 9)),
            "increment",
            "unhealthy",
            "producers count themselves",
        ),
        (watched(("a", "message", 9)), "increment", "healthy", "producers only publish, and PUBSUB_MODE is increment"),
        (watched(("a", "message", 9)), "announce", "unhealthy", "producers only publish, and PUBSUB_MODE is announce"),
        (watched(("a", "message", 9), ("a", "worker", 9)), "increment", "healthy", "producers only publish"),
        (
            watched(("a", "message", 9), ("a", "producer", 9), ("a", "worker", 9)),
            "announce",
            "unhealthy",
            "views are counted 2.0 times per message (seen in 9 views of 1 VOD)",
        ),
        (
            watched(("a", "message", 9), ("a", "producer", 18)),
            "announce",
            "unhealthy",
            "views are counted 2.0 times per message",
        ),
        (
            watched(("a", "message", 9), ("a", "producer", 9), ("b", "message", 9)),
            "announce",
            "unhealthy",
            "some producers count themselves and some only publish: views of a are counted, views of b are not",
        ),
        (
            watched(("a", "message", 900), ("a", "producer", 900), ("b", "message", 5)),
            "announce",
            "unhealthy",
            "some producers count themselves and some only publish",
        ),
        (watched(("a", "message", 4), ("a", "producer", 4)), "announce", "unknown", "4 views published on view_"),
        (watched(("a", "producer", 99)), "announce", "unknown", "0 views published on view_count_updates"),
        ([], "announce", "unknown", "0 views published"),
        (
            watched(("a", "announcement", 9), ("a", "producer", 9)),
            "announce",
            "healthy",
            "producers count themselves, and PUBSUB_MODE is announce (seen in 9 views",
        ),
        (
            watched(("a", "announcement", 9), ("a", "producer", 90)),  # ten views for each announcement
            "announce",
            "healthy",
            "producers count themselves",
        ),
        (
            watched(("a", "announcement", 9), ("a", "producer", 9)),
            "increment",
            "unhealthy",
            "producers count themselves, and PUBSUB_MODE is increment",
        ),
        (
            watched(("a", "announcement", 9), ("a", "producer", 90), ("b", "message", 9), ("b", "producer", 18)),
            "announce",
            "unhealthy",
            "views are counted 2.0 times per message",
        ),
    ],
)
def test_evaluate_producers(observed: list[ObservedViews], mode: PubSubMode, status: str, message: str) -> None:
    """Each outcome; none below five views in messages."""
    result = result_of(observed, mode)
    assert result[0] == status
    assert result[1].startswith(message)


def test_additions_within_the_margin_belong_to_messages() -> None:
    """An INCR a moment before the first message, or after the last one, is not missing."""
    observed = watched(("a", "producer", 1), at=0.4) + watched(("a", "message", 1), at=0.6)
    observed += watched(("a", "producer", 4), ("a", "message", 3)) + watched(("a", "message", 1), at=10.4)
    observed += watched(("a", "message", 9), at=0.4) + watched(("a", "message", 9), at=10.6)  # beyond the margins
    assert result_of(observed, "announce")[0] == "healthy"


def test_other_subscribers_may_count() -> None:
    """Counters that rise with the messages prove nothing while another program is subscribed."""
    status, message = result_of(watched(("a", "message", 9), ("a", "producer", 9)), "announce", others=1)
    assert (status, message.endswith("or the channel's 1 other subscriber may count")) == ("degraded", True)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('[0 127.0.0.1:5] "INCR" "vod:views:a"', ObservedViews(0.0, "a", 1, "producer")),
        ('[0 [::1]:5] "incrby" "vod:views:a" "7"', ObservedViews(0.0, "a", 7, "producer")),
        ('[0 unix:/run/redis.sock] "INCR" "vod:views:a"', ObservedViews(0.0, "a", 1, "producer")),
        (r'[0 127.0.0.1:5] "INCR" "vod:views:\" \"\xc3\xa4\\n\n"', ObservedViews(0.0, '" "ä\\n\n', 1, "producer")),
        (f"[3 127.0.0.1:5] {MESSAGE}", ObservedViews(0.0, "a b", 3, "message")),
        (r'[0 [::1]:5] "PUBLISH" "view_count_updates" "{\"vodId\":\"a\"}"', ObservedViews(0.0, "a", 1, "announcement")),
        ('[0 lua] "INCR" "vod:views:a"', ObservedViews(0.0, "a", 1, "producer")),
        ('[1 127.0.0.1:5] "INCR" "vod:views:a"', None),  # another database
        ('[0 127.0.0.1:5] "INCR" "other:a"', None),
        ('[0 127.0.0.1:5] "DECRBY" "vod:views:a" "1"', None),
        ('[0 127.0.0.1:5] "PUBLISH" "view_count_updates" "no view"', None),
        ('[0 127.0.0.1:5] "PUBLISH" "view_count_updates_2" "x"', None),
        ('[0 127.0.0.1:5] "SET" "secret" "INCR"', None),
        ("OK", None),
    ],
)
def test_line_of_monitor(line: str, expected: ObservedViews | None) -> None:
    """Counters of this pipeline and messages of its channel; nothing else."""
    assert _MonitorLineParser(Settings()).parse(f"1795844604.396744 {line}".encode()) == expected


def test_script_of_ours_is_a_worker() -> None:
    """Commands within a script that names a key of ours are folds; those of other scripts are a producer's."""
    parser = _MonitorLineParser(Settings())
    addition = b'1.0 [0 lua] "INCRBY" "vod:views:a" "2"'
    assert parser.parse(b'1.0 [0 10.0.0.1:5] "EVALSHA" "abc" "2" "viewer:subscriber" "vod:views:a" "2"') is None
    assert [parser.parse(addition), parser.parse(addition)] == [ObservedViews(0.0, "a", 2, "worker")] * 2
    parser.parse(b'1.0 [0 10.0.0.1:5] "EVAL" "return 1" "1" "vod:views:a"')
    assert parser.parse(addition) == ObservedViews(0.0, "a", 2, "producer")
