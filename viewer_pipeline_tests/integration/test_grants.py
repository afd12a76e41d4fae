"""The printed rights suffice for everything, and none of them is one too many; everything else is forbidden."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import uuid4
from zoneinfo import ZoneInfo

import psycopg
import pytest
import redis
from dagster_postgres.utils import DagsterPostgresException
from psycopg.sql import quote
from sqlalchemy.exc import SQLAlchemyError

from viewer_pipeline.cli.grants.role_grants import build_grants
from viewer_pipeline.cli.in_process_runs import run_flush
from viewer_pipeline.cli.send import send_views
from viewer_pipeline.errors import ViewerPipelineError
from viewer_pipeline.flush.aggregate import aggregate
from viewer_pipeline.flush.commit import bulk_upsert
from viewer_pipeline.flush.drain import drain
from viewer_pipeline.flush.flush_request import FlushRequest, Mode
from viewer_pipeline.flush.incidents import acknowledge, open_incidents, record_incidents
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.open_store import open_store
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.flush.rejected_counts import RejectedSegment, count_rejected_messages, report_newly_rejected
from viewer_pipeline.flush.rejects import Reject, record_message_rejects
from viewer_pipeline.flush.retirement import retire_pipeline
from viewer_pipeline.flush.run_metrics import read_run_metrics, record_run
from viewer_pipeline.flush.run_notes import RunNotes
from viewer_pipeline.flush.run_report import RunReport
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.flush.stream_change import change_streams
from viewer_pipeline.flush.sweep_need import evaluate_sweep_need
from viewer_pipeline.flush.verify import verify
from viewer_pipeline.history.baseline import take_baseline_from_target
from viewer_pipeline.history.daily_rollup import find_windows_to_roll_up, roll_up
from viewer_pipeline.history.days import ONE_DAY, Window
from viewer_pipeline.history.pruning import (
    count_old_parked,
    count_old_rejected,
    prune_all_parked,
    prune_ledger,
    prune_rejected,
)
from viewer_pipeline.migrations.migrate import migrate
from viewer_pipeline.monitoring.doctor.run_checks import run_doctor_checks
from viewer_pipeline.monitoring.ledger_totals import LedgerTotalsReader
from viewer_pipeline.monitoring.probes import HealthProbes
from viewer_pipeline.monitoring.status import read_status
from viewer_pipeline.orchestration.dagster_instance import open_instance
from viewer_pipeline.orchestration.flush_ops import FlushMode
from viewer_pipeline.reconcile import held_views
from viewer_pipeline.reconcile.adjustment_transaction import Adjuster
from viewer_pipeline.reconcile.held_views import count_held, drop_held, held_by_epoch
from viewer_pipeline.reconcile.reconciliation import ReconcileRequest, reconcile
from viewer_pipeline.settings import Settings
from viewer_pipeline.stores.redis import connect
from viewer_pipeline.stores.table_privileges_and_redis_commands import REDIS_COMMANDS, TABLE_PRIVILEGES
from viewer_pipeline.target.parked_views import discard_parked, prune_parked
from viewer_pipeline.target.table import TargetNames
from viewer_pipeline_tests.support.streamix import TargetWorld
from viewer_pipeline_tests.support.streams import cut, flush_all
from viewer_pipeline_tests.support.subscribers import SubscriberThread, message
from viewer_pipeline_tests.support.waiting import wait_until
from viewer_pipeline_tests.support.world import PREFIX, World

PASSWORD = "p'a:ss"
TARGET = TargetNames.parse("Vod", "id", "viewCount")


@dataclass
class Narrow:
    """A role and a user of Redis with the printed rights, beside the owner of both servers."""

    owner: TargetWorld
    settings: Settings
    role: str
    sql: list[str]

    @property
    def ledger(self) -> Ledger:
        """The ledger, as the role sees it."""
        return Ledger(self.settings.require_database_url(), TARGET)

    def connected(self) -> psycopg.Connection:
        """Connect as the role."""
        return psycopg.connect(self.settings.require_database_url(), autocommit=True)


@pytest.fixture
def narrow(
    stores: Stores, client: redis.Redis, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Narrow]:
    """Tables of Streamix where nobody may do anything by default, and what is printed applied by the owner."""
    owner, role = TargetWorld(stores), "narrow_" + os.urandom(4).hex()
    owner.make_streamix()
    settings = Settings(database_url=stores.ledger.url, redis_url=redis_url, target_table="Vod", viewer_home=tmp_path)
    grants = build_grants(settings, role, TARGET)
    database = stores.ledger.url.rpartition("/")[2]
    owner.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC")
    owner.execute(f"REVOKE ALL ON DATABASE {database} FROM PUBLIC")
    sql = [line.replace("<PASSWORD>", quote(PASSWORD)) for line in grants.sql]
    for line in sql:
        owner.execute(line)
    digest = hashlib.sha256(PASSWORD.encode()).hexdigest()
    client.execute_command(*shlex.split(grants.redis.replace("<SHA-256>", digest)))  # type: ignore[no-untyped-call]
    login = f"{role}:{PASSWORD.replace(':', '%3A')}@"
    _, _, address = stores.ledger.url.rpartition("@")
    mine = settings.copy_unvalidated(
        database_url=f"postgresql://{login}{address}", redis_url=redis_url.replace("redis://", f"redis://{login}")
    )
    for name, value in mine.child_process_environment().items():
        monkeypatch.setenv(name, value)
    yield Narrow(owner, mine, role, sql)
    client.acl_deluser(role)
    owner.execute(f"REASSIGN OWNED BY {role} TO CURRENT_USER; DROP OWNED BY {role}; DROP ROLE {role}")


def flush_once(
    narrow: Narrow, client: redis.Redis, mode: Mode = "sweep", meanwhile: str = "", **limits: Any
) -> RunReport:
    """Run a whole flush, as the ops do; a view of `meanwhile` comes in after the counters were read."""
    url = narrow.settings.require_redis_url()
    stores = Stores(RedisStore(client, url, PREFIX), narrow.ledger)
    request = FlushRequest(run_id=uuid4().hex, mode=mode, batch_size=2, flush_max_counters=4)
    snapshot = drain(stores, replace(request, **limits))
    if meanwhile:
        narrow.owner.send(meanwhile)
    done = bulk_upsert(stores, snapshot, aggregate(snapshot.readings))
    assert [check for check in verify(stores, done) if not check.passed] == []
    record_run(stores.ledger, done)
    return done


def do_everything(narrow: Narrow) -> None:
    """Do all that is done in PostgreSQL: flushes that count, park and unpark; rejects, incidents, sums, reading."""
    owner = narrow.owner
    known, late, ghost, bad = (name + os.urandom(4).hex() for name in ("known", "late", "ghost", "bad"))
    owner.add_vods(known)
    with connect(narrow.settings.require_redis_url()) as client:
        for vod_id in (known, late, ghost):
            owner.send(vod_id, 2)
        owner.client.set(PREFIX + bad, "abc")
        flush_once(narrow, client, meanwhile=known)
        owner.add_vods(late)
        owner.send(ghost, 1)
        evaluate_sweep_need(Stores(RedisStore(client, "redis://", PREFIX), narrow.ledger))
        assert flush_once(narrow, client).unparked == (1, 2)
        compare(narrow, client, known)
        hold_and_decide(narrow, client)
    assert owner.target()[late] == 2
    run_bookkeeping(narrow, ghost, bad)


def compare(narrow: Narrow, client: redis.Redis, known: str) -> None:
    """Take the baseline, twice, and repair a total and a count of the table."""
    with narrow.ledger.connect() as connection:
        for _ in range(2):
            assert take_baseline_from_target(connection, narrow.ledger, again=True).new
    narrow.owner.execute("UPDATE viewer.vod_view_counts SET view_count = view_count + 1 WHERE vod_id = %s", known)
    stores = Stores(RedisStore(client, narrow.settings.require_redis_url(), PREFIX), narrow.ledger)
    request = ReconcileRequest(uuid4().hex, narrow.settings.viewer_home, repair=True, exclusive=True)
    assert reconcile(stores, request).repaired["total"] == 1


def hold_and_decide(narrow: Narrow, client: redis.Redis) -> None:
    """Lose the marker twice; count what is held, then drop it. Twice, so that rows are added and changed."""
    url = narrow.settings.require_redis_url()
    stores = Stores(RedisStore(client, url, PREFIX), narrow.ledger)
    vod_ids = [f"held{number} {os.urandom(4).hex()}" for number in range(2)]
    narrow.owner.add_vods(*vod_ids)
    for vod_id in vod_ids:
        narrow.owner.send(vod_id, 2)
    flush_once(narrow, client)
    for decision in ("count", "drop"):
        narrow.owner.client.delete("viewer:settled")
        for vod_id in (*vod_ids, *vod_ids):
            narrow.owner.send(vod_id, 1)
            flush_once(narrow, client, "ids", vod_ids=(vod_id,))
        with narrow.ledger.connect() as connection:
            (held,) = held_by_epoch(connection)
            assert (held.vods, held.views) == (2, 4)
            if decision == "count":
                adjuster = Adjuster(stores, connection, uuid4().hex, 2)
                assert count_held(adjuster, narrow.ledger.target(connection), held.epoch, 1) == (2, 4)
            else:
                with patch.object(held_views, "DROP_ROWS", 1):
                    assert drop_held(connection, held.epoch) == (2, 4)
            acknowledge(connection, ["redis_emptied"])


def run_bookkeeping(narrow: Narrow, ghost: str, bad: str) -> None:
    """Do what is done beside the flushes."""
    notes = RunNotes(drift=1, drifted=("a",))
    with narrow.ledger.connect() as connection:
        assert discard_parked(connection, ghost, "by hand") == 3
        target = narrow.ledger.target(connection)
        assert target is not None
        prune_parked(connection, target, 1)
        assert record_message_rejects(connection, [Reject.of("message", bad.encode(), b"", "no view")], 10_000) == 1
        count_rejected_messages(connection, [RejectedSegment("cuts", 1, Counter({"no view": 1}))])
        assert report_newly_rejected(connection, "run")
        record_incidents(connection, notes, "run")
        assert open_incidents(connection)
        acknowledge(connection, ["drift"])
        today = datetime.now(UTC).date()
        window = Window(today - ONE_DAY, today + ONE_DAY * 2)  # in India it may be tomorrow
        assert roll_up(connection, window, ZoneInfo("Asia/Kolkata")).rolled_up == window.days()
        assert roll_up(connection, window, narrow.settings.history_timezone).rolled_up == window.days()
        assert find_windows_to_roll_up(connection, today - ONE_DAY, today, narrow.settings.history_timezone) == []
        assert {metrics.outcome for metrics in read_run_metrics(connection)} == {"committed"}
    prune(narrow)
    LedgerTotalsReader(narrow.ledger).read()
    probes = HealthProbes(narrow.settings)
    with closing(probes):
        results = [*probes.check_postgres(), *probes.check_settling(), *probes.check_history_timezone()]
        assert {result.name for result in results if not result.passed} == {"rejected"}
    read_status(narrow.settings)


def prune(narrow: Narrow) -> None:
    """Do what retention does, to the flushes of long ago that a fresh ledger has not."""
    narrow.owner.execute("UPDATE viewer.flush SET taken_at = now() - interval '40 days' WHERE mode = 'sweep'")
    narrow.owner.execute("UPDATE viewer.ledger_kept SET from_day = '-infinity', from_at = '-infinity'")
    today, zone = datetime.now(UTC).date(), narrow.settings.history_timezone
    with narrow.ledger.connect() as connection, connect(narrow.settings.require_redis_url()) as client:
        marker = RedisStore(client, narrow.settings.require_redis_url(), PREFIX).marker()
        assert marker is not None
        roll_up(connection, Window(today - ONE_DAY * 41, today - ONE_DAY * 38), zone)
        assert prune_ledger(connection, today - ONE_DAY * 30, [marker], 60, zone).flushes > 0
        assert count_old_rejected(connection, 1) == prune_rejected(connection, 1) == 0
        target = narrow.ledger.target(connection)
        assert target is not None
        assert count_old_parked(connection, target, 1) == prune_all_parked(connection, target, 1) == (0, 0)


def test_everything_in_postgresql(narrow: Narrow) -> None:
    """Counting, parking, rejects, incidents, sums, status."""
    do_everything(narrow)
    narrow.owner.execute("DELETE FROM viewer.parked")
    do_everything(narrow)


PAIRS = [(table, privilege) for table, privileges in TABLE_PRIVILEGES.items() for privilege in privileges]


def do_everything_once(narrow: Narrow) -> None:
    """Do all of it, and change the number of streams, after which the first stream is closed."""
    do_everything(narrow)
    with Stores.open(narrow.settings) as stores:
        change_streams(stores, 2)


@pytest.mark.parametrize(("table", "privilege"), PAIRS)
def test_no_right_on_a_table_is_superfluous(narrow: Narrow, table: str, privilege: str) -> None:
    """Without it something fails, or is not recorded."""
    narrow.owner.execute(f"REVOKE {privilege} ON viewer.{table} FROM {narrow.role}")
    with pytest.raises((ViewerPipelineError, AssertionError)) as raised:
        do_everything_once(narrow)
    if isinstance(raised.value, ViewerPipelineError):
        assert f"permission denied for table {table}" in str(raised.value)


def test_streams(narrow: Narrow) -> None:
    """Their number is changed, all of them are flushed, and their keys are deleted with the pipeline."""
    with connect(narrow.settings.require_redis_url()) as client:
        store = open_store(client, narrow.settings)
        world = World(Stores(store, Ledger(narrow.settings.require_database_url())))
        for parts in (2, 1):
            cut(world, parts)
            for number in range(20):
                world.client.incrby(f"{PREFIX}vod{number}", 2)
            assert sum(report.counters for report in flush_all(world)) == 20
            assert flush_all(world, "changed")[0].counters == 0
        assert retire_pipeline(world.stores.redis, PREFIX, settled_by=world.stores.ledger)


def run_of_dagster(settings: Settings) -> bool:
    """Run the flush job in this process, recorded in Dagster's storage."""
    with open_instance(settings) as instance:
        return run_flush(instance, settings, FlushMode.sweep, trigger="test").success


