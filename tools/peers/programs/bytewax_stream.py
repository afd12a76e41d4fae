"""bytewax: a dataflow from a Redis stream into PostgreSQL, with a recovery store.

As bytewax's documentation recommends: `RedisStreamSource` of bytewax-redis, a sink that writes a batch at a time, and a
recovery store with a snapshot every second, from which a restarted dataflow continues. Source and documentation promise
"at least once". It is good at computing over streams: windows, joins, state by key, on many workers.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import bytewax.operators as op
import psycopg
from bytewax.bytewax_redis import RedisStreamSource
from bytewax.dataflow import Dataflow
from bytewax.outputs import DynamicSink, StatelessSinkPartition

from tools.peers.programs.servers_and_totals import (
    FLUSH_COUNTERS,
    STREAM,
    VOD_FIELD,
    add_to_totals,
    database_url,
    redis_url,
)

SNAPSHOT_SECONDS = "1"
ENTRY = tuple[bytes, dict[bytes, bytes]]  # its id, its fields


class TotalsPartition(StatelessSinkPartition[ENTRY]):
    """Writes to PostgreSQL on one connection."""

    def __init__(self) -> None:
        self._connection = psycopg.connect(database_url())

    def write_batch(self, items: list[ENTRY]) -> None:
        """Add the views of a batch to the totals, in one transaction."""
        add_to_totals(self._connection, Counter(fields[VOD_FIELD.encode()].decode() for _, fields in items))

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


class TotalsSink(DynamicSink[ENTRY]):
    """Totals by VOD."""

    def build(self, _step_id: str, _worker_index: int, _worker_count: int) -> TotalsPartition:
        """Open a partition for a worker."""
        return TotalsPartition()


def make_flow() -> Dataflow:
    """Return the dataflow."""
    server = urlsplit(redis_url())
    flow = Dataflow("views")
    source: Any = RedisStreamSource([STREAM], server.hostname, server.port, 0, batch_size=FLUSH_COUNTERS)
    op.output("totals", op.input("stream", flow, source), TotalsSink())
    return flow


def main() -> None:
    """Create the recovery store once, then run the dataflow in this process."""
    store = Path(os.environ["PEER_HOME"], "recovery")
    if not any(store.glob("*")):
        store.mkdir(exist_ok=True)
        subprocess.run([sys.executable, "-m", "bytewax.recovery", store, "1"], check=True)
    run = ["-m", "bytewax.run", f"{__spec__.name}:make_flow()", "-r", str(store), "-s", SNAPSHOT_SECONDS, "-b", "0"]
    os.execv(sys.executable, [sys.executable, *run])


if __name__ == "__main__":
    main()
