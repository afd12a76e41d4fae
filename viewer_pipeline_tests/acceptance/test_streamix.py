"""The main use case: Streamix's producers and table, `up` in announce mode, VODs inserted and deleted meanwhile.

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
from viewer_pipeline.stack.ports import find_free_port
from viewer_pipeline.stores.redis import connect
from viewer_pipeline_tests.support.stack import up, variables
from viewer_pipeline_tests.support.streamix import TargetWorld
from viewer_pipeline_tests.support.waiting import ENOUGH, wait_until
from viewer_pipeline_tests.support.warm import run
from viewer_pipeline_tests.support.world import PREFIX

SECONDS = float(os.environ.get("VIEWER_TEST_STREAMIX_SECONDS", "8"))
PER_SECOND = 5000
VODS = 1000
CHANGES = 10  # VODs that are deleted during the test, and as many that are inserted after their first views
SESSION_SECONDS = 86_400
BATCH_VIEWS = 100


def produce(redis_url: str, vod_ids: list[str], changed: Any, results: Any) -> None:
    """Count views as Streamix's web app does, at a constant rate; put the views by VOD and the duration into `results`.

    Runs for SECONDS, and until the VODs have changed, which takes longer on a busy machine.
    """
    generator, sent, started = random.Random(3), Counter[str](), time.monotonic()
    with connect(redis_url) as client:
        while (elapsed := time.monotonic() - started) < SECONDS or not (changed.is_set() or elapsed > SECONDS + 120):
            while sent.total() < elapsed * PER_SECOND:
                pipe = client.pipeline(transaction=False)
                for vod_id in generator.choices(vod_ids, k=BATCH_VIEWS):
                    session = f"vod:session:{vod_id}:{generator.randrange(10**6)}"
                    pipe.get(session)
                    pipe.setex(session, SESSION_SECONDS, "1")
                    pipe.incr(PREFIX + vod_id)
                    pipe.publish("view_count_updates", json.dumps({"vodId": vod_id, "count": 1}))
                    sent[vod_id] += 1
                pipe.execute()
            time.sleep(0.005)
    results.put((dict(sent), time.monotonic() - started))


@pytest.mark.timeout(600 + SECONDS)
def test_streamix_views_are_in_the_table_or_parked(
    stores: Stores, client: redis.Redis, tmp_path: Path, add_to_summary: Callable[[str], None]
) -> None:
    """All views of each VOD are in its row, or parked if it has none."""
    world, late = TargetWorld(stores), [f"late{number:04d}" for number in range(CHANGES)]
    world.make_streamix()
    vod_ids = [f"vod{number:04d}" for number in range(VODS)]
    world.add_vods(*vod_ids)
    environment = variables(
        tmp_path,
        DATABASE_URL=stores.ledger.url,
        REDIS_URL=stores.redis.url,
        HEALTH_CHECK_PORT=str(find_free_port()),
        PUBSUB_MODE="announce",
        TARGET_TABLE="public.Vod",
    )
    with up(environment) as stack:
        stack.wait_for_ui()
        spawn = multiprocessing.get_context("spawn")
        results: Any = spawn.Queue()
        changed = spawn.Event()
        producer = spawn.Process(target=produce, args=(stores.redis.url, vod_ids + late, changed, results))
        producer.start()
        deleted = _replace_vods(world, late, vod_ids[:CHANGES])
        changed.set()
        sent, seconds = results.get(timeout=SECONDS + 120)
        producer.join(ENOUGH)
        stack.stop()
    world.sent = Counter(sent)
    sweep_until_empty(environment, world)
    assert client.keys(PREFIX + "*") == []
    world.assert_conserved()
    expected = {vod_id: views for vod_id, views in sent.items() if vod_id not in deleted}
    assert world.target() == expected
    parked = world.parked()
    assert set(parked) <= set(deleted)
    assert {vod_id: world.totals()[vod_id] + parked.get(vod_id, 0) for vod_id in deleted} == {
        vod_id: sent[vod_id] for vod_id in deleted
    }
    before = sum(world.totals()[vod_id] for vod_id in deleted)
    add_to_summary(
        f"Streamix: {sum(sent.values())} views in {seconds:.0f} s; in the table {sum(expected.values())}, parked"
        f" {sum(parked.values())} of {len(deleted)} deleted VODs, which had {before} before"
    )


def _replace_vods(world: TargetWorld, inserted: list[str], deleted: list[str]) -> list[str]:
    """After the first flushes, insert and delete VODs one at a time; return the deleted ones."""
    flushed = "SELECT count(*) FROM viewer.vod_view_counts"
    wait_until(lambda: world.rows(flushed)[0][0] >= VODS, 120, "flushes")
    assert world.rows("SELECT count(*) FROM viewer.parked") != [(0,)]
    for new, old in zip(inserted, deleted, strict=True):
        world.add_vods(new)
        world.execute('DELETE FROM public."Vod" WHERE "id" = %s', old)
    return deleted


def sweep_until_empty(environment: dict[str, str], world: TargetWorld) -> None:
    """Sweep the counters that `up` left to the next sweep, until there are none."""
    for _ in range(3):
        result = run(environment, "flush")
        assert result.returncode == 0, result.stderr
        if not world.counters():
            return
