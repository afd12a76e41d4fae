"""Which state is what, and in which words."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from viewer_pipeline import migrations
from viewer_pipeline.flush.ledger_rows import LastFlush
from viewer_pipeline.flush.marker import Marker
from viewer_pipeline.ingest.stats import SubscriberStats
from viewer_pipeline.monitoring.checks import Result, Results
from viewer_pipeline.monitoring.dagster_rules import DAEMONS, NAMES, Clock, in_words, judge_dagster, judge_runs
from viewer_pipeline.monitoring.dagster_tables import DagsterReading, FlushRun, Heartbeat, Instigator, Tick, sentence_of
from viewer_pipeline.monitoring.rules import (
    REVISION,
    judge_freshness,
    judge_marker,
    judge_memory,
    judge_postgres,
    judge_replication,
    judge_restart,
    judge_subscriber,
    judge_unsettled,
)
from viewer_pipeline.settings import Settings

NOW = 1_800_000_030.0  # half a minute after a full minute
GROWN = Clock.of(Settings(), NOW, NOW - 3600)
YOUNG = Clock.of(Settings(), NOW, NOW - 10)


def dagster(**changes: Any) -> DagsterReading:
    """Return a Dagster in which all is well, but for these changes."""
    well: dict[str, Any] = {
        "heartbeats": {name: Heartbeat(name, NOW - 5) for name in DAEMONS},
        "sensor": Instigator(running=True, tick=Tick("SUCCESS", NOW - 5)),
        "sweep": Instigator(running=True, tick=Tick("SKIPPED", NOW - 30, "nothing to flush")),
        "runs": [FlushRun("r1", success=True, ended=NOW - 9)],
    }
    return DagsterReading(**{**well, **changes})


def without(*dead: str, ago: float = 300) -> dict[str, Heartbeat]:
    """Return heartbeats of which some are old."""
    return {name: Heartbeat(name, NOW - (ago if name in dead else 5)) for name in DAEMONS}


def bad(results: Results) -> dict[str, str]:
    """States that are not healthy."""
    return {name: result.state for name, result in results.items() if result.state != "healthy"}


def test_all_well() -> None:
    """Every name is judged, with figures."""
    found = judge_dagster(dagster(), GROWN)
    assert set(found) == set(NAMES)
    assert bad(found) == {}
    assert found["daemon_sensor"] == Result("healthy", "seen 5 s ago", {"heartbeat_age_seconds": 5.0})
    assert found["sweep"].figures == {
        "running": True, "last_tick": "skipped", "seconds_since_tick": 30.0, "skip_reason": "nothing to flush"
    }  # fmt: skip
    assert found["flush_runs"].figures == {"last_run": "r1", "seconds_since_last": 9.0}


@pytest.mark.parametrize(
    ("dead", "states"),
    [
        (["MONITORING"], {"daemon_monitoring": "degraded"}),
        (["SENSOR"], {"daemon_sensor": "degraded"}),
        (["SCHEDULER"], {"daemon_scheduler": "degraded"}),
        (["SENSOR", "SCHEDULER"], {"daemon_sensor": "unhealthy", "daemon_scheduler": "unhealthy"}),
        (["QUEUED_RUN_COORDINATOR"], {"daemon_queued_run_coordinator": "unhealthy"}),
        (
            ["QUEUED_RUN_COORDINATOR", "ASSET"],
            {"daemon_queued_run_coordinator": "unhealthy", "daemon_asset": "degraded"},
        ),
    ],
)
def test_dead_daemons(dead: list[str], states: dict[str, str]) -> None:
    """Unhealthy where nothing can launch flushes any more, else degraded."""
    found = judge_dagster(dagster(heartbeats=without(*dead)), GROWN)
    assert bad(found) == states
    assert found[f"daemon_{dead[0].lower()}"].said == "has not been seen for 5 min"


def test_tolerance_of_heartbeats() -> None:
    """120 s, no more."""
    assert bad(judge_dagster(dagster(heartbeats=without("ASSET", ago=120)), GROWN)) == {}
    assert bad(judge_dagster(dagster(heartbeats=without("ASSET", ago=121)), GROWN)) == {"daemon_asset": "degraded"}


def test_dagster_that_never_ran() -> None:
    """Degraded while it may be starting, then unhealthy."""
    young, grown = judge_dagster(None, YOUNG), judge_dagster(None, GROWN)
    assert set(bad(young).values()) == {"degraded"}
    needed = ("daemon_sensor", "daemon_scheduler", "daemon_queued_run_coordinator", "sensor", "sweep")
    assert {name for name, state in bad(grown).items() if state == "unhealthy"} == set(needed)
    assert grown["daemon_sensor"].said == "Dagster has never run on this database"
    assert grown["flush_runs"].said == "no flush run has ended yet"


def test_a_daemon_not_seen_yet() -> None:
    """Degraded in the first 120 s of the worker, whichever it is."""
    beats = without()
    del beats["QUEUED_RUN_COORDINATOR"]
    young, grown = (judge_dagster(dagster(heartbeats=beats), clock) for clock in (YOUNG, GROWN))
    assert young["daemon_queued_run_coordinator"] == Result("degraded", "has not been seen yet")
    assert grown["daemon_queued_run_coordinator"] == Result("unhealthy", "has never been seen")


def test_a_daemon_that_complains() -> None:
    """It lives, and somebody should look."""
    beats = {**without(), "SENSOR": Heartbeat("SENSOR", NOW, "code location does not load")}
    found = judge_dagster(dagster(heartbeats=beats), GROWN)
    assert bad(found) == {"daemon_sensor": "degraded"}
    assert found["daemon_sensor"].said == "lives, and reports: code location does not load"


STOPPED = Instigator(running=False, tick=Tick("SUCCESS", NOW - 5))


def test_stopped_in_the_ui() -> None:
    """One: degraded; both: nothing launches flushes."""
    one = judge_dagster(dagster(sensor=STOPPED), GROWN)
    assert bad(one) == {"sensor": "degraded"}
    assert one["sensor"].said == "the sensor was stopped in Dagster's UI"
    both = judge_dagster(dagster(sensor=STOPPED, sweep=STOPPED), YOUNG)
    assert bad(both) == {"sensor": "unhealthy", "sweep": "unhealthy"}
    assert both["sweep"].said == "the sweep schedule was stopped in Dagster's UI; nothing launches flushes"


def test_ticks_that_fail() -> None:
    """Degraded, with the error."""
    failing = Instigator(running=True, tick=Tick("FAILURE", NOW - 4, "Redis does not answer"))
    found = judge_dagster(dagster(sensor=failing), GROWN)
    assert bad(found) == {"sensor": "degraded"}
    assert found["sensor"].said == "the last tick of the sensor, 4 s ago, failed: Redis does not answer"


@pytest.mark.parametrize(
    ("sensor_ago", "sweep_ago", "states"),
    [
        (149, 30, {}),
        (151, 30, {"sensor": "degraded"}),  # 30 s between ticks, and the tolerance
        (5, 150, {}),
        (5, 210, {"sweep": "degraded"}),  # the minute before the last two was its turn
        (151, 210, {"sensor": "unhealthy", "sweep": "unhealthy"}),
    ],
)
def test_ticks_that_do_not_come(sensor_ago: float, sweep_ago: float, states: dict[str, str]) -> None:
    """The code location does not load, say: the daemon lives, nothing is evaluated."""
    reading = dagster(
        sensor=Instigator(running=True, tick=Tick("SUCCESS", NOW - sensor_ago)),
        sweep=Instigator(running=True, tick=Tick("SUCCESS", NOW - sweep_ago)),
    )
    assert bad(judge_dagster(reading, GROWN)) == states


def test_no_tick_yet() -> None:
    """A sweep once a day runs long before it ticks."""
    waiting = Instigator(running=True, tick=None)
    assert bad(judge_dagster(dagster(sweep=waiting), GROWN)) == {}


def runs(*outcomes: bool) -> list[FlushRun]:
    """Return runs, newest first."""
    return [FlushRun(f"r{n}", success, NOW - 10 * n, "" if success else "why") for n, success in enumerate(outcomes, 1)]


@pytest.mark.parametrize(
    ("outcomes", "state", "said"),
    [
        ([], "healthy", "no flush run has ended yet"),
        ([True, False, False], "healthy", "the last flush run succeeded"),
        ([False, True, False], "degraded", "the last flush run failed: why"),
        ([False, False, True], "degraded", "the last 2 flush runs failed: why"),
        ([False, False], "degraded", "the last 2 flush runs failed: why"),
        ([False, False, False], "unhealthy", "the last 3 flush runs failed: why"),
    ],
)
def test_runs(outcomes: list[bool], state: str, said: str) -> None:
    """One failure is a hiccup, three are none."""
    found = judge_runs(runs(*outcomes), NOW)
    assert (found.state, found.said) == (state, said)


@pytest.mark.parametrize(
    ("policy", "state", "word"),
    [
        ("noeviction", "healthy", "no counter is evicted"),
        ("volatile-lru", "healthy", "only keys that expire"),
        ("allkeys-lru", "degraded", "evicts counters"),
        ("allkeys-random", "degraded", "evicts counters"),
        ("", "healthy", "does not tell"),
    ],
)
def test_maxmemory_policy(policy: str, state: str, word: str) -> None:
    """Said with what it would do."""
    found = judge_memory({"maxmemory_policy": policy} if policy else {})
    assert found.state == state
    assert word in found.said


def test_replica() -> None:
    """It takes no writes."""
    assert judge_replication({"role": "slave"}, 1.0).state == "unhealthy"
    assert judge_replication({"role": "master"}, 1.0) == Result(
        "healthy", "answers in 1.0 ms and takes writes", {"round_trip_ms": 1.0}
    )


@pytest.mark.parametrize(
    ("standby", "read_only", "revision", "word"),
    [
        (True, True, REVISION, "in recovery"),
        (False, True, REVISION, "read-only"),
        (False, False, "", "the schema `viewer` is missing; run `viewer-pipeline migrate`"),
        (False, False, "0001", f"at revision 0001, and {REVISION} is needed; run `viewer-pipeline migrate`"),
    ],
)
def test_postgres_that_cannot_commit(standby: bool, read_only: bool, revision: str, word: str) -> None:
    """Each with its reason."""
    found = judge_postgres(standby=standby, read_only=read_only, revision=revision, round_trip_ms=1)
    assert found.state == "unhealthy"
    assert word in found.said


def test_revision_is_that_of_the_migrations() -> None:
    """A newer one is no reason to complain: the database is migrated before the workers are."""
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    assert ScriptDirectory.from_config(config).get_current_head() == REVISION
    found = judge_postgres(standby=False, read_only=False, revision="9999", round_trip_ms=1)
    assert found.state == "healthy"


@pytest.mark.parametrize(
    ("figures", "state", "word"),
    [
        (SubscriberStats(), "degraded", "starting"),
        (SubscriberStats(state="listening"), "healthy", "listening; no message yet"),
        (SubscriberStats(state="standby"), "healthy", "standing by"),
        (
            SubscriberStats(state="reconnecting", reason="closed"),
            "unhealthy",
            "reconnecting: closed; what is published now is",
        ),
        (SubscriberStats(state="listening", refusal_reason="OOM"), "unhealthy", "stays in memory: OOM"),
        (SubscriberStats(state="stopping"), "degraded", "stopping"),
    ],
)
def test_subscriber(figures: SubscriberStats, state: str, word: str) -> None:
    """Every state of it."""
    found = judge_subscriber(figures)
    assert found.state == state
    assert word in found.said


def test_subscriber_tells_the_last_message() -> None:
    """Seconds since."""
    figures = SubscriberStats(state="listening", last_message=time.time() - 300)
    assert judge_subscriber(figures).said == "listening; last message 5 min ago"
    assert judge_subscriber(figures).figures["seconds_since_message"] >= 300


def test_freshness() -> None:
    """Against its limit."""
    assert judge_freshness(0, None, 300).said == "nothing is pending"
    assert judge_freshness(2, 300, 300) == Result(
        "healthy", "2 VODs are pending, the oldest for 5 min",
        {"pending_vods": 2, "oldest_pending_seconds": 300, "limit_seconds": 300},
    )  # fmt: skip
    old = judge_freshness(2, 301, 300)
    assert (old.state, old.said) == ("unhealthy", "2 VODs are pending, the oldest for 5 min: longer than 5 min")


@pytest.mark.parametrize(
    ("marker", "last", "state", "word"),
    [
        (None, 0, "healthy", "not ahead"),
        (None, 3, "degraded", "Redis was emptied"),
        (Marker(3, 1, 1), 3, "healthy", "not ahead"),
        (Marker(2, 1, 1), 3, "healthy", "not ahead"),
        (Marker(4, 1, 1), 3, "unhealthy", "PostgreSQL was rolled back, e.g. restored from a backup"),
    ],
)
def test_marker(marker: Marker | None, last: int, state: str, word: str) -> None:
    """Behind the ledger is no error; ahead of it, or gone, is."""
    found = judge_marker(marker, LastFlush(last, 1 if last else 0))
    assert found.state == state
    assert word in found.said


@pytest.mark.parametrize(("age", "state"), [(None, "healthy"), (59.0, "healthy"), (60.0, "degraded")])
def test_unsettled(age: float | None, state: str) -> None:
    """A minute is allowed for the next run."""
    assert judge_unsettled(0 if age is None else 2, age).state == state


@pytest.mark.parametrize(
    ("seconds", "words"), [(-1, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (172_800, "2 days")]
)
def test_in_words(seconds: float, words: str) -> None:
    """In the unit that people would take."""
    assert in_words(seconds) == words


def test_sentence_of_an_error() -> None:
    """The first error of ours in the chain, else the innermost; one line."""
    ours = {"message": "viewer_pipeline.errors.SchemaMissing: run migrate: x\n", "cause": {"message": "pg: inner"}}
    assert sentence_of({"message": "Exceeded max_retries\n", "cause": ours}) == "run migrate: x"
    assert (
        sentence_of({"message": "outer", "cause": {"message": "KeyError: 'a'\nmore", "cause": None}}) == "KeyError: 'a'"
    )
    assert sentence_of({"message": None, "cls_name": "Odd"}) == "Odd"


@pytest.mark.parametrize(
    ("up_seconds", "worker_seconds", "state"),
    [
        (5, 100, "degraded"),
        (5, 6.1, "degraded"),
        (5, 5.9, "healthy"),
        (0, 0.3, "healthy"),
        (61, 100, "healthy"),
        (None, 100, "healthy"),
    ],
)
def test_a_server_that_was_restarted(up_seconds: float | None, worker_seconds: float, state: str) -> None:
    """For a minute, and only if the worker was there before it."""
    found = judge_restart(Result("healthy", "answers", {"round_trip_ms": 1}), up_seconds, worker_seconds)
    assert found.state == state
    assert found.said == ("answers; it was restarted 5 s ago" if state == "degraded" else "answers")
    assert found.figures == {"round_trip_ms": 1}


def test_a_restart_does_not_make_it_better() -> None:
    """What is worse is said."""
    bad = Result("unhealthy", "a replica")
    assert judge_restart(bad, 1, 100) is bad
