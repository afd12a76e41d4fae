"""The algorithm of a small worker as many applications have it, such as Streamix's Node worker.

KEYS, MGET, one transaction with one statement for each counter, then DEL of the keys that were read. psycopg sends the
statements in its pipeline mode, which is faster than one round trip each. It is twenty
lines that everybody understands.
"""

from __future__ import annotations

from typing import Any

import psycopg
import redis

from tools.peers.programs.servers_and_totals import (
    PREFIX,
    add_to_totals_statement,
    flush_periodically,
)


def flush(client: redis.Redis, connection: psycopg.Connection) -> int:
    """Write what the counters hold, then delete them."""
    keys: Any = client.keys(f"{PREFIX}*")
    if not keys:
        return 0
    values = client.mget(keys)
    views = {key.decode().removeprefix(PREFIX): int(value) for key, value in zip(keys, values, strict=True) if value}
    with connection.transaction(), connection.cursor() as cursor:
        cursor.executemany(
            add_to_totals_statement().encode(),
            [{"vod_ids": [vod_id], "views": [views[vod_id]]} for vod_id in sorted(views)],
        )
    client.delete(*keys)
    return len(views)


if __name__ == "__main__":
    flush_periodically(flush)
