"""Counting into the user's own table: what it takes, what is parked, and what of it is counted later."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID, uuid4

import psycopg
import pytest

from viewer_pipeline.errors import TargetUnusable
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.flush.sweep_need import evaluate_sweep_need
from viewer_pipeline.flush.verify import verify
from viewer_pipeline.target import add_or_park
from viewer_pipeline.target import parked_views as target_parked
from viewer_pipeline.target.add_or_park import force_index_scans
from viewer_pipeline.target.table import TargetNames
from viewer_pipeline_tests.support.streamix import MakeWorld, TargetWorld, reasons
from viewer_pipeline_tests.support.waiting import ENOUGH, wait_until
from viewer_pipeline_tests.support.world import World

INT4 = 2**31 - 1
MADE_UP = 'no row in "public"."Vod"'
WAITING = (
    "SELECT count(*)::integer FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
)


def test_views_are_added_to_the_table(vods: TargetWorld) -> None:
    """The counts there grow by what was sent; the other columns, and other rows, stay as they are."""
    vods.add_vods("a", "b", "c", count=10)
    before = vods.rows('SELECT "id", "title", "s3Key" FROM "Vod" ORDER BY 1')
    vods.send("a", 3)
    vods.send("b", 4)
    vods.flush()
    vods.send("a", 2)
    done = vods.flush()
    assert vods.target() == {"a": 15, "b": 14, "c": 10}
    assert vods.totals() == {"a": 5, "b": 4}
    assert [check for check in verify(vods.stores, done) if not check.passed] == []
    assert vods.rows('SELECT "id", "title", "s3Key" FROM "Vod" ORDER BY 1') == before
    vods.assert_conserved()


def test_deleted_and_late_vods(vods: TargetWorld) -> None:
    """Views of VODs that are not there are parked, and counted once by the next sweep after they came."""
    vods.add_vods("there", "deleted")
    for vod_id in ("there", "deleted", "late"):
        vods.send(vod_id, 5)
    vods.execute("""DELETE FROM public."Vod" WHERE "id" = 'deleted'""")
    done = vods.flush()
    assert (done.counters, done.views) == (3, 15)
    assert [check for check in verify(vods.stores, done) if not check.passed] == []
    vods.assert_target_is({"there": 5})
    assert reasons(vods) == {"deleted": MADE_UP, "late": MADE_UP}
    vods.add_vods("late")
    assert vods.flush().unparked == (1, 5)
    assert vods.flush().unparked == (0, 0)
    vods.assert_target_is({"there": 5, "late": 5})
    assert vods.parked() == {"deleted": 5}


def test_parked_views_are_summed(vods: TargetWorld) -> None:
    """One row an id, however many flushes park views of it; a flush of a VOD that came meanwhile is counted at once."""
    for views in (1, 2, 3):
        vods.send("late", views)
        vods.flush()
    assert vods.parked() == {"late": 6}
    vods.add_vods("late", count=100)
    vods.send("late", 4, announce=True)
    assert vods.flush("changed").unparked == (0, 0)
    assert (vods.target(), vods.totals(), vods.parked()) == ({"late": 104}, {"late": 4}, {"late": 6})
    assert vods.flush().unparked == (1, 6)
    assert (vods.target(), vods.totals(), vods.parked()) == ({"late": 110}, {"late": 10}, {})
    vods.assert_conserved()


def test_the_sweep_is_launched_for_parked_views(vods: TargetWorld) -> None:
    """A row that came is a reason for a sweep; parked views without a row are none."""
    vods.send("late", 5)
    vods.flush()
    assert not evaluate_sweep_need(vods.stores).is_needed
    vods.add_vods("late")
    pending = evaluate_sweep_need(vods.stores)
    assert (pending.is_needed, pending.reason) == (True, "found 1 parked VOD with a row by now, e.g. 'late'")
    vods.flush()
    assert not evaluate_sweep_need(vods.stores).is_needed


def test_overflow_beside_healthy_rows(vods: TargetWorld) -> None:
    """What int4 has no room for is parked, to the last view; the rest is counted."""
    vods.add_vods("full", count=INT4 - 5)
    vods.add_vods("healthy")
    vods.send("full", 6)
    vods.send("healthy", 1)
    vods.flush()
    assert vods.target() == {"full": INT4 - 5, "healthy": 1}
    assert reasons(vods) == {"full": '"public"."Vod"."viewCount" would be over integer'}
    vods.send("full", 5)
    vods.flush()
    assert vods.target() == {"full": INT4, "healthy": 1}
    assert not evaluate_sweep_need(vods.stores).is_needed
    vods.execute('ALTER TABLE public."Vod" ALTER COLUMN "viewCount" TYPE bigint')
    again = TargetWorld(vods.stores)
    again.sent = vods.sent
    assert again.flush().unparked == (1, 6)
    assert again.target() == {"full": INT4 + 6, "healthy": 1}
    again.assert_conserved()


def test_a_count_that_is_null_is_zero(world_of: MakeWorld) -> None:
    """The first views of such a row are all that it has then."""
    world = world_of(
        "CREATE TABLE video (id varchar(30) UNIQUE, n smallint); INSERT INTO video VALUES ('a')", "video", "id", "n"
    )
    world.send("a", 7)
    world.send("an id that is longer than thirty characters", 1)
    world.send("b", 40_000)
    world.flush()
    world.assert_target_is({"a": 7})
    assert world.rest({"a": 7}) == world.parked()


def test_ids_of_type_uuid(world_of: MakeWorld) -> None:
    """A UUID in capitals is the same VOD; what is no UUID is parked, and no error."""
    world = world_of('CREATE TABLE video (id uuid PRIMARY KEY, "viewCount" integer)', "video")
    first, other = uuid4(), UUID("0000abcd-0000-0000-0000-000000000000")
    world.execute("INSERT INTO video VALUES (%s, 1), (%s, 0)", first, other)
    world.send(str(first), 2)
    world.send(str(other), 3)
    world.send(str(other).upper(), 4)
    world.send(str(uuid4()), 5)
    for vod_id in ("vod_123", "{" + str(other) + "}", other.hex):
        world.send(vod_id, 1)
    done = world.flush(flush_max_counters=100)
    assert world.target() == {str(first): 3, str(other): 7}
    assert world.totals() == {str(first): 2, str(other): 3, str(other).upper(): 4}
    assert sorted(reasons(world).values()) == [*["no id of type uuid"] * 3, 'no row in "viewer"."video"']
    assert [check for check in verify(world.stores, done) if not check.passed] == []
    world.assert_conserved()


@pytest.mark.parametrize("kind", ["integer", "bigint"])
def test_ids_of_an_integer_type(world_of: MakeWorld, kind: str) -> None:
    """The largest id, and ones with a sign or zeros in front; what is none, or too large, is parked."""
    most = {"integer": INT4, "bigint": 2**63 - 1}[kind]
    world = world_of(f'CREATE TABLE video (id {kind} PRIMARY KEY, "viewCount" bigint NOT NULL)', "video")
    world.execute("INSERT INTO video VALUES (7, 0), (-3, 0), (%s, 0)", most)
    counted = {"7": 1, "007": 2, "-3": 4, str(most): 8}
    parked = {str(most + 1): 1, str(-most - 2): 1, "7a": 1, "": 0, "9" * 40: 1, "8": 1}
    for vod_id, views in {**counted, **parked}.items():
        if views:
            world.send(vod_id, views)
    world.flush(flush_max_counters=100)
    assert world.target() == {"7": 3, "-3": 4, str(most): 8}
    assert world.totals() == counted
    assert world.parked().keys() == {vod_id for vod_id, views in parked.items() if views}
    world.assert_conserved()


def test_ids_that_are_one_vod_overflow_together(world_of: MakeWorld) -> None:
    """Each alone would have room, both together have not: neither is counted, both are parked."""
    world = world_of('CREATE TABLE video (id integer PRIMARY KEY, "viewCount" integer)', "video")
    world.execute("INSERT INTO video VALUES (7, %s)", INT4 - 5)
    world.send("7", 4)
    world.send("07", 4)
    world.flush()
    assert world.target() == {"7": INT4 - 5}
    assert world.parked() == {"7": 4, "07": 4}


@pytest.mark.parametrize(
    ("table", "id_column", "count_column"),
    [
        ('"My Videos"', "Video Id", "View Count"),
        ('"a.b"."c""d"', "select", "%(seq)s"),
        ("""public."v'; DROP TABLE victim; --\"""", "{id}", 'x"; DROP TABLE victim; --'),
        ("public.Ünïcode", "ïd", "{0}"),
    ],
)
def test_names_are_taken_exactly(stores: Stores, table: str, id_column: str, count_column: str) -> None:
    """Capitals, blanks, quotes, statements, placeholders: a name is a name."""
    quoted = ['"' + name.replace('"', '""') + '"' for name in (id_column, count_column)]
    names = TargetNames.parse(table, *quoted)
    world = TargetWorld(stores, names)
    if names.table.schema == "a.b":
        world.execute('CREATE SCHEMA "a.b"')
    world.execute("CREATE TABLE victim ()")
    with psycopg.connect(stores.ledger.url) as connection:
        full = str(names.table)
        connection.execute(f"CREATE TABLE {full} ({quoted[0]} text PRIMARY KEY, {quoted[1]} integer)".encode())
        connection.execute(f"INSERT INTO {full} VALUES ('a', 1)".encode())
    world.send("a", 2)
    world.send("b", 3)
    world.flush()
    world.execute(f"INSERT INTO {names.table} VALUES ('b', NULL)".replace("%", "%%"))
    world.flush()
    rows = world.rows(f"SELECT * FROM {names.table} ORDER BY 1")
    assert rows == [("a", 3), ("b", 3)]
    assert world.rows("SELECT count(*) FROM victim") == [(0,)]
    world.assert_all_persisted()


