"""Settings that a role, a database or the environment sets change nothing that the pipeline does."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from click.testing import CliRunner

from viewer_pipeline.cli.main import main
from viewer_pipeline.errors import PostgresFailed, SessionUnusable
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.monitoring.probes import RESET_ROLE
from viewer_pipeline.settings import Settings
from viewer_pipeline_tests.support.pgbouncer import PgBouncer
from viewer_pipeline_tests.support.streamix import TargetWorld
from viewer_pipeline_tests.support.waiting import wait_until
from viewer_pipeline_tests.support.worker_process import WorkerProcess
from viewer_pipeline_tests.support.world import PREFIX, World

# Each of them is valid, and makes a statement of ours fail, lie, hang or lose what it committed.
HOSTILE = {
    "array_nulls": "off",
    "bytea_output": "escape",
    "client_encoding": "latin1",
    "datestyle": "SQL, DMY",
    "default_transaction_deferrable": "on",
    "default_transaction_isolation": "serializable",
    "exit_on_error": "on",
    "extra_float_digits": "-15",
    "idle_in_transaction_session_timeout": "1s",
    "idle_session_timeout": "1s",
    "intervalstyle": "sql_standard",
    "lock_timeout": "1s",
    "quote_all_identifiers": "on",
    "search_path": "hostile, pg_catalog, public",
    "standard_conforming_strings": "off",
    "statement_timeout": "1s",
    "synchronous_commit": "off",
    "timezone": "Asia/Kathmandu",
    "transaction_timeout": "1s",
    "transform_null_equals": "on",
}
PINNED = {
    "array_nulls": "on",
    "bytea_output": "hex",
    "client_encoding": "UTF8",
    "datestyle": "ISO, DMY",  # the order of an ambiguous date in a trigger stays as the operator set it
    "default_transaction_deferrable": "off",
    "default_transaction_isolation": "read committed",
    "exit_on_error": "off",
    "extra_float_digits": "1",
    "idle_in_transaction_session_timeout": "1min",
    "idle_session_timeout": "0",
    "intervalstyle": "postgres",
    "lock_timeout": "20s",
    "quote_all_identifiers": "off",
    "row_security": "off",
    "search_path": "pg_catalog, hostile, pg_catalog, public",
    "standard_conforming_strings": "on",
    "statement_timeout": "1min",
    "synchronous_commit": "on",
    "timezone": "UTC",
    "transaction_timeout": "0",
    "transform_null_equals": "off",
}
# Names of pg_catalog, found in another schema first.
SHADOWS = """
    CREATE SCHEMA hostile;
    CREATE FUNCTION hostile.now() RETURNS timestamptz LANGUAGE sql AS $$ SELECT timestamptz '-infinity' $$;
    CREATE FUNCTION hostile.statement_timestamp() RETURNS timestamptz LANGUAGE sql AS $$ SELECT NULL::timestamptz $$;
    CREATE FUNCTION hostile.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS $$ SELECT NULL::timestamptz $$;
    CREATE FUNCTION hostile.set_config(text, text, boolean) RETURNS text LANGUAGE sql AS $$ SELECT 'ignored' $$;
    CREATE FUNCTION hostile.sum(bigint[]) RETURNS numeric LANGUAGE sql AS $$ SELECT -1::numeric $$;
    CREATE TABLE hostile.pg_class (LIKE pg_catalog.pg_class);
    CREATE TABLE hostile.pg_namespace (LIKE pg_catalog.pg_namespace);
    GRANT ALL ON SCHEMA hostile TO public;
    GRANT ALL ON ALL TABLES IN SCHEMA hostile TO public;
"""
# A trigger of the user that finds its table on the search path.
TRIGGER = """
    CREATE TABLE public.edits (id text NOT NULL, at timestamptz NOT NULL DEFAULT now());
    CREATE FUNCTION public.note_edit() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN INSERT INTO edits (id) VALUES (NEW.id); RETURN NEW; END $$;
    CREATE TRIGGER note_edit AFTER UPDATE ON public."Vod" FOR EACH ROW EXECUTE FUNCTION public.note_edit();
"""
# One that depends on the settings of the operator: `at` is local time, and rows of `audit` pass a policy.
AUDIT = """
    CREATE TABLE public.audit (at timestamp NOT NULL, settings text NOT NULL);
    ALTER TABLE public.audit ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
    CREATE POLICY anybody ON public.audit USING (TRUE);
    CREATE FUNCTION public.audit() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO public.audit
            SELECT now(), string_agg(current_setting(name), ' ' ORDER BY number)
            FROM unnest('{timezone,datestyle,intervalstyle,row_security}'::text[]) WITH ORDINALITY AS s (name, number);
            RETURN NEW;
        END $$;
    CREATE TRIGGER audit AFTER UPDATE ON public."Vod" FOR EACH ROW EXECUTE FUNCTION public.audit();
