"""Migrations: safe to run twice and at once, content with few rights, and discreet."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from alembic import command
from alembic.script import ScriptDirectory
from psycopg import sql

from viewer_pipeline import migrations
from viewer_pipeline.errors import PostgresFailed, PostgresUnavailable, ViewerPipelineError
from viewer_pipeline.migrations.migrate import migrate
from viewer_pipeline.stack.ports import LOOPBACK, find_free_port
from viewer_pipeline_tests.support.servers import Postgres

HEAD = ScriptDirectory(str(Path(migrations.__file__).parent)).get_current_head()
TABLES = {"alembic_version", "flush", "flush_batch", "run_metrics", "parked", "rejected", "vod_view_counts"}
THREADS = 8
PASSWORD = "p@ss:w/rd %41 ü"  # every character that a URL may trip over


@pytest.fixture
def fresh_url(postgres_server: Postgres) -> Iterator[str]:
    """URL of a database that nobody has migrated."""
    name = "fresh_" + os.urandom(6).hex()
    with psycopg.connect(postgres_server.url_of_database("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        yield postgres_server.url_of_database(name)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def newcomer(fresh_url: str) -> Iterator[str]:
    """Name of a role that may log in with PASSWORD, and no more."""
    name = "newcomer_" + os.urandom(6).hex()
    with psycopg.connect(fresh_url, autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(name), sql.Literal(PASSWORD))
        )
        yield name
        connection.execute(f"DROP OWNED BY {name}")
        connection.execute(f"DROP ROLE {name}")


def as_role(url: str, role: str) -> str:
    """Return the URL of the same database for the newcomer."""
    return f"postgresql://{role}:{quote(PASSWORD, safe='')}@{url.partition('@')[2]}"


def rows(url: str, query: str) -> list[tuple[Any, ...]]:
    """Run a query."""
    with psycopg.connect(url) as connection:
        return connection.execute(query).fetchall()


def execute(url: str, *statements: str) -> None:
    """Run statements."""
    with psycopg.connect(url) as connection:
        for statement in statements:
            connection.execute(statement)


def tables(url: str) -> set[str]:
    """Names of our tables."""
    return {row[0] for row in rows(url, "SELECT tablename FROM pg_tables WHERE schemaname = 'viewer'")}


def schemas(url: str) -> set[str]:
    """Names of the schemas that are not PostgreSQL's."""
    query = "SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'"
    return {row[0] for row in rows(url, query)}


def test_a_fresh_database_gets_everything(fresh_url: str) -> None:
    """Our tables in our schema, an empty one for Dagster, nothing elsewhere."""
    assert migrate(fresh_url, with_dagster=True) == (None, HEAD)
    assert tables(fresh_url) >= TABLES
    assert schemas(fresh_url) == {"public", "viewer", "dagster"}
    elsewhere = "SELECT count(*) FROM pg_tables WHERE schemaname IN ('public', 'dagster')"
    assert rows(fresh_url, elsewhere) == [(0,)]


def test_dagster_elsewhere_gets_no_schema(fresh_url: str) -> None:
    """With DAGSTER_DATABASE_URL, Dagster keeps its tables in a database of its own."""
    migrate(fresh_url, with_dagster=False)
    assert schemas(fresh_url) == {"public", "viewer"}


def test_twice_is_once(fresh_url: str) -> None:
    """The second time changes nothing, and takes no count away."""
    migrate(fresh_url, with_dagster=True)
    execute(fresh_url, "INSERT INTO viewer.vod_view_counts VALUES ('a', 5, 0, 1, now())")
    assert migrate(fresh_url, with_dagster=True) == (HEAD, HEAD)
    assert rows(fresh_url, "SELECT vod_id, view_count FROM viewer.vod_view_counts") == [("a", 5)]
    assert rows(fresh_url, "SELECT version_num FROM viewer.alembic_version") == [(HEAD,)]


LEDGER_TABLES = """
SELECT relname, relfilenode FROM pg_class WHERE relname IN ('flush', 'flush_batch', 'incident') ORDER BY relname
"""
LEDGER_ROWS = (
    "INSERT INTO viewer.flush VALUES (1, gen_random_uuid(), 'run', 'sweep', now(), now(), 2, 8, 1, 'epoch')",
    "INSERT INTO viewer.flush_batch VALUES (1, 1, '{a,b}', '{3,5}')",
    "INSERT INTO viewer.incident (kind, said, run_id, views) VALUES ('drift', 'counters held fewer views', 'run', 4)",
    "INSERT INTO viewer.flush_sums VALUES ('sweep', 'committed', 1, 0.5, '{1}', 4)",
    "UPDATE viewer.parked_look SET after = 'm'",
)