def fold_once(narrow: Narrow) -> None:
    """Let a worker fold what was published, bad messages too, and stop in order."""
    producer = narrow.owner.client
    with SubscriberThread(narrow.settings) as worker:
        producer.publish("view_count_updates", message("folded", 3))
        producer.publish("view_count_updates", b"rubbish")
        wait_until(lambda: worker.stats.folded_views >= 3, 30, "the message is folded")
    assert narrow.owner.rejected()["rubbish"] == "not JSON"


def calls(client: redis.Redis) -> set[str]:
    """Return the commands that the server has seen since CONFIG RESETSTAT, without subcommands (Redis 7 has them)."""
    return {name.removeprefix("cmdstat_").partition("|")[0] for name in dict(client.info("commandstats"))}


def test_everything_else(narrow: Narrow, client: redis.Redis) -> None:
    """A worker, Dagster, doctor, `send`, a migration with nothing to do; it takes every command that is granted."""
    client.script_flush()
    client.config_resetstat()
    client.zadd("viewer:changed", {"idle": 1, "gone": 1})
    do_everything(narrow)
    with connect(narrow.settings.require_redis_url()) as mine:
        assert flush_once(narrow, mine, "changed", run_max_counters=1).remaining == 1
        assert flush_once(narrow, mine, "changed").remaining == 0
    fold_once(narrow)
    send_views(narrow.settings, "sent", 2, "both")
    assert run_of_dagster(narrow.settings)
    assert migrate(narrow.settings.require_database_url(), with_dagster=True)[0] is not None
    unhealthy = {result.name for result in run_doctor_checks(narrow.settings) if result.status == "unhealthy"}
    launchers = {f"daemon_{name}" for name in ("sensor", "scheduler", "queued_run_coordinator")}
    assert unhealthy == {"postgres_durability", *launchers, "sensor", "sweep"}  # no daemon runs, and fsync is off
    assert {command.partition("|")[0] for command in REDIS_COMMANDS} - calls(client) == set()