"""
PASSWORD = "hostile"

Place = Literal["DATABASE", "ROLE", "environment"]
PLACES: tuple[Place, ...] = get_args(Place)


def set_hostile(place: Place, owner: psycopg.Connection, role: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set them for the database, for the role, or for each process that uses libpq."""
    hostile = known(owner)
    if place == "environment":
        words = [f"-c{name}={value}".replace(" ", "\\ ") for name, value in hostile.items()]
        monkeypatch.setenv("PGOPTIONS", " ".join(words))
        monkeypatch.setenv("PGDATESTYLE", "SQL, DMY")
        monkeypatch.setenv("PGTZ", "Asia/Kathmandu")
        monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
        return
    owner_of_setting = role if place == "ROLE" else owner.info.dbname
    for name, value in hostile.items():
        written = value if name == "search_path" else f"'{value}'"  # a list of names, not one
        owner.execute(f"ALTER {place} {owner_of_setting} SET {name} = {written}")


def known(connection: psycopg.Connection, settings: dict[str, str] = HOSTILE) -> dict[str, str]:
    """Return the settings that this version of PostgreSQL has."""
    rows = connection.execute("SELECT lower(name) FROM pg_settings").fetchall()
    return {name: value for name, value in settings.items() if (name,) in rows}


@pytest.fixture
def url(places: tuple[Place, ...], vods: TargetWorld, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Return the URL of an ordinary role under hostile settings; the ledger has tables of the user beside it."""
    role = "hostile_" + os.urandom(6).hex()
    here = urlsplit(vods.stores.ledger.url)
    with psycopg.connect(vods.stores.ledger.url, autocommit=True) as owner:
        owner.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}' IN ROLE {owner.info.user}")
        owner.execute(SHADOWS)
        owner.execute(TRIGGER)
        try:
            for place in places:
                set_hostile(place, owner, role, monkeypatch)
            yield urlunsplit(here._replace(netloc=f"{role}:{PASSWORD}@{here.hostname}:{here.port}"))
        finally:
            monkeypatch.undo()
            owner.execute(f"DROP OWNED BY {role}")
            owner.execute(f"DROP ROLE {role}")


@pytest.fixture
def run(url: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Return a function that runs a command, whose output it returns."""
    settings = Settings(
        database_url=url,
        redis_url=redis_url,
        viewer_home=tmp_path,
        counter_prefix=PREFIX,
        target_table="Vod",
        target_id_column="id",
        target_count_column="viewCount",
    )
    for name, value in settings.child_process_environment().items():
        monkeypatch.setenv(name, value)

    def command(*words: str, status: int = 0) -> Any:
        result = CliRunner().invoke(main, [*words, "--json"])
        assert result.exit_code == status, (words, result.output, result.exception)
        return json.loads(result.stdout)

    return command


@pytest.mark.parametrize("places", [(place,) for place in PLACES])
def test_every_setting_has_our_value(url: str, places: tuple[Place, ...]) -> None:
    """Wherever they are set. Those of the URL itself stay, apart from those that would break a statement of ours."""
    with Ledger(f"{url}?options=-c%20datestyle%3DGerman%20-c%20lock_timeout%3D7s").connect() as connection:
        names = known(connection, PINNED)
        rows = connection.execute("SELECT name, current_setting(name) FROM unnest(%s::text[]) AS name", [list(names)])
        expected = names | {"lock_timeout": "7s"}
        if places == ("environment",):  # PGOPTIONS is ignored
            expected["search_path"] = '"$user", public'
        assert dict(rows.fetchall()) == expected
        assert connection.execute("SELECT now() > '2000-01-01'").fetchone() == (True,)


@pytest.mark.parametrize("places", [PLACES])
def test_the_main_job(vods: TargetWorld, url: str, run: Callable[..., Any]) -> None:
    """Migrate, flush, settle after a crash, and read everything back: each view is counted once."""
    world = TargetWorld(Stores(vods.stores.redis, Ledger(url)), vods.names)
    vods.add_vods("a", "b", "größe")
    vods.execute("DROP SCHEMA viewer, dagster CASCADE")
    assert run("migrate")["before"] is None
    for vod_id in ("a", "b", "größe"):
        world.send(vod_id, 5)
    world.flush_unsettled()  # as a crash after the commit leaves it
    assert run("flush")["success"] is True
    world.send("a", 2)
    assert run("flush")["stats"]["views"] == 2
    assert vods.target() == {"a": 7, "b": 5, "größe": 5}
    assert vods.rows("SELECT count(*) FROM public.edits") == [(4,)]
    status = run("status")
    assert (status["persisted"], status["settled"]) == (17, True)
    assert run("backfill", str(datetime.now(UTC).date()))["success"] is True
    assert run("reconcile")["remaining"] == 0
    checks = run("doctor", status=1)["checks"]  # no daemon runs
    failed = {name for name, check in checks.items() if check["status"] != "healthy"}
    reads_postgres = {"postgres", "target", "marker", "unsettled", "incidents", "clock", "ledger_identity", "parked"}
    assert failed & reads_postgres == set()
    assert "fsync is off" in checks["postgres_durability"]["message"]  # so in tests; synchronous_commit is not reported


@pytest.mark.parametrize("places", [()])
@pytest.mark.parametrize("pooled", [False, True], ids=["direct", "pooled"])
def test_triggers_on_the_target_table(vods: TargetWorld, url: str, pooled: bool, tmp_path: Path) -> None:
    """They see what role and database set, in a flush, where it refuses rows, and where it applies parked views."""
    database = urlsplit(url).path[1:]
    local = {"timezone": "Asia/Kathmandu", "datestyle": "SQL, DMY", "intervalstyle": "sql_standard"}
    for name, value in local.items():
        vods.execute(f"ALTER DATABASE {database} SET {name} = '{value}'")
    vods.execute(AUDIT)
    vods.add_vods("a", "full")
    with ExitStack() as stack:
        if pooled:
            bouncer = PgBouncer(tmp_path / "pgbouncer", url)
            stack.callback(bouncer.stop)
            bouncer.start()
        world = TargetWorld(Stores(vods.stores.redis, Ledger(bouncer.url() if pooled else url)), vods.names)
        world.send("a", 5)
        world.flush()
        vods.execute("""ALTER TABLE "Vod" ADD CHECK (id <> 'full' OR "viewCount" < 3)""")
        for vod_id in ("a", "full", "late"):
            world.send(vod_id, 5)
        world.flush()
        assert vods.target() == {"a": 10}
        vods.add_vods("late")
        world.flush()
        assert vods.target() == {"a": 10, "late": 5}
    assert vods.rows("SELECT DISTINCT settings FROM audit") == [(" ".join([*local.values(), "on"]),)]
    assert vods.rows("SELECT at > now() AT TIME ZONE 'UTC' + interval '5 hours' FROM audit") == [(True,)] * 3


@pytest.mark.parametrize("places", [()])
def test_replication_role(vods: TargetWorld, url: str, run: Callable[..., Any], tmp_path: Path) -> None:
    """A role cannot set it back, so nothing is written under it: triggers and foreign keys would not count.

    A worker still folds messages, as while PostgreSQL is down; its last flush is refused.
    """
    vods.add_vods("a")
    vods.send("a", 5)
    vods.execute(f"ALTER DATABASE {urlsplit(url).path[1:]} SET session_replication_role = replica")
    with pytest.raises(SessionUnusable, match="RESET session_replication_role"), Ledger(url).connect():
        pass
    assert run("doctor", status=1)["checks"]["postgres"]["remedy"] == RESET_ROLE
    refused = CliRunner().invoke(main, ["flush"])
    assert (refused.exit_code, "RESET session_replication_role" in refused.output) == (2, True)
    with WorkerProcess(tmp_path, url, vods.stores.redis.url, TARGET_TABLE="Vod") as worker:
        wait_until(lambda: worker.has_logged("flushes_impossible"), 60, "the worker reports it")
        worker.wait_until_ready()
        worker.stop()
    assert "RESET session_replication_role" in worker.last_event()["last_flush"]
    assert (vods.counters(), vods.target(), vods.seqs()) == ({"a": 5}, {}, [])
    vods.execute(f"ALTER DATABASE {urlsplit(url).path[1:]} RESET session_replication_role")
    assert run("flush")["stats"]["views"] == 5
    assert vods.rows("SELECT id FROM public.edits") == [("a",)]


@pytest.mark.parametrize("places", [()])
def test_a_policy_that_hides_rows(vods: TargetWorld, url: str) -> None:
    """An error, and the views stay in Redis: a ledger that seems to lack flushes would count them again."""
    world = World(Stores(vods.stores.redis, Ledger(url)))
    world.send("a", 5)
    world.flush_unsettled()
    vods.execute("ALTER TABLE viewer.flush ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    vods.execute("CREATE POLICY add_only ON viewer.flush FOR INSERT WITH CHECK (TRUE)")
    with pytest.raises(PostgresFailed, match='row-level security policy for table "flush"'):
        world.flush()
    vods.execute("ALTER TABLE viewer.flush DISABLE ROW LEVEL SECURITY")
    world.flush()
    world.assert_all_persisted()
