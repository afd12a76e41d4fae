"""Unusual tables, triggers and locks: nothing blocks, nothing is lost, and the reason is recorded."""

from __future__ import annotations

import psycopg
import pytest

from viewer_pipeline.errors import PostgresFailed, TargetUnusable
from viewer_pipeline.flush.sweep_need import evaluate_sweep_need
from viewer_pipeline.target import parked_views
from viewer_pipeline_tests.support.streamix import MakeWorld, TargetWorld, reasons
from viewer_pipeline_tests.support.waiting import ENOUGH

INT4 = 2**31 - 1
TRIGGER = """
    CREATE FUNCTION odd() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} RETURN NEW; END $$;
    CREATE TRIGGER odd BEFORE UPDATE ON public."Vod" FOR EACH ROW EXECUTE FUNCTION odd();
"""


# --- nothing stands still -------------------------------------------------------------------------------------------


def test_ids_that_are_one_vod_and_have_no_room_together(world_of: MakeWorld) -> None:
    """Each alone would have room: that is no reason to launch a run every minute."""
    world = world_of('CREATE TABLE video (id integer PRIMARY KEY, "viewCount" integer)', "video")
    world.execute("INSERT INTO video VALUES (7, %s)", INT4 - 5)
    world.send("7", 4)
    world.send("07", 4)
    world.flush()
    assert world.flush().unparked == (0, 0)
    assert not evaluate_sweep_need(world.stores).is_needed
    assert set(reasons(world).values()) == {'"viewer"."video"."viewCount" would be over integer'}


def test_a_trigger_that_skips_rows(vods: TargetWorld) -> None:
    """What it lets nobody write is parked for that reason, and tried again hourly; at once after a clock change."""
    vods.execute(TRIGGER.format(body="""IF NEW."id" = 'a' THEN RETURN NULL; END IF;"""))
    vods.add_vods("a", "b")
    vods.send("a", 1)
    vods.send("b", 1)
    vods.flush()
    assert vods.target() == {"b": 1}
    reason = 'row in "public"."Vod" was not written: a trigger skipped it, or it went at that moment'
    assert reasons(vods) == {"a": reason}
    assert vods.flush().unparked == (0, 0)
    assert not evaluate_sweep_need(vods.stores).is_needed
    assert reasons(vods) == {"a": reason}
    vods.execute('DROP TRIGGER odd ON public."Vod"')
    vods.execute("UPDATE viewer.parked SET refused_at = now() + interval '6 hours'")
    vods.flush()
    vods.assert_all_persisted()


def test_a_trigger_condition_that_reads_a_setting(vods: TargetWorld) -> None:
    """It fails for every row, and outside of a function: an error about the setting, not about the connection."""
    vods.add_vods("a")
    vods.send("a", 1)
    condition = "WHEN (current_setting('app.editor') <> NEW.id) EXECUTE"
    vods.execute(TRIGGER.format(body="").replace("EXECUTE", condition))
    with pytest.raises(PostgresFailed, match="unrecognized configuration parameter") as failed:
        vods.flush()
    assert type(failed.value) is PostgresFailed
    assert "current_setting(name, true)" in failed.value.remedy
    vods.execute('DROP TRIGGER odd ON public."Vod"')
    vods.flush()
    vods.assert_all_persisted()


