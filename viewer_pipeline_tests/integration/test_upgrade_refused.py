"""`migrate` does not begin the upgrade from version 0.1.0 while anything of that version is alive."""

from __future__ import annotations

import re
import time
from typing import Any

import dagster as dg
import pytest

from viewer_pipeline.definitions import defs
from viewer_pipeline.errors import OldVersionRuns, SettingsError
from viewer_pipeline.migrations.migrate import migrate_all
from viewer_pipeline.monitoring.dagster_tables import JOB
from viewer_pipeline.settings import Settings
from viewer_pipeline.stack import postgres_and_redis_migration
from viewer_pipeline.stack.postgres_and_redis_migration import MigrationResult, migrate_postgres_and_redis
from viewer_pipeline_tests.support.dagster_world import DagsterWorld
from viewer_pipeline_tests.support.stored import Stored
from viewer_pipeline_tests.support.waiting import ENOUGH, wait_until

pytestmark = pytest.mark.parametrize("stored", ["half_settled-shop"], indirect=True)
DONE = MigrationResult("0007", "0014", redis_moved=True)
HOUR = 3600.0


@pytest.fixture(autouse=True)
def _short_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take a daemon for dead after less than a second."""
    monkeypatch.setattr(postgres_and_redis_migration, "SILENT_SECONDS", 0.5)
    monkeypatch.setattr(postgres_and_redis_migration, "POLL_SECONDS", 0.02)


def refused(stored: Stored, *, alone: bool = False) -> str:
    """Try to upgrade: return the error. Neither server may have changed."""
    before = stored.everything()
    with pytest.raises(OldVersionRuns) as raised:
        stored.migrate(alone=alone)
    assert stored.schema == "0007"
    assert stored.everything() == before
    return str(raised.value)


def lease_for(stored: Stored, seconds: float) -> None:
    """Let a worker of version 0.1.0 hold the lease so much longer."""
    until = int(1000 * (stored.stores.redis.now().timestamp() + seconds))
    stored.client.hset("viewer:subscriber", mapping={"holder": "token", "who": "host:7", "until": until})


def cuts(stored: Stored) -> str:
    """Return the channel of the cuts of version 0.1.0."""
    return f"viewer:cuts:{stored.expected['subscriber']['id']}"


def subscribers(stored: Stored) -> int:
    """Return how many are subscribed to it."""
    reply: Any = stored.client.pubsub_numsub(cuts(stored))
    return int(reply[0][1])


@pytest.mark.parametrize("alone", [False, True])
def test_a_worker_that_holds_the_lease(stored: Stored, alone: bool) -> None:
    """It is named, and what to do."""
    lease_for(stored, HOUR)
    message = refused(stored, alone=alone)
    assert "Version 0.1.0 still runs, and this is an upgrade for which all of it must be stopped" in message
    assert "worker host:7; stop it, wait 10 s, and migrate again" in message
    lease_for(stored, -0.001)
    assert stored.migrate(alone=alone) == DONE


def test_a_worker_that_stands_by(stored: Stored) -> None:
    """It holds no lease, and would take it: a subscription to the cuts gives it away."""
    with stored.client.pubsub() as listener:  # type: ignore[no-untyped-call]
        listener.subscribe(cuts(stored))
        assert listener.get_message(timeout=ENOUGH) is not None
        assert "worker on standby; stop it" in refused(stored)
    wait_until(lambda: subscribers(stored) == 0, 10, "it is gone")
    assert stored.migrate() == DONE


def test_a_worker_that_comes_after_the_check(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis is not changed while it runs; `migrate` continues once it has ended."""

    def start_worker(*arguments: Settings) -> tuple[str | None, str]:
        lease_for(stored, HOUR)
        return migrate_all(*arguments)

    before = stored.everything()
    with monkeypatch.context() as patch:
        patch.setattr(postgres_and_redis_migration, "migrate_all", start_worker)
        with pytest.raises(OldVersionRuns, match="worker host:7"):
            stored.migrate()
    assert stored.everything().keys() == before.keys()
    lease_for(stored, -0.001)
    assert stored.migrate() == MigrationResult("0014", "0014", redis_moved=True)
    stored.flush()
    assert stored.totals() == stored.expected["sent"]


def test_a_daemon_that_is_alive(stored: Stored, dagster: DagsterWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """It records a heartbeat while `migrate` waits for one."""
    monkeypatch.setattr(postgres_and_redis_migration, "SILENT_SECONDS", HOUR)
    dagster.beat_all()
    before, progress = stored.everything(), list[str]()

    def beat(line: str) -> None:
        progress.append(line)
        dagster.beat_all()

    with pytest.raises(OldVersionRuns, match="a Dagster daemon has recorded a heartbeat; stop it"):
        migrate_postgres_and_redis(stored.settings, beat)
    (line,) = progress
    assert re.fullmatch(r"waiting 3\d{3} s to detect a running Dagster daemon of version 0.1.0", line)
    assert (stored.schema, stored.everything()) == ("0007", before)


@pytest.mark.parametrize("ago", [0.0, -HOUR], ids=["now", "by a clock that is ahead"])
def test_a_daemon_that_has_just_ended(stored: Stored, dagster: DagsterWorld, ago: float) -> None:
    """It records no heartbeat; `migrate` waits no longer than a running daemon would take for the next one."""
    dagster.beat_all(ago)
    started = time.monotonic()
    assert stored.migrate() == DONE
    assert 0.5 <= time.monotonic() - started < HOUR / 2


def test_a_daemon_that_ended_long_ago(stored: Stored, dagster: DagsterWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is waited for."""
    monkeypatch.setattr(postgres_and_redis_migration, "SILENT_SECONDS", 45.0)
    dagster.beat_all(46.0)
    progress: list[str] = []
    assert migrate_postgres_and_redis(stored.settings, progress.append) == DONE
    assert progress == []


def test_a_run(stored: Stored, dagster: DagsterWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named, and for how long it can still be alive; a run of another job may take longer."""
    run_id = started_run(dagster)
    assert f"run {run_id} of flush_views is recorded as running; let it end, or terminate it" in refused(stored)
    monkeypatch.setattr(postgres_and_redis_migration, "FLUSH_SECONDS", 0.0)
    assert stored.migrate() == DONE


def test_a_run_that_has_ended(stored: Stored, dagster: DagsterWorld) -> None:
    """It is in nobody's way."""
    dagster.run(dg.DagsterRunStatus.SUCCESS)
    dagster.run(dg.DagsterRunStatus.FAILURE)
    assert stored.migrate() == DONE


def test_alone(stored: Stored, dagster: DagsterWorld) -> None:
    """Where `up` has a PostgreSQL of its own, nobody else can be alive: a run that is recorded has been killed."""
    dagster.beat_all()
    started_run(dagster)
    assert stored.migrate(alone=True) == DONE


def test_without_redis(stored: Stored) -> None:
    """The upgrade is of both servers."""
    with pytest.raises(SettingsError, match=r"REDIS_URL is not set; the upgrade from version 0\.1\.0 needs the Redis"):
        migrate_postgres_and_redis(stored.settings.copy_unvalidated(redis_url=None), lambda _: None)
    assert stored.schema == "0007"


def started_run(dagster: DagsterWorld) -> str:
    """Leave a run that has started."""
    run = dagster.instance.create_run_for_job(job_def=defs.resolve_job_def(JOB), status=dg.DagsterRunStatus.STARTING)
    event = dg.DagsterEvent(dg.DagsterEventType.RUN_START.value, JOB)
    dagster.instance.report_dagster_event(event, run.run_id)
    return run.run_id