# --- rows that cannot be written ------------------------------------------------------------------------------------


def test_rows_that_are_refused(vods: TargetWorld) -> None:
    """A constraint and a trigger of the user's refuse some rows: those are parked with the reason, the rest counts."""
    vods.execute("""
        ALTER TABLE public."Vod" ADD CONSTRAINT sane CHECK ("viewCount" < 100);
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN IF NEW."id" = 'vod0003' THEN RAISE EXCEPTION 'not this one'; END IF; RETURN NEW; END $$;
        CREATE TRIGGER refuse BEFORE UPDATE ON public."Vod" FOR EACH ROW EXECUTE FUNCTION refuse();
    """)
    vods.add_vods(*(f"vod{number:04d}" for number in range(9)))
    vods.send_many(9)
    vods.send("vod0007", 200)
    vods.send("ghost", 1)
    done = vods.flush(flush_max_counters=100)
    assert vods.target() == {f"vod{number:04d}": 3 for number in (0, 1, 2, 4, 5, 6, 8)}
    assert reasons(vods) == {
        "vod0003": "refused: not this one",
        "vod0007": 'refused: new row for relation "Vod" violates check constraint "sane"',
        "ghost": MADE_UP,
    }
    assert [check for check in verify(vods.stores, done) if not check.passed] == []
    assert not evaluate_sweep_need(vods.stores).is_needed  # they are not tried again within the hour
    vods.execute('DROP TRIGGER refuse ON public."Vod"')
    vods.execute("UPDATE viewer.parked SET refused_at = now() - interval '61 minutes'")
    assert vods.flush().unparked == (1, 3)
    assert reasons(vods)["vod0007"].startswith("refused: new row")
    vods.assert_conserved()


