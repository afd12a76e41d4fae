"""The statements that `bench flush` compares a flush with."""

from __future__ import annotations

import psycopg
import pytest

from viewer_pipeline.bench.bench_flush import SQL
from viewer_pipeline.bench.raw_write import time_raw_write
from viewer_pipeline.flush.transaction import MERGE_VERSION

COUNTS = "SELECT vod_id, view_count FROM {} ORDER BY vod_id"


@pytest.mark.parametrize("statement", ["merge_raw", "update_raw"])
def test_references_write_the_same(database_url: str, statement: str) -> None:
    """Each adds the views to existing rows, as the upsert does."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        if statement == "merge_raw" and connection.info.server_version < MERGE_VERSION:
            pytest.skip("flushes use no MERGE")
        connection.execute(SQL["create_raw_upserted"])
        time_raw_write(database_url, ["a", "b", "c"], [1, 2, 3], SQL["upsert_raw"])
        connection.execute(SQL["create_raw_merged"])
        assert time_raw_write(database_url, ["a", "c"], [10, 10], SQL["upsert_raw"]) > 0
        assert time_raw_write(database_url, ["a", "c"], [10, 10], SQL[statement]) > 0
        for table in ("raw_upserted", "raw_merged"):
            assert connection.execute(COUNTS.format(table)).fetchall() == [("a", 11), ("b", 2), ("c", 13)]