def test_migration_from_0_1_0_keeps_every_row_and_rewrites_none(
    fresh_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Renamed tables keep their rows; the new column is 0 on each row, in the file that the table had."""
    upgrade = command.upgrade
    with monkeypatch.context() as patch:
        patch.setattr(command, "upgrade", lambda config, _: upgrade(config, "0007"))
        migrate(fresh_url, with_dagster=False)
    execute(fresh_url, *LEDGER_ROWS)
    files = rows(fresh_url, LEDGER_TABLES)
    assert migrate(fresh_url, with_dagster=False) == ("0007", HEAD)
    assert rows(fresh_url, LEDGER_TABLES) == files
    assert rows(fresh_url, "SELECT seq, viewer.stream_of(seq) FROM viewer.flush") == [(1, 0)]
    batches = "SELECT seq, batch, shard, vod_ids, deltas FROM viewer.flush_batch"
    assert rows(fresh_url, batches) == [(1, 1, 0, ["a", "b"], [3, 5])]
    assert rows(fresh_url, "SELECT kind, message, views FROM viewer.incident") == [
        ("drift", "counters held fewer views", 4)
    ]
    assert rows(fresh_url, "SELECT mode, count, drift FROM viewer.run_metrics") == [("sweep", 1, 4)]
    assert rows(fresh_url, "SELECT after FROM viewer.parked_cursor") == [("m",)]


@pytest.mark.parametrize("column", ["stream.stream", "stream.part", "flush_batch.shard"])
def test_streams_and_shards_are_not_negative(fresh_url: str, column: str) -> None:
    """A check refuses it."""
    migrate(fresh_url, with_dagster=False)
    flush, batch = (row.replace("'epoch')", "'epoch', 2)") for row in LEDGER_ROWS[:2])  # with a format
    execute(fresh_url, flush, batch)
    table, _, name = column.partition(".")
    with pytest.raises(psycopg.errors.CheckViolation):
        execute(fresh_url, f"UPDATE viewer.{table} SET {name} = -1")


def test_concurrent_migrations_run_once(fresh_url: str) -> None:
    """Several containers start together: one of them migrates, the others find it done."""
    together = threading.Barrier(THREADS)

    def start(_: int) -> tuple[str | None, str]:
        together.wait()
        return migrate(fresh_url, with_dagster=True)

    with ThreadPoolExecutor(THREADS) as pool:
        results = list(pool.map(start, range(THREADS)))
    assert sorted(results, key=str) == [(HEAD, HEAD)] * (THREADS - 1) + [(None, HEAD)]
    assert tables(fresh_url) >= TABLES


def test_schemas_that_exist_need_no_right_to_make_them(fresh_url: str, newcomer: str) -> None:
    """An administrator made both schemas for us; the rest works without rights on the database."""
    execute(fresh_url, *(f"CREATE SCHEMA {name} AUTHORIZATION {newcomer}" for name in ("viewer", "dagster")))
    url = as_role(fresh_url, newcomer)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        execute(url, "CREATE SCHEMA another")
    assert migrate(url, with_dagster=True) == (None, HEAD)
    assert migrate(url, with_dagster=True) == (HEAD, HEAD)
    assert tables(fresh_url) >= TABLES


def test_schemas_that_are_missing_need_the_right_to_make_them(fresh_url: str, newcomer: str) -> None:
    """Without it: one clear error, and nothing is left half done."""
    with pytest.raises(PostgresFailed, match="permission denied for database") as raised:
        migrate(as_role(fresh_url, newcomer), with_dagster=True)
    assert quote(PASSWORD, safe="") not in str(raised.value)
    assert schemas(fresh_url) == {"public"}


def test_a_failure_leaves_nothing_half_made(fresh_url: str) -> None:
    """A migration is one transaction: a table in the way undoes the schemas as well."""
    execute(fresh_url, "CREATE SCHEMA viewer", "CREATE TABLE viewer.rejected (theirs int)")
    with pytest.raises(PostgresFailed, match='relation "rejected" already exists'):
        migrate(fresh_url, with_dagster=True)
    assert tables(fresh_url) == {"rejected"}
    assert schemas(fresh_url) == {"public", "viewer"}


def test_an_unreachable_server_is_named_without_its_password() -> None:
    """Host, port and database help to find the mistake; a password in a log does not."""
    port = find_free_port()
    with pytest.raises(PostgresUnavailable, match=rf"postgresql://me:\*\*\*@{LOOPBACK}:{port}/views: ") as raised:
        migrate(f"postgresql://me:hidden@{LOOPBACK}:{port}/views", with_dagster=True)
    assert "hidden" not in str(raised.value)


def test_wrong_password_is_not_in_the_error(fresh_url: str) -> None:
    """Neither the wrong one nor a piece of it."""
    url = f"postgresql://viewer:hidden@{fresh_url.partition('@')[2]}"
    with pytest.raises(ViewerPipelineError, match="password authentication failed") as raised:
        migrate(url, with_dagster=True)
    assert "hidden" not in str(raised.value)


def test_a_schema_from_the_future_is_refused_clearly(fresh_url: str) -> None:
    """After a roll-back of the program the database is ahead of it: an error of ours, which names the revision."""
    migrate(fresh_url, with_dagster=True)
    execute(fresh_url, "UPDATE viewer.alembic_version SET version_num = '9999'")
    with pytest.raises(ViewerPipelineError, match="9999"):
        migrate(fresh_url, with_dagster=True)
    assert rows(fresh_url, "SELECT version_num FROM viewer.alembic_version") == [("9999",)]


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_database_that_is_not_utf8_is_refused(postgres_server: Postgres, encoding: str) -> None:
    """Ids would come back from the ledger as other ids."""
    name = f"encoding_{encoding.lower()}"
    with psycopg.connect(postgres_server.url_of_database("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
        try:
            with pytest.raises(PostgresFailed, match="ids need a database in UTF8"):
                migrate(postgres_server.url_of_database(name), with_dagster=False)
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