def make_dagsters_tables(narrow: Narrow, of_owner: Settings) -> None:
    """Let the owner run Dagster, and apply the printed lines again."""
    with open_instance(of_owner):
        for line in narrow.sql:
            if "IN SCHEMA dagster" in line:
                narrow.owner.execute(line)
    narrow.settings.export_to_os_environ()


def test_tables_that_dagster_made_before(narrow: Narrow, dagster_settings: Settings) -> None:
    """By the owner: the role works with them, as with its own."""
    make_dagsters_tables(narrow, dagster_settings)
    assert run_of_dagster(narrow.settings)


LINES = {
    "CONNECT": lambda narrow: narrow.connected().close(),
    "SCHEMA viewer": do_everything,
    "ON SCHEMA dagster": lambda narrow: run_of_dagster(narrow.settings),
    'SCHEMA "public"': do_everything,
    'ON "public"."Vod"': do_everything,
}


def revoked(line: str) -> str:
    """Return the statement that takes back what a line gives."""
    return re.sub(r" TO (\S+);", r" FROM \1", line.replace("GRANT", "REVOKE", 1))


@pytest.mark.parametrize("words", LINES)
def test_no_other_line_is_superfluous(narrow: Narrow, words: str) -> None:
    """Without it something fails that works with it."""
    (line,) = [line for line in narrow.sql if words in line and line.startswith("GRANT")]
    narrow.owner.execute(revoked(line))
    with pytest.raises((ViewerPipelineError, psycopg.Error, DagsterPostgresException, SQLAlchemyError)):
        LINES[words](narrow)


