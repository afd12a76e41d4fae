"""`viewer-pipeline parked`, and a target table that cannot be used, from outside."""

from __future__ import annotations

import pytest

from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.stack.ports import find_free_port
from viewer_pipeline_tests.acceptance.test_cli import FULL, Environment, environment, error_of, json_of, online
from viewer_pipeline_tests.support.streamix import TargetWorld
from viewer_pipeline_tests.support.warm import run
from viewer_pipeline_tests.support.world import World

__all__ = ["environment", "online"]


@pytest.fixture
def counting_into_vod(online: Environment) -> Environment:
    """The environment with their table as the target."""
    return {**online, "TARGET_TABLE": "public.Vod"}


def test_parked_views_from_outside(counting_into_vod: Environment, vods: TargetWorld) -> None:
    """Flushed, listed, counted once their row exists, discarded by hand."""
    vods.add_vods("a")
    for vod_id, views in {"a": 1, "late": 5, "ghost": 7}.items():
        vods.send(vod_id, views)
    stats = json_of(run(counting_into_vod, "flush", "--json"))["stats"]
    assert (stats["views"], stats["parked"], stats["unparked"]) == (13, 12, 0)
    parked = json_of(run(counting_into_vod, "parked", "--json"))
    assert (parked["vods"], parked["views"], parked["discarded"]) == (2, 12, {})
    assert [(vod["vod_id"], vod["views"]) for vod in parked["largest"]] == [("ghost", 7), ("late", 5)]
    vods.add_vods("late")
    applied = json_of(run(counting_into_vod, "parked", "--apply", "--discard", "ghost", "--json"))
    assert (applied["applied"], applied["discarded"]) == ({"vods": 1, "views": 5}, {"ghost": 7})
    assert vods.target() == {"a": 1, "late": 5}
    assert run(counting_into_vod, "parked").stdout == "parked: 0 views of 0 VODs\n"


def test_parked_prints_tables(counting_into_vod: Environment, vods: TargetWorld) -> None:
    """By reason and by VOD; a VOD without parked views is named, with exit status 1."""
    vods.send("ghost", 7)
    vods.send("\x1b[31m", 7)
    vods.flush()
    text = run(counting_into_vod, "parked").stdout
    assert text.startswith("parked: 14 views of 2 VODs\n")
    assert 'no row in "public"."Vod"' in text
    assert "ghost" in text
    assert "\\x1b[31m" in text
    nothing = run(counting_into_vod, "parked", "--discard", "who", "--discard", "ghost", "--discard", "\x1b[31m")
    assert (nothing.returncode, nothing.stdout.splitlines()) == (
        1,
        [
            "who has no parked views",
            "discarded 7 views of ghost",
            "discarded 7 views of \\x1b[31m",
            "parked: 0 views of 0 VODs",
        ],
    )


def test_applying_without_a_table(online: Environment, vods: TargetWorld) -> None:
    """Without TARGET_TABLE any more, views parked for it go to the totals, if they have room."""
    vods.execute("INSERT INTO viewer.vod_view_counts VALUES ('full', %s, %s, 0, now())", FULL, FULL)
    for vod_id in ("ghost", "spook", "full"):
        vods.send(vod_id, 7)
    vods.flush()
    vods.send("ghost", 1)
    World(Stores(vods.stores.redis, Ledger(vods.stores.ledger.url))).flush()
    assert vods.parked() == {"ghost": 7, "spook": 7, "full": 7}
    assert json_of(run(online, "parked", "--apply", "--json"))["applied"] == {"vods": 2, "views": 14}
    assert (vods.parked(), vods.totals()) == ({"full": 7}, {"ghost": 8, "spook": 7, "full": 0})
    vods.assert_conserved()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"TARGET_TABLE": "public.Video"}, "there is no such table"),
        ({"TARGET_TABLE": "public.Vod", "TARGET_COUNT_COLUMN": "views"}, 'TARGET_COUNT_COLUMN="views"'),
        ({"TARGET_TABLE": "public.Vod", "TARGET_ID_COLUMN": "title"}, "has no unique index of its own"),
        ({"TARGET_TABLE": "a.b.c"}, "TARGET_TABLE='a.b.c': expected table or schema.table"),
        ({"TARGET_TABLE": "public.Vod", "TARGET_ID_COLUMN": "a.b"}, "TARGET_ID_COLUMN='a.b': expected a column's name"),
    ],
)
def test_a_table_that_cannot_be_used(
    counting_into_vod: Environment, vods: TargetWorld, variables: Environment, expected: str
) -> None:
    """One sentence at the start, with exit status 2; nothing is written."""
    assert expected in error_of(run({**counting_into_vod, **variables}, "flush"), 2)
    assert vods.seqs() == []


def test_up_refuses_a_table_that_cannot_be_used(counting_into_vod: Environment, vods: TargetWorld) -> None:
    """After the migrations, before anything is launched."""
    port = str(find_free_port())  # with one's own servers, the usual one must be free
    done = run({**counting_into_vod, "TARGET_TABLE": "public.Video", "HEALTH_CHECK_PORT": port}, "up")
    assert done.returncode == 2
    message, remedy = done.stderr.splitlines()[-2:]
    assert 'TARGET_TABLE="public"."Video": there is no such table' in message
    assert remedy == "remedy: create the table, or correct TARGET_TABLE; see `viewer-pipeline docs own-table`"
    assert "Traceback" not in done.stderr
    assert vods.seqs() == []
