"""dagster-community-components: the asset that reads a Redis stream into a database table.

As its documentation describes: a consumer group, entries appended to a table of events; the total of a VOD is the
number of its rows. The sensor that the documentation adds starts a run for each entry, too slow for this traffic: here
runs follow each other in one process. It is good at bringing entries of any form into a table, in a few lines of YAML.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress

import dagster as dg
import redis
from dagster_community_components import RedisStreamsToDatabaseAssetComponent

from tools.peers.programs.servers_and_totals import FLUSH_COUNTERS, STREAM, database_url, interval_seconds, redis_url

GROUP = "totals"
BLOCK_MS = 200  # a run ends when nothing arrives for so long; with the default of 2 s, single views wait for others
QUIET = {"loggers": {"console": {"config": {"log_level": "ERROR"}}}}


def main() -> None:
    """Materialize the asset again and again."""
    os.environ["SQLALCHEMY_URL"] = database_url().replace("postgresql://", "postgresql+psycopg://", 1)
    with redis.Redis.from_url(redis_url()) as client, suppress(redis.ResponseError):  # the group exists
        client.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
    component = RedisStreamsToDatabaseAssetComponent(
        asset_name="view_events",
        redis_url_env_var="REDIS_URL",
        stream_name=STREAM,
        database_url_env_var="SQLALCHEMY_URL",
        table_name="view_events",
        consumer_group=GROUP,
        max_entries=FLUSH_COUNTERS,
        block_ms=BLOCK_MS,
    )
    assets = list(component.build_defs(None).assets or [])
    while True:
        result = dg.materialize(assets, run_config=QUIET, raise_on_error=False)
        if not result.success:
            print("run failed", flush=True)
            time.sleep(interval_seconds())


if __name__ == "__main__":
    main()
