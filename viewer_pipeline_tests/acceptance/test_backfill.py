"""A backfill through Dagster's own daemon, requested as its UI does, while flushes run."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.home_lock_and_server_urls import read_settings_of_running_up
from viewer_pipeline.stores.redis import connect
from viewer_pipeline_tests.support.ledger_world import ONE, History, at
from viewer_pipeline_tests.support.stack import query_graphql, up, variables
from viewer_pipeline_tests.support.terminal import shell, standard_files
from viewer_pipeline_tests.support.waiting import wait_until
from viewer_pipeline_tests.support.world import PREFIX, World

DAYS = 30
LAUNCH = """
mutation ($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) { __typename ... on LaunchBackfillSuccess { backfillId } }
}
"""
STATUS = """
query ($id: String!) {
  partitionBackfillOrError(backfillId: $id) { __typename ... on PartitionBackfill { status } }
}
"""


def backfill(ui: str, days: list[str]) -> None:
    """Launch one, and wait until it is done."""
    params = {"assetSelection": [{"path": ["daily_views"]}], "partitionNames": days}
    launched = query_graphql(ui, LAUNCH, params=params)
    assert launched["__typename"] == "LaunchBackfillSuccess", launched

    def status() -> str:
        return str(query_graphql(ui, STATUS, id=launched["backfillId"])["status"])

    wait_until(lambda: status() not in ("REQUESTED", "COMPLETING"), 200, "the backfill is done")
    assert status() == "COMPLETED_SUCCESS"


def test_backfill_of_a_month_twice(tmp_path: Path) -> None:
    """Each time one run, and the same rows; flushes go on meanwhile and lose nothing.

    The stack was started without stdin and stdout: none of its connections takes their descriptors.
    """
    start = datetime.now(UTC).date() - ONE * (DAYS + 9)
    with up(variables(tmp_path, HISTORY_START=start.isoformat()), shell('exec "$@" 0<&- 1>&-')) as stack:
        ui = stack.wait_for_ui()
        if sys.platform == "linux":
            assert standard_files(stack.process.pid)[:2] == [Path(os.devnull)] * 2
        urls = read_settings_of_running_up(stack.home)
        with connect(urls["redis_url"]) as client:
            world = World(Stores(RedisStore(client, urls["redis_url"], PREFIX), Ledger(urls["database_url"])))
            history, yesterday = History(world), datetime.now(UTC).date() - ONE
            days = [yesterday - timedelta(days=ago) for ago in range(DAYS)][::-1]
            for number, day in enumerate(days):
                history.flush(at(day), {"a": number + 1, f"vod{number % 7}": 3})
            backfill(ui, [day.isoformat() for day in days])
            rows = history.daily()
            assert sum(rows.values()) == sum(range(1, DAYS + 1)) + 3 * DAYS
            world.client.incrby(PREFIX + "meanwhile", 5)
            backfill(ui, [day.isoformat() for day in days])
            assert {key: views for key, views in history.daily().items() if key[0] <= yesterday} == rows
            wait_until(lambda: world.totals().get("meanwhile") == 5, 150, "a flush went on")
        triggers = "SELECT value FROM dagster.run_tags WHERE key = 'viewer/trigger' AND value LIKE 'backfill%'"
        assert [trigger.rpartition(" of ")[2] for (trigger,) in world.rows(triggers)] == [
            f"{days[0]} to {days[-1]}"
        ] * 2
        events = "SELECT count(*) FROM dagster.event_logs WHERE dagster_event_type = 'ASSET_MATERIALIZATION'"
        assert world.rows(f"{events} AND partition IS NOT NULL")[0][0] >= 2 * DAYS
