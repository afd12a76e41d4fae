"""DBOS Transact: a scheduled workflow of three steps, of which the middle one is a transaction of a datasource.

As DBOS's documentation recommends: steps that may be repeated without harm for everything outside PostgreSQL, and
`SQLAlchemyDatasource` for the write, which records its completion in the transaction of the write. The first step moves
counters into a hash that belongs to the workflow; a repetition moves what is new, so nothing is lost. A queue runs one
flush at a time, and recovers the workflow of a killed process. It is good at any sequence of steps that must complete
once, in very little code.
"""

from __future__ import annotations

import os
import time
from datetime import datetime
from threading import Event
from typing import Any

import redis
import sqlalchemy as sa
from dbos import DBOS, SQLAlchemyDatasource
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry

from tools.peers.programs.servers_and_totals import (
    PIPELINE_KEYS,
    PREFIX,
    add_to_totals_statement,
    database_url,
    in_chunks,
    interval_seconds,
    redis_url,
    report_flush,
    scan_keys,
    statement_parameters,
)

# KEYS: hash, then counters. ARGV: their VODs.
MOVE_INTO_HASH = """
for i = 2, #KEYS do
    local views = redis.call('GETDEL', KEYS[i])
    if views then redis.call('HINCRBY', KEYS[1], ARGV[i - 1], views) end
end
"""
QUEUE = "flushes"

URL = database_url().replace("postgresql://", "postgresql+psycopg://", 1)
DBOS(
    config={
        "name": "views",
        "system_database_url": URL,
        "application_version": "1",
        "run_admin_server": False,
        "scheduler_polling_interval_sec": 1.0,
    }
)
datasource = SQLAlchemyDatasource.create(URL)
# The transaction reads the hash; an error that is not PostgreSQL's would end the workflow.
client = redis.Redis.from_url(redis_url(), retry=Retry(ExponentialWithJitterBackoff(base=0.05, cap=2), retries=20))
# SQLAlchemy's names of parameters; a cast is written CAST there
ADD_TO_TOTALS = sa.text(
    add_to_totals_statement()
    .replace("%(vod_ids)s::text[]", "CAST(:vod_ids AS text[])")
    .replace("%(views)s::bigint[]", "CAST(:views AS bigint[])")
)


@DBOS.step(retries_allowed=True, max_attempts=10)
def move_into_hash(name: str) -> None:
    """Move all counters into the hash."""
    script = client.register_script(MOVE_INTO_HASH)
    for keys in in_chunks(scan_keys(client), PIPELINE_KEYS):
        script(keys=[name, *keys], args=[key.removeprefix(PREFIX) for key in keys])


@datasource.transaction(isolation_level="READ COMMITTED")
def add_hash_to_totals(name: str) -> int:
    """Add the views in the hash to the totals."""
    moved: Any = client.hgetall(name)
    views = {vod_id.decode(): int(count) for vod_id, count in moved.items()}
    if views:
        datasource.sql_session().execute(ADD_TO_TOTALS, statement_parameters(views))
    return len(views)


@DBOS.step(retries_allowed=True, max_attempts=10)
def delete_hash(name: str) -> None:
    """Delete the hash, after its views are in the totals."""
    client.unlink(name)


@DBOS.workflow()
def flush(_scheduled_at: datetime, _context: Any) -> None:
    """Move all counters to the totals."""
    started = time.perf_counter()
    name = f"flush:{DBOS.workflow_id}"
    move_into_hash(name)
    flushed = add_hash_to_totals(name)
    delete_hash(name)
    report_flush(flushed, started)


if __name__ == "__main__":
    os.environ["PGAPPNAME"] = "dbos"
    DBOS.launch()
    DBOS.register_queue(QUEUE, global_concurrency=1, polling_interval_sec=0.2)
    seconds = max(1, round(interval_seconds()))
    DBOS.apply_schedules(
        [
            {
                "schedule_name": "flush",
                "workflow_fn": flush,
                "schedule": f"*/{seconds} * * * * *",
                "context": None,
                "queue_name": QUEUE,
            }
        ]
    )
    Event().wait()
