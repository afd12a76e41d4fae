"""The tables of docs/flush-protocol.md: its example, step by step on real servers, and the columns and fields."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline_tests.support.world import World

PAGE = Path(__file__).parents[2] / "docs" / "flush-protocol.md"
ROW = re.compile(r"^\| ([\d, ]+) \| (\w+), (\w+) \| (\d+), (\d+) of (\d+) \| (\d+), (\d+) \|$", re.MULTILINE)

State = tuple[int, ...]  # two counters, three fields of the marker, two totals


class Killed(BaseException):
    """Stands for a process that ends here."""


def states_of_page() -> dict[int, State]:
    """Return the state after each step, as the page shows it."""
    states: dict[int, State] = {}
    for steps, *numbers in ROW.findall(PAGE.read_text(encoding="utf-8")):
        vod_1, vod_2, *others = (0 if number == "none" else int(number) for number in numbers)
        states |= {int(step): (vod_1, vod_2, *others) for step in steps.split(", ")}
    return states


def state_of(world: World) -> State:
    """Return counters, marker and totals of both VODs."""
    counters, totals, marker = world.counters(), world.totals(), world.marker()
    assert marker is not None
    vods = "vod_1", "vod_2"
    return (*(counters.get(vod, 0) for vod in vods), *marker[:3], *(totals[vod] for vod in vods))


def test_the_example_of_the_page(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run is killed half-way through settling; the next one settles the rest before it reads."""
    for views in (*[24] * 40, 40):
        world.send("vod_1", views)
        if views == 40:
            world.send("vod_2", 500)
        world.flush()
    states: dict[int, State] = {}
    confirm, settle, read = RedisStore.wait_until_reads_durable, RedisStore.settle, RedisStore.read

    def confirm_and_count(self: RedisStore, *arguments: Any) -> Any:
        marker = confirm(self, *arguments)
        states[3] = state_of(world)
        world.send("vod_1")
        states[4] = state_of(world)
        return marker

    def settle_one_batch(self: RedisStore, marker: Any, batches: Any) -> Any:
        states[5] = state_of(world)
        settle(self, marker, batches[:1])
        states[6] = state_of(world)
        raise Killed

    def note_and_read(self: RedisStore, candidates: Any) -> Any:
        states[8] = state_of(world)
        return read(self, candidates)

    world.send("vod_1", 3)
    world.send("vod_2", 5)
    states[1] = states[2] = state_of(world)
    with monkeypatch.context() as run_a:
        run_a.setattr(RedisStore, "wait_until_reads_durable", confirm_and_count)
        run_a.setattr(RedisStore, "settle", settle_one_batch)
        with pytest.raises(Killed):
            world.flush(batch_size=1)
    states[7] = state_of(world)
    monkeypatch.setattr(RedisStore, "read", note_and_read)
    world.flush(batch_size=1)
    states[9] = state_of(world)
    assert states == states_of_page()
    world.assert_all_persisted()


def section(title: str) -> str:
    """Return a section of the page, up to the next heading."""
    return PAGE.read_text(encoding="utf-8").split(f"### {title}\n")[1].partition("\n#")[0]


@pytest.mark.parametrize("table", ["flush", "flush_batch", "vod_view_counts"])
def test_the_page_has_every_column(world: World, table: str) -> None:
    """Of the ledger and the totals, as the migrations create them."""
    rows = section("Ledger and totals").partition(f"| `{table}` |")[2].splitlines()
    of_table = [rows[0], *(row.removeprefix("| |") for row in rows[1:])]
    end = next(at for at, row in enumerate([*of_table, "|"]) if at and row.startswith("|"))
    listed = {name for row in of_table[:end] for name in re.findall(r"`(\w+)`", row.partition("|")[0])}
    attributes = f"attrelid = 'viewer.{table}'::regclass AND attnum > 0 AND NOT attisdropped"
    query = f"SELECT attname FROM pg_attribute WHERE {attributes}"
    assert listed == {name for (name,) in world.rows(query)}


def test_the_page_has_every_field_of_the_marker(world: World) -> None:
    """Three of them are there after a disaster only."""
    world.send("vod_1")
    world.flush()
    fields: Any = world.client.hkeys("viewer:settled")
    rows = section("The marker").splitlines()
    listed = {name for row in rows if row.startswith("| `") for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    in_cluster = {"segment", "part", "parts"}
    assert listed - in_cluster - {"missing", "unreported", "hold"} == {field.decode() for field in fields}
