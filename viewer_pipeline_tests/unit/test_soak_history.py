"""The history of a soak is a history for tools.judge, and as exact in time as the requests are."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

from tools.judge import read_history
from viewer_pipeline.bench.soak_history import SoakHistory
from viewer_pipeline.bench.soak_producer import Sent

REQUESTS = [(10.0, 10.1), (10.1, 10.2), (10.2, 15.0), (15.0, 15.1), (15.1, 15.25), (15.25, 15.4)]


def test_a_request_that_took_long_has_a_line_of_its_own(tmp_path: Path) -> None:
    """Its time does not blur that of the short ones before and after it, which are summed up."""
    history = SoakHistory(tmp_path / "history")
    history.start("test")
    sent = Sent(history)
    for begin, end in REQUESTS:
        with patch("viewer_pipeline.bench.soak_producer.time.monotonic", return_value=end):
            sent.add(begin, ["a", "a", "b"])
    sent.write_line()
    history.append("final", 20, 21, persisted=sent.counted)
    lines = [(line.begin, line.end, line.maps["views"]) for line in read_history(tmp_path / "history")]
    assert lines[1:-1] == [
        (10.0, 10.2, {"a": 4, "b": 2}),
        (10.2, 15.0, {"a": 2, "b": 1}),
        (15.0, 15.25, {"a": 4, "b": 2}),
        (15.25, 15.4, {"a": 2, "b": 1}),
    ]
    assert sent.counted == {"a": 12, "b": 6}