@pytest.mark.parametrize("words", ["ON ALL TABLES IN SCHEMA dagster", "ON ALL SEQUENCES IN SCHEMA dagster"])
def test_no_line_about_dagsters_tables_is_superfluous(narrow: Narrow, dagster_settings: Settings, words: str) -> None:
    """Where the owner has made them."""
    make_dagsters_tables(narrow, dagster_settings)
    (line,) = [line for line in narrow.sql if words in line]
    narrow.owner.execute(revoked(line))
    with pytest.raises(Exception, match="permission denied"):
        run_of_dagster(narrow.settings)


FORBIDDEN_SQL = [
    'SELECT "title" FROM public."Vod"',
    'SELECT * FROM public."Channel"',
    """UPDATE public."Vod" SET "title" = 'mine'""",
    'DELETE FROM public."Vod"',
    """UPDATE public."Vod" SET "id" = 'other'""",
    "UPDATE viewer.flush SET views = 0",
    "UPDATE viewer.flush_batch SET deltas = '{}'",
    "TRUNCATE viewer.flush_batch",
    "TRUNCATE viewer.vod_view_counts",
    "DELETE FROM viewer.vod_view_counts",
    "UPDATE viewer.rejected SET value = ''",
    "DROP SCHEMA viewer CASCADE",
    "CREATE TABLE viewer.mine ()",
    "CREATE TABLE public.mine ()",
    "CREATE TEMPORARY TABLE mine ()",
    "CREATE ROLE another",
    "COPY viewer.flush TO PROGRAM 'true'",
]


