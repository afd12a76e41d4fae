"""`viewer-pipeline parked`, and a target table that cannot be used, from outside."""

from __future__ import annotations

import pytest

from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline_tests.acceptance.test_cli import FULL, Environment, complaint, environment, json_of, online
from viewer_pipeline_tests.support.streamix import TargetWorld
from viewer_pipeline_tests.support.warm import run
from viewer_pipeline_tests.support.world import World

__all__ = ["environment", "online"]


@pytest.fixture
def told(online: Environment) -> Environment:
    """The environment of somebody who counts into them."""
    return {**online, "TARGET_TABLE": "public.Vod"}


def test_parked_views_from_outside(told: Environment, vods: TargetWorld) -> None:
    """Flushed, shown, counted once their row is there, given up by hand."""
    vods.add_vods("a")
    for vod_id, views in {"a": 1, "late": 5, "ghost": 7}.items():
        vods.send(vod_id, views)
    stats = json_of(run(told, "flush", "--json"))["stats"]
    assert (stats["views"], stats["parked"], stats["unparked"]) == (13, 12, 0)
    found = json_of(run(told, "parked", "--json"))
    assert (found["vods"], found["views"], found["discarded"]) == (2, 12, {})
    assert [(one["vod_id"], one["views"]) for one in found["largest"]] == [("ghost", 7), ("late", 5)]
    vods.add_vods("late")
    counted = json_of(run(told, "parked", "--apply", "--discard", "ghost", "--json"))
    assert (counted["counted"], counted["discarded"]) == ({"vods": 1, "views": 5}, {"ghost": 7})
    assert vods.target() == {"a": 1, "late": 5}
    assert run(told, "parked").stdout == "parked: 0 views of 0 VODs\n"


def test_in_words(told: Environment, vods: TargetWorld) -> None:
    """Why and whose, in two tables; a VOD that has none is said, with exit status 1."""
    vods.send("ghost", 7)
    vods.flush()
    said = run(told, "parked").stdout
    assert said.startswith("parked: 7 views of 1 VODs\n")
    assert 'no row in "public"."Vod"' in said
    assert "ghost" in said
    nothing = run(told, "parked", "--discard", "who", "--discard", "ghost")
    assert (nothing.returncode, nothing.stdout) == (
        1,
        "who has no parked views\ndiscarded 7 views of ghost\nparked: 0 views of 0 VODs\n",
    )


def test_applying_without_a_table(online: Environment, vods: TargetWorld) -> None:
    """Where TARGET_TABLE was given up, what had been parked for it goes to the totals, if they have room."""
    vods.execute("INSERT INTO viewer.vod_view_counts VALUES ('full', %s, %s, 0, now())", FULL, FULL)
    for vod_id in ("ghost", "spook", "full"):
        vods.send(vod_id, 7)
    vods.flush()
    vods.send("ghost", 1)
    World(Stores(vods.stores.redis, Ledger(vods.stores.ledger.url))).flush()
    assert vods.parked() == {"ghost": 7, "spook": 7, "full": 7}
    assert json_of(run(online, "parked", "--apply", "--json"))["counted"] == {"vods": 2, "views": 14}
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
    told: Environment, vods: TargetWorld, variables: Environment, expected: str
) -> None:
    """Said at the start, with exit status 2; nothing is written."""
    assert expected in complaint(run({**told, **variables}, "flush"), 2)
    assert vods.seqs() == []


def test_up_refuses_it_too(told: Environment, vods: TargetWorld) -> None:
    """After the migrations, before anything is launched."""
    done = run({**told, "TARGET_TABLE": "public.Video"}, "up")
    assert done.returncode == 2
    assert "there is no such table" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert vods.seqs() == []