def test_rows_that_are_refused_at_the_commit(vods: TargetWorld) -> None:
    """By a deferred constraint, which else would speak up when nobody can tell any more which row it means."""
    vods.execute("""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN IF NEW."id" = 'b' THEN RAISE EXCEPTION 'not this one'; END IF; RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER refuse AFTER UPDATE ON public."Vod" DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION refuse();
    """)
    vods.add_vods("a", "b", "c")
    for vod_id in "abc":
        vods.send(vod_id, 2)
    vods.flush()
    vods.assert_target_is({"a": 2, "c": 2})
    assert reasons(vods) == {"b": "refused: not this one"}
    vods.execute("UPDATE viewer.parked SET refused_at = NULL")
    assert vods.flush().unparked == (0, 0)
    vods.assert_target_is({"a": 2, "c": 2})


def test_a_table_that_refuses_everything(vods: TargetWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """After some tries whole stretches are parked: the flush ends, and all is counted once the trigger is gone."""
    vods.execute("""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'never'; END $$;
        CREATE TRIGGER refuse BEFORE UPDATE ON public."Vod" FOR EACH ROW EXECUTE FUNCTION refuse();
    """)
    vods.add_vods(*(f"vod{number:04d}" for number in range(50)))
    vods.send_many(50)
    monkeypatch.setattr(add_or_park, "MAX_STATEMENTS", 5)
    vods.flush(flush_max_counters=100)
    assert vods.target() == {}
    assert len(vods.parked()) == 50
    vods.execute('DROP TRIGGER refuse ON public."Vod"; UPDATE viewer.parked SET refused_at = NULL')
    vods.flush()
    vods.assert_all_persisted()


def test_a_total_without_room(vods: TargetWorld) -> None:
    """The totals are ours, and hold nothing else up either."""
    vods.execute('ALTER TABLE public."Vod" ALTER COLUMN "viewCount" TYPE bigint')
    vods.add_vods("a", "full")
    vods.execute("INSERT INTO viewer.vod_view_counts VALUES ('full', %s, %s, 0, now())", 2**63 - 1, 2**63 - 1)
    vods.send("a", 1)
    vods.send("full", 1)
    vods.flush()
    assert vods.target() == {"a": 1}
    assert reasons(vods) == {"full": "refused: bigint out of range"}
    vods.assert_conserved()


@contextmanager
def edited(world: TargetWorld, vod_id: str) -> Iterator[psycopg.Connection]:
    """Hold a row as an editor does who has not committed yet."""
    with psycopg.connect(world.stores.ledger.url) as editor:
        editor.execute("""UPDATE public."Vod" SET "title" = 'edited' WHERE "id" = %s""", [vod_id])
        yield editor


def test_a_row_that_somebody_holds(vods: TargetWorld) -> None:
    """It is not waited for: its views are parked, the rest counts, and at last both edit and views are there."""
    vods.add_vods("a", "b", "c")
    for vod_id in "abc":
        vods.send(vod_id, 2)
    with edited(vods, "b") as editor:
        vods.flush()
        assert vods.target() == {"a": 2, "c": 2}
        assert reasons(vods) == {"b": 'row in "public"."Vod" was locked'}
        assert vods.flush().unparked == (0, 0)  # still held: not waited for either
        editor.commit()
    assert vods.flush().unparked == (1, 2)
    vods.assert_all_persisted()
    assert vods.rows("""SELECT "title" FROM "Vod" WHERE "id" = 'b'""") == [("edited",)]


def test_an_edit_while_a_flush_waits(vods: TargetWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """The flush waits for a short edit, which then stands beside the views; also where it was of the count itself."""
    monkeypatch.setattr(add_or_park, "LOCK_TIMEOUT", "20s")
    vods.add_vods("a", "b")
    vods.send("a", 2)
    vods.send("b", 2)
    with edited(vods, "a") as editor:
        editor.execute("""UPDATE public."Vod" SET "viewCount" = 1000 WHERE "id" = 'a'""")
        flusher = vods.in_thread()
        wait_until(lambda: vods.rows(WAITING) == [(1,)], 20, "the flush to wait for the row")
        editor.commit()
        flusher.result(ENOUGH)
    assert vods.target() == {"a": 1002, "b": 2}
    assert vods.totals() == {"a": 2, "b": 2}


# --- tables that cannot be used -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ddl", "expected"),
    [
        ("", r'TARGET_TABLE="video": there is no such table on the search_path \(viewer, public\)'),
        ("CREATE VIEW public.video AS SELECT 'a'::text AS id, 1 AS n", r"expected a table, not a view"),
        ("CREATE TABLE public.video (n integer)", r'TARGET_ID_COLUMN="id": "public"."video" has no such column'),
        ("CREATE TABLE public.video (id text PRIMARY KEY)", r'"n": "public"."video" has no such column'),
        ("CREATE TABLE public.video (id text, n integer)", r'TARGET_ID_COLUMN="id": has no unique index of its own'),
        ("CREATE TABLE public.video (id text, x text, n integer, UNIQUE (id, x))", r"has no unique index of its own"),
        (
            "CREATE TABLE public.video (id text, n integer); CREATE UNIQUE INDEX ON public.video (id) WHERE n > 0",
            r"has no unique index of its own",
        ),
        ("CREATE TABLE public.video (id jsonb UNIQUE, n integer)", r"is of type jsonb, expected text,"),
        ("CREATE TABLE public.video (id text UNIQUE, n real)", r"is of type real, expected smallint,"),
        (
            "CREATE TABLE public.video (id text UNIQUE, m integer, n integer GENERATED ALWAYS AS (m) STORED)",
            r"is generated and cannot be written",
        ),
    ],
)  # fmt: skip
def test_tables_that_cannot_be_used(world_of: MakeWorld, ddl: str, expected: str) -> None:
    """The run fails before anything is written, and the sentence names the setting and what is missing."""
    world = world_of(ddl or "SELECT", "video", "id", "n")
    world.send("a", 1)
    with pytest.raises(TargetUnusable, match=expected):
        world.flush()
    assert (world.seqs(), world.marker()) == ([], None)


def test_quotes_around_schema_and_table(world_of: MakeWorld) -> None:
    """As `docker --env-file` passes them, they make one name of both."""
    world = world_of("CREATE TABLE public.video (id text UNIQUE, n integer)", '"public.video"', "id", "n")
    world.send("a", 1)
    with pytest.raises(
        TargetUnusable, match="no such table, whose own name has a dot; without quotes around all of it"
    ) as refused:
        world.flush()
    remedy = "create the table, or correct TARGET_TABLE; see `viewer-pipeline docs own-table`"
    assert refused.value.remedy == remedy


def test_a_collation_that_takes_ids_for_equal(vods: TargetWorld) -> None:
    """One row would stand for two VODs."""
    try:
        vods.execute(
            "CREATE COLLATION public.blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
        )
    except psycopg.errors.FeatureNotSupported as error:
        pytest.skip(f"this PostgreSQL has no such collations: {error}")
    vods.execute('ALTER TABLE public."Vod" ALTER COLUMN "id" TYPE text COLLATE public.blind')
    with pytest.raises(TargetUnusable, match="its collation takes different ids for equal ones"):
        vods.flush()


def test_missing_rights_are_listed_together(vods: TargetWorld) -> None:
    """The error lists each right that the role needs."""
    role = "role_" + os.urandom(4).hex()
    vods.execute(f"""
        CREATE ROLE {role} LOGIN PASSWORD 'x';
        GRANT USAGE ON SCHEMA viewer TO {role}; GRANT ALL ON ALL TABLES IN SCHEMA viewer TO {role};
        GRANT SELECT ("id") ON public."Vod" TO {role}
    """)
    try:
        ledger = Ledger(with_login(vods.stores.ledger.url, role, "x"), vods.stores.ledger.target_names)
        poor = World(Stores(vods.stores.redis, ledger))
        with pytest.raises(TargetUnusable) as raised:
            poor.flush()
    finally:
        vods.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
    assert str(raised.value) == (
        'The target table cannot be used: TARGET_COUNT_COLUMN="viewCount": this role needs GRANT SELECT ("viewCount")'
        ' ON "public"."Vod"; TARGET_COUNT_COLUMN="viewCount": this role needs GRANT UPDATE ("viewCount")'
        ' ON "public"."Vod"'
    )


def with_login(url: str, user: str, password: str) -> str:
    """Return the URL with another login."""
    return f"postgresql://{user}:{password}@{url.rpartition('@')[2]}"


@pytest.mark.parametrize("collation", ["", 'COLLATE "C"', 'COLLATE "POSIX"'])
@pytest.mark.parametrize("name", ["update_target", "lock_parked", "parked_ready", "apply_parked"])
def test_rows_are_found_by_the_index(world_of: MakeWorld, collation: str, name: str) -> None:
    """Whatever collation the ids have there; a comparison in another one would read the whole table."""
    world = world_of(f'CREATE TABLE video (id text {collation} PRIMARY KEY, "viewCount" integer)', "video")
    world.execute("INSERT INTO video SELECT 'vod' || n, 0 FROM generate_series(1, 3000) AS n; ANALYZE video")
    parameters = {"seq": 1, "skip": 0, "take": 10, "vod_ids": ["a"], "newest": 9, "after": "", "limit": 9, "hours": 1}
    with world.stores.ledger.connect() as connection, connection.transaction():
        target = world.stores.ledger.target(connection)
        assert target is not None
        force_index_scans(connection, "20s")
        statement = b"EXPLAIN " + target.statement({**target_parked.SQL, **add_or_park.SQL}[name]).as_bytes(connection)
        plan = "\n".join(line for (line,) in connection.execute(statement, parameters))
        assert connection.execute("SHOW jit").fetchone() == ("off",)
    assert "Seq Scan on video" not in plan, plan
    assert "Index Cond: (id = " in plan, plan


def test_a_database_that_isolates_more(vods: TargetWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that was edited while the flush waited for it is no error, whatever level is the default there."""
    monkeypatch.setattr(add_or_park, "LOCK_TIMEOUT", "20s")
    with psycopg.connect(vods.stores.ledger.url, autocommit=True) as connection:
        name = connection.info.dbname
        connection.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'".encode())
    vods.add_vods("a")
    vods.send("a", 2)
    with edited(vods, "a") as editor:
        flusher = vods.in_thread()
        wait_until(lambda: vods.rows(WAITING) == [(1,)], 20, "the flush to wait for the row")
        editor.commit()
        flusher.result(ENOUGH)
    assert vods.target() == {"a": 2}


def test_the_schema_that_prisma_names(vods: TargetWorld) -> None:
    """`?schema=` says where a table is whose name comes without one."""
    vods.execute('CREATE SCHEMA "My Shop"; ALTER TABLE public."Vod" SET SCHEMA "My Shop"')
    vods.execute("""INSERT INTO "My Shop"."Vod" VALUES ('a', 'channel', 't', 'b', 'r', 'k', 0)""")
    parameters = "schema=My+Shop&connection_limit=5&pool_timeout=10&connect_timeout=5"
    ledger = Ledger(f"{vods.stores.ledger.url}?{parameters}", TargetNames.parse("Vod", "id", "viewCount"))
    vods.send("a", 2)
    World(Stores(vods.stores.redis, ledger)).flush()
    assert vods.rows('SELECT "id", "viewCount" FROM "My Shop"."Vod"') == [("a", 2)]
