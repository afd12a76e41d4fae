"""The case to serve first: Streamix's producers and its table, `up` in announce mode, VODs that come and go meanwhile.

VIEWER_TEST_STREAMIX_SECONDS=60 sends for a minute instead of some seconds.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.stores.redis import connect
from viewer_pipeline_tests.support.stack import up, variables
from viewer_pipeline_tests.support.streamix import TargetWorld
from viewer_pipeline_tests.support.waiting import wait_until
from viewer_pipeline_tests.support.warm import run
from viewer_pipeline_tests.support.world import PREFIX

SECONDS = float(os.environ.get("VIEWER_TEST_STREAMIX_SECONDS", "8"))
PER_SECOND = 5000
VODS = 1000
CHANGES = 10  # VODs that are deleted on the way, and as many that are made after their first views
SESSION_SECONDS = 86_400
AT_ONCE = 100


def produce(redis_url: str, vod_ids: list[str], changed: Any, told: Any) -> None:
    """Count views as Streamix's web app does, at a rate; tell how many of which VOD, and how long it took.

    For SECONDS, and until the VODs have changed; a machine that is busy may take its time for that.
    """
    chosen, sent, started = random.Random(3), Counter[str](), time.monotonic()
    with connect(redis_url) as client:
        while (passed := time.monotonic() - started) < SECONDS or not (changed.is_set() or passed > SECONDS + 120):
            while sent.total() < passed * PER_SECOND:
                pipe = client.pipeline(transaction=False)
                for vod_id in chosen.choices(vod_ids, k=AT_ONCE):
                    session = f"vod:session:{vod_id}:{chosen.randrange(10**6)}"
                    pipe.get(session)
                    pipe.setex(session, SESSION_SECONDS, "1")
                    pipe.incr(PREFIX + vod_id)
                    pipe.publish("view_count_updates", json.dumps({"vodId": vod_id, "count": 1}))
                    sent[vod_id] += 1
                pipe.execute()
            time.sleep(0.005)
    told.put((dict(sent), time.monotonic() - started))


@pytest.mark.timeout(300 + SECONDS)
def test_every_view_in_the_table_or_parked(
    stores: Stores, client: redis.Redis, tmp_path: Path, add_to_summary: Callable[[str], None]
) -> None:
    """Exactly: what was sent to each VOD is in its row, or parked where it has none."""
    world, late = TargetWorld(stores), [f"late{number:04d}" for number in range(CHANGES)]
    world.make_streamix()
    vod_ids = [f"vod{number:04d}" for number in range(VODS)]
    world.add_vods(*vod_ids)
    environment = variables(
        tmp_path,
        DATABASE_URL=stores.ledger.url,
        REDIS_URL=stores.redis.url,
        PUBSUB_MODE="announce",
        TARGET_TABLE="public.Vod",
    )
    with up(environment) as stack:
        stack.wait_for_ui()
        spawn = multiprocessing.get_context("spawn")
        told: Any = spawn.Queue()
        changed = spawn.Event()
        producer = spawn.Process(target=produce, args=(stores.redis.url, vod_ids + late, changed, told))
        producer.start()
        gone = _come_and_go(world, late, vod_ids[:CHANGES])
        changed.set()
        sent, seconds = told.get(timeout=SECONDS + 120)
        producer.join(30)
        stack.stop()
    world.sent = Counter(sent)
    run_until_swept(environment, world)
    assert client.keys(PREFIX + "*") == []
    world.assert_conserved()
    expected = {vod_id: views for vod_id, views in sent.items() if vod_id not in gone}
    assert world.target() == expected
    parked = world.parked()
    assert set(parked) <= set(gone)
    assert {vod_id: world.totals()[vod_id] + parked.get(vod_id, 0) for vod_id in gone} == {v: sent[v] for v in gone}
    add_to_summary(
        f"Streamix: {sum(sent.values())} views in {seconds:.0f} s; in the table {sum(expected.values())}, parked"
        f" {sum(parked.values())} of {len(gone)} deleted VODs, which had {sum(world.totals()[v] for v in gone)} before"
    )


def _come_and_go(world: TargetWorld, late: list[str], doomed: list[str]) -> list[str]:
    """Once flushes were committed, delete VODs and make others, one at a time; return which were deleted."""
    flushed = "SELECT count(*) FROM viewer.vod_view_counts"
    wait_until(lambda: world.rows(flushed)[0][0] >= VODS, 120, "flushes")
    assert world.rows("SELECT count(*) FROM viewer.parked") != [(0,)]
    for comes, goes in zip(late, doomed, strict=True):
        world.add_vods(comes)
        world.execute('DELETE FROM public."Vod" WHERE "id" = %s', goes)
    return doomed


def run_until_swept(environment: dict[str, str], world: TargetWorld) -> None:
    """Sweep by hand what `up` left to the next sweep, until there is nothing more to do."""
    for _ in range(3):
        done = run(environment, "flush")
        assert done.returncode == 0, done.stderr
        if not world.counters():
            return
