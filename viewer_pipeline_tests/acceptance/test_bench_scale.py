"""`viewer-pipeline bench scale`, on servers of its own."""

from __future__ import annotations

from viewer_pipeline_tests.acceptance.test_cli import Environment, environment, json_of
from viewer_pipeline_tests.support.warm import run

__all__ = ["environment"]

WORDS = ("bench", "scale", "--counters", "600", "--streams", "1", "--streams", "3", "--postgres", "shared_buffers=16MB")


def test_each_number_of_streams_is_measured(environment: Environment) -> None:
    """First VODs that are new, then the same again; whatever was measured is plausible."""
    stats = json_of(run(environment, *WORDS, "--json"))["scale"]
    assert [(row["counters"], row["streams"], row["totals"]) for row in stats] == [
        (600, streams, totals) for streams in (1, 3) for totals in ("insert", "update")
    ]
    for row in stats:
        assert 0 < row["flush"] < row["complete_run"]
        assert row["counters_per_second"] > 100
        assert min(row["process_cpu"], row["redis_cpu"], row["ledger_bytes_per_counter"]) > 0
        assert row["process_peak_mb"] > 10


def test_a_setting_of_postgres_has_a_value(environment: Environment) -> None:
    """Without one, the server would not start."""
    done = run(environment, "bench", "scale", "--postgres", "shared_buffers")
    assert (done.returncode, "'shared_buffers' is not NAME=VALUE" in done.stderr) == (2, True)


def test_a_setting_that_postgres_refuses(environment: Environment) -> None:
    """The error has the end of its log, as the log itself is removed."""
    done = run(environment, "bench", "scale", "--postgres", "nonsense=1")
    assert done.returncode == 1
    assert 'unrecognized configuration parameter "nonsense"' in done.stderr
    assert done.stderr.endswith("remedy: check nonsense=1\n")
