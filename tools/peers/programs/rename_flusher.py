"""Redis write-behind by RENAME: each counter gets a name of the flusher's, is written, then deleted.

RENAME is atomic, so no increment is lost between reading and deleting. What a flusher that died has renamed is
written by the next one: so nothing is lost, but it cannot know whether the views were written already.
"""

from __future__ import annotations

import psycopg
import redis

from tools.peers.programs.servers_and_totals import (
    FLUSH_COUNTERS,
    PIPELINE_KEYS,
    PREFIX,
    add_to_totals,
    flush_periodically,
    in_chunks,
    scan_keys,
)

RENAMED = "processing:"  # begin of the name of a counter while it is written


def flush(client: redis.Redis, connection: psycopg.Connection) -> int:
    """Write what an earlier flush has left, then all counters."""
    flushed = write_renamed(client, connection, scan_keys(client, RENAMED + PREFIX))
    for keys in in_chunks(scan_keys(client), FLUSH_COUNTERS):
        flushed += write_renamed(client, connection, rename(client, keys))
    return flushed


def rename(client: redis.Redis, keys: list[str]) -> list[str]:
    """Rename counters; return their new names."""
    renamed = []
    for some_keys in in_chunks(keys, PIPELINE_KEYS):
        pipe = client.pipeline(transaction=False)
        for key in some_keys:
            pipe.renamenx(key, RENAMED + key)
        done = pipe.execute(raise_on_error=False)  # a key may have been renamed by another flusher
        renamed += [RENAMED + key for key, reply in zip(some_keys, done, strict=True) if reply == 1]
    return renamed


def write_renamed(client: redis.Redis, connection: psycopg.Connection, renamed: list[str]) -> int:
    """Add renamed counters to the totals, then delete them."""
    for keys in in_chunks(renamed, FLUSH_COUNTERS):
        values = client.mget(keys)
        views = {
            key.removeprefix(RENAMED + PREFIX): int(value) for key, value in zip(keys, values, strict=True) if value
        }
        add_to_totals(connection, views)
        client.unlink(*keys)
    return len(renamed)


if __name__ == "__main__":
    flush_periodically(flush)
