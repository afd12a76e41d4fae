"""What `status` reads and prints, and why it says nothing was done."""

from __future__ import annotations

import json
import time

import dagster as dg
import psycopg
import pytest
import redis

from viewer_pipeline.monitoring.dagster_rules import DAEMONS
from viewer_pipeline.monitoring.dagster_tables import SENSOR, SWEEP
from viewer_pipeline.monitoring.status import read_status, show_status
from viewer_pipeline.settings import Settings
from viewer_pipeline.stack.ports import LOOPBACK
from viewer_pipeline_tests.support.dagster_world import DagsterWorld, error_of
from viewer_pipeline_tests.support.world import PREFIX, World

SECRET = "s3cret:with@signs"


def listens(client: redis.Redis, *, left_ms: int = 6000, heard_ago_ms: int = 3000) -> None:
    """Put the lease of a worker into Redis."""
    now = time.time_ns() // 1_000_000
    client.hset("viewer:subscriber", mapping={"holder": "token", "worker": "host:7"})
    client.hset("viewer:subscriber", mapping={"expires": now + left_ms, "last_message": now - heard_ago_ms})


def printed(settings: Settings, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """Return the printed lines by the word they begin with; `why` has all its lines."""
    show_status(read_status(settings))
    lines = capsys.readouterr().out.splitlines()
    found = {line[:10].strip(): line[11:] for line in lines if line[:10].strip()}
    if "why" in found:
        start = next(number for number, line in enumerate(lines) if line.startswith("why"))
        found["why"] = "\n".join(line[11:] for line in lines[start:])
    return found


@pytest.fixture
def well(dagster: DagsterWorld, client: redis.Redis) -> DagsterWorld:
    """Dagster and a worker at work, and nothing to do."""
    dagster.beat_all()
    dagster.register()
    dagster.tick(SENSOR, 3, skip="no VOD was announced since the last flush")
    dagster.tick(SWEEP, 20, skip="no key vod:views:* holds views: nothing to flush")
    listens(client)
    return dagster


@pytest.mark.usefixtures("well")
def test_nothing_was_sent(dagster_settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    """All is well: the last reasons of sensor and sweep, and that nothing is waiting."""
    found = printed(dagster_settings, capsys)
    assert found["subscriber"].startswith("host:7 listens; last message ")
    assert found["daemons"] == "all 8 of Dagster live"
    assert found["sensor"].endswith("s ago, skipped: no VOD was announced since the last flush")
    assert found["runs"] == "no flush run has ended yet"
    why = found["why"].splitlines()
    assert why[0] == "nothing was persisted so far:"
    assert why[1].startswith("the sensor skipped ")
    assert why[1].endswith(" ago: no VOD was announced since the last flush")
    assert why[2].endswith(" ago: no key vod:views:* holds views: nothing to flush")
    assert why[3].startswith("nothing is waiting: no VOD is announced, and the last message was heard ")
    assert len(why) == 4


@pytest.mark.usefixtures("well")
def test_something_was_done(
    dagster_settings: Settings, world: World, client: redis.Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    """A flush a moment ago needs no reasons; rejects are told by reason."""
    listens(client)
    world.send("a", 5)
    client.mset({PREFIX + "bad": "abc", PREFIX + "worse": "x", PREFIX + "less": "-3"})
    world.flush()
    found = printed(dagster_settings, capsys)
    assert "why" not in found
    assert found["persisted"] == "5 views of 1 VODs"
    assert found["rejected"] == "3 inputs (table viewer.rejected): 2 value is not an integer; 1 value is negative"
    assert found["marker"] == "flush 1, batch 1 of 1; the ledger's last flush is 1"


def test_dagster_never_ran(dagster_settings: Settings, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """Its tables are missing: the rest is shown, and what to start."""
    world.send("a", 5, announce=True)
    found = printed(dagster_settings, capsys)
    assert found["pending"].startswith("1 announced VODs, the oldest for ")
    assert found["daemons"] == "Dagster has never run on this database"
    why = found["why"].splitlines()
    assert why[1] == "Dagster has never run on this database: start its daemon, or `viewer-pipeline up`"
    assert "nobody listens to view_count_updates: start `viewer-pipeline worker`" in why
    assert found["subscriber"].startswith("nobody listens: messages that are published now are missed")


def test_daemon_not_seen(well: DagsterWorld, dagster_settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    """One line for all of them: they are one process."""
    well.beat_all(ago=310)
    found = printed(dagster_settings, capsys)
    assert found["daemons"] == "has not been seen for 5 min"
    assert found["why"].splitlines()[1] == "Dagster's daemon has not been seen for 5 min"


def test_one_daemon_not_seen(
    well: DagsterWorld, dagster_settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its name."""
    well.beat("SCHEDULER", ago=310)
    found = printed(dagster_settings, capsys)
    assert found["daemons"] == "SCHEDULER: has not been seen for 5 min"
    assert found["why"].splitlines()[1] == "Dagster's daemon SCHEDULER has not been seen for 5 min"


def test_sensor_stopped(well: DagsterWorld, dagster_settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    """In the UI."""
    well.register(sensor=False)
    assert "the sensor was stopped in Dagster's UI" in printed(dagster_settings, capsys)["why"].splitlines()


def test_failures(well: DagsterWorld, dagster_settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the last run and the last tick, with their reasons and without passwords."""
    cause = error_of(f"viewer_pipeline.errors.RedisUnavailable: Redis does not answer: redis://:{SECRET}@h:1: no\n")
    well.tick(SENSOR, error=error_of("Error occurred\n", cause))
    well.run(dg.DagsterRunStatus.FAILURE)
    why = printed(dagster_settings, capsys)["why"]
    assert "the last flush run failed: its process ended" in why.splitlines()
    assert "failed: Redis does not answer: redis://:***@h:1: no" in why
    assert SECRET not in why


@pytest.mark.usefixtures("well")
def test_views_that_wait(dagster_settings: Settings, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is wrong: the sensor has its interval."""
    world.send("a", 5, announce=True)
    assert "1 VODs wait for the sensor, which looks every 30 s" in printed(dagster_settings, capsys)["why"].splitlines()


@pytest.mark.usefixtures("well")
def test_lease_that_ran_out(dagster_settings: Settings, client: redis.Redis) -> None:
    """The worker is gone without a word."""
    listens(client, left_ms=-1)
    found = read_status(dagster_settings)["subscriber"]
    assert (found["listens"], found["who"]) == (False, None)


def test_dagster_storage_out_of_reach(dagster_settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    """It has a database of its own: the rest is shown."""
    elsewhere = dagster_settings.changed(dagster_database_url=f"postgresql://me:s3cret@{LOOPBACK}:1/x")
    found = printed(elsewhere, capsys)
    assert found["persisted"] == "0 views of 0 VODs"
    assert "Dagster's storage" in found["daemons"]
    assert "s3cret" not in str(found)


@pytest.mark.usefixtures("well")
def test_restored_postgres(dagster_settings: Settings, client: redis.Redis, capsys: pytest.CaptureFixture[str]) -> None:
    """The marker is ahead of the ledger."""
    client.hset("viewer:settled", mapping={"flush": 7, "batch": 1, "batches": 1})
    assert "; PostgreSQL was rolled back" in printed(dagster_settings, capsys)["marker"]


@pytest.mark.usefixtures("well")
def test_json(dagster_settings: Settings, world: World) -> None:
    """Everything has a plain form; reasons are sentences."""
    world.send("a", 5)
    world.flush()
    with psycopg.connect(dagster_settings.require_database_url()) as connection:
        connection.execute("UPDATE viewer.flush SET committed_at = now() - interval '1 hour'")
    found = json.loads(json.dumps(read_status(dagster_settings), default=str))
    assert set(found["daemons"]) == set(DAEMONS)
    assert {check["state"] for check in found["daemons"].values()} == {"healthy"}
    assert found["sensor"]["skip_reason"] == "no VOD was announced since the last flush"
    assert found["dagster"] is True
    assert found["subscriber"]["who"] == "host:7"
    assert found["why"][0] == "nothing was persisted for 60 min:"