def test_a_held_row_holds_back_no_others(vods: TargetWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks go on to the next parked VODs, although one that somebody holds could be counted but for that."""
    monkeypatch.setattr(parked_views, "NEWEST_ROWS", 1)
    monkeypatch.setattr(parked_views, "PAGE_SIZE", 2)
    for vod_id in ("a", "b", "c", "d", "z newest"):
        vods.send(vod_id, 1)
        vods.flush()
    vods.add_vods("a", "d")
    with psycopg.connect(vods.stores.ledger.url) as editor:
        editor.execute("""UPDATE public."Vod" SET "title" = 'edited' WHERE "id" = 'a'""")
        assert sum(vods.flush().unparked.vods for _ in range(3)) == 1
    assert vods.target() == {"d": 1}


# --- nobody waits long ----------------------------------------------------------------------------------------------

CHANNEL = """
    ALTER TABLE public."Channel" ADD COLUMN views integer NOT NULL DEFAULT 0;
    CREATE FUNCTION odd() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        UPDATE public."Channel" SET views = views + NEW."viewCount" - OLD."viewCount" WHERE "id" = NEW."channelId";
        RETURN NEW; END $$;
    CREATE TRIGGER odd AFTER UPDATE ON public."Vod" FOR EACH ROW EXECUTE FUNCTION odd();
"""


def test_a_trigger_that_waits_for_another_row(vods: TargetWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """The row of a channel is held by somebody: neither a flush nor counting parked views waits as long as that."""
    monkeypatch.setattr(parked_views, "SWEEP_SECONDS", 1.0)
    vods.execute(CHANNEL + """INSERT INTO public."Channel" VALUES ('other')""")
    names = [f"vod{number:04d}" for number in range(40)]
    vods.add_vods(*names)
    vods.execute("""UPDATE public."Vod" SET "channelId" = 'other' WHERE "id" = 'vod0000'""")
    vods.send_many(40, 1)
    with psycopg.connect(vods.stores.ledger.url) as editor:
        editor.execute("""UPDATE public."Channel" SET views = views WHERE "id" = 'channel'""")
        vods.in_thread(flush_max_counters=100).result(ENOUGH)
        assert vods.target() == {"vod0000": 1}
        assert len(vods.parked()) == 39
        vods.execute("UPDATE viewer.parked SET refused_at = NULL")
        assert vods.in_thread().result(ENOUGH).unparked == (0, 0)
    vods.execute("UPDATE viewer.parked SET refused_at = NULL")
    vods.flush()
    vods.assert_all_persisted()
    assert vods.target() == dict.fromkeys(names, 1)


# --- what triggers raise --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "state", ["insufficient_privilege", "undefined_table", "feature_not_supported", "55000", "XX000", "28000", "3F000"]
)
def test_a_trigger_may_raise_what_it_likes(vods: TargetWorld, state: str) -> None:
    """A state that the server gives to statements is one row's fault where a function says it of one row."""
    raising = f"""IF NEW."id" = 'a' THEN RAISE EXCEPTION 'not this one' USING ERRCODE = '{state}'; END IF;"""
    vods.execute(TRIGGER.format(body=raising))
    vods.add_vods("a", "b")
    vods.send("a", 1)
    vods.send("b", 1)
    vods.flush()
    assert vods.target() == {"b": 1}
    assert reasons(vods) == {"a": "refused: not this one"}
    vods.execute("UPDATE viewer.parked SET refused_at = NULL")
    assert vods.flush().unparked == (0, 0)
    vods.assert_conserved()


# --- tables that are none for us ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ddl", "names", "expected"),
    [
        ("", ("viewer.vod_view_counts", "vod_id", "view_count"), "is one of Viewer Pipeline's own tables"),
        (
            'CREATE TABLE video (id text, n integer); CREATE UNIQUE INDEX ON video (id COLLATE "C")',
            ("video", "id", "n"),
            "has no unique index of its own, in its collation",
        ),
        ("", ("viewer.flush", "seq", "counters"), "is one of Viewer Pipeline's own tables"),
        ("CREATE TABLE video (id bigint UNIQUE)", ("video", "id", "id"), "is the TARGET_ID_COLUMN"),
        (
            "CREATE TABLE video (id text UNIQUE, n integer GENERATED ALWAYS AS IDENTITY)",
            ("video", "id", "n"),
            "is generated and cannot be written",
        ),
        (
            "CREATE TABLE video (id text UNIQUE, n integer); CREATE RULE odd AS ON UPDATE TO video DO INSTEAD NOTHING",
            ("video", "id", "n"),
            "has a rule for UPDATE",
        ),
    ],
)
def test_tables_that_are_none_for_us(world_of: MakeWorld, ddl: str, names: tuple[str, str, str], expected: str) -> None:
    """They are refused before anything is written."""
    world = world_of(ddl or "SELECT", *names)
    world.send("1", 1)
    with pytest.raises(TargetUnusable, match=expected):
        world.flush()
    assert world.seqs() == []


# --- discarded views -----------------------------------------------------------------------------------------------


def test_retention_keeps_vods_with_a_row(vods: TargetWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither one whose row came and was not noticed yet, nor one whose row has no room."""
    monkeypatch.setattr(parked_views, "NEWEST_ROWS", 1)
    monkeypatch.setattr(parked_views, "PAGE_SIZE", 1)
    vods.add_vods("full", count=INT4)
    for vod_id in ("full", "ghost", "late", "z newest"):
        vods.send(vod_id, 5)
        vods.flush()
    vods.execute("UPDATE viewer.parked SET first_seen = now() - interval '40 days', updated_at = '2020-01-01'")
    vods.execute("UPDATE viewer.parked SET first_seen = now() - interval '39 days' WHERE vod_id = 'z newest'")
    vods.execute("UPDATE viewer.parked_cursor SET after = ''")
    vods.add_vods("late")
    vods.flush(parked_retention_days=30)
    assert (vods.totals().get("late", 0) + vods.parked().get("late", 0), vods.parked()["full"]) == (5, 5)
    assert not {"ghost", "z newest"} & vods.parked().keys()


def test_counting_by_hand_retries_refused_views(vods: TargetWorld) -> None:
    """The operator may have repaired the trigger, and does not wait for an hour."""
    vods.execute(TRIGGER.format(body="RAISE EXCEPTION 'never';"))
    vods.add_vods("a")
    vods.send("a", 1)
    vods.flush()
    vods.execute('DROP TRIGGER odd ON public."Vod"')
    assert vods.flush().unparked == (0, 0)
    with vods.stores.ledger.connect() as connection:
        target = vods.stores.ledger.target(connection)
        assert target is not None
        assert list(parked_views.all_ready_parked(connection, target)) == [["a"]]