@pytest.mark.parametrize("statement", FORBIDDEN_SQL)
def test_the_role_may_do_nothing_else(narrow: Narrow, statement: str) -> None:
    """Read other columns and tables, rewrite the ledger, make or drop anything."""
    with narrow.connected() as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(statement.encode())


REFUSED = "(?i)permission|DEBUG command not allowed"  # the latter to anybody, from Redis 7 on
FORBIDDEN_COMMANDS = [
    "FLUSHALL",
    "FLUSHDB",
    "KEYS *",
    "CONFIG SET maxmemory 1",
    "CONFIG GET *",
    "GET session:1",
    "SET vod:views:a 1",
    "GETDEL vod:views:a",
    "EXPIRE vod:views:a 1",
    "DEL viewer:other",
    "MONITOR",
    "ACL LIST",
    "CLIENT LIST",
    "CLIENT KILL TYPE normal",
    "PUBSUB CHANNELS",
    "SCRIPT FLUSH",
    "SHUTDOWN",
    "SUBSCRIBE other",
    "PUBLISH other x",
    "PSUBSCRIBE *",
    "DEBUG SLEEP 0",
]


@pytest.mark.parametrize("command", FORBIDDEN_COMMANDS)
def test_the_user_may_do_nothing_else(narrow: Narrow, command: str) -> None:
    """Empty the server, look around, touch other keys and channels, expire counters."""
    with (
        connect(narrow.settings.require_redis_url()) as mine,
        pytest.raises((redis.exceptions.NoPermissionError, redis.ResponseError), match=REFUSED),
    ):
        mine.execute_command(*command.split())
