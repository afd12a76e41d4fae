"""What encode_batch_rows() writes is what PostgreSQL reads."""

from __future__ import annotations

import sys

import psycopg
import pytest

from viewer_pipeline.flush.copy_format import encode_batch_rows
from viewer_pipeline.flush.transaction import SQL

MAX_BIGINT = 2**63 - 1
MAX_INTEGER = 2**31 - 1

Row = tuple[int, int, list[str], list[int]]


def copied(database_url: str, rows: list[Row]) -> list[Row]:
    """Copy the rows into the ledger; return what is there then."""
    with psycopg.connect(database_url) as connection:
        with connection.cursor() as cursor, cursor.copy(SQL["copy_batches"]) as copy:
            copy.write(encode_batch_rows(rows))
        return connection.execute(
            "SELECT seq, batch, vod_ids, deltas FROM viewer.flush_batch ORDER BY seq, batch"
        ).fetchall()


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [(1, 1, ["a"], [1])],
        [(1, 1, ["a", "b"], [5, 7]), (1, 2, ["c"], [1]), (2, 1, ["a"], [9])],
        [(1, 1, [], [])],
        [(1, 1, [], []), (1, 2, ["a"], [1])],
        [(MAX_BIGINT, MAX_INTEGER, ["a"], [MAX_BIGINT])],
        [(1, 1, ["a", "b", "c"], [1, 2**31, MAX_BIGINT])],
        [(1, 1, ["ab", "a", "abc"], [1, 2, 3])],
        [(1, 1, ["😀" * 255, "x" * 255, "é" * 255, "a"], [1, 2, 3, 4])],
        [(1, 1, ["", " ", "NULL", "null", "\\N", "{1,2}", '"', "'", "\\", "a\nb", "a\tb", "\r", "%s"], [1] * 13)],
    ],
    ids=["no rows", "one", "several", "empty", "empty first", "numbers", "deltas", "lengths", "long ids", "odd ids"],
)
def test_rows_read_back_equal(database_url: str, rows: list[Row]) -> None:
    """Numbers up to their limits, texts of up to 1020 bytes and with whatever characters, empty arrays."""
    assert copied(database_url, rows) == rows


@pytest.mark.parametrize("length", [0, 1, 25, 127, 128, 255])
@pytest.mark.parametrize("odd", ["", "é", "😀", "longer"])
def test_ids_of_one_length_read_back_equal(database_url: str, length: int, odd: str) -> None:
    """The short way for ids that are alike, and one among them that is not as it looks."""
    ids = [letter * length for letter in "abc"]
    ids.insert(1, (odd * length)[: length + len(odd) - 1] if odd else "z" * length)
    rows = [(1, 1, ids, [1, 2, 3, 4])]
    assert copied(database_url, rows) == rows


def test_data_has_header_and_trailer() -> None:
    """Without rows there is nothing between: signature, no flags, no extension, and the word that ends it."""
    assert encode_batch_rows([]) == b"PGCOPY\n\xff\r\n\x00" + bytes(8) + b"\xff\xff"


def test_every_character_reads_back_equal(database_url: str) -> None:
    """All of Unicode that PostgreSQL can hold, 255 characters an id."""
    characters = [chr(point) for point in range(1, sys.maxunicode + 1) if not 0xD800 <= point <= 0xDFFF]
    ids = ["".join(characters[start : start + 255]) for start in range(0, len(characters), 255)]
    rows = [(1, 1, ids, list(range(1, len(ids) + 1)))]
    assert copied(database_url, rows) == rows


def test_batches_of_the_largest_size_read_back_equal(database_url: str) -> None:
    """Two batches of 5000 counters, the most that BATCH_SIZE allows."""
    ids = [f"vod{number:05d}" for number in range(10_000)]
    rows = [(1, 1, ids[:5000], list(range(1, 5001))), (1, 2, ids[5000:], [MAX_BIGINT] * 5000)]
    assert copied(database_url, rows) == rows


def test_arrays_have_one_dimension_from_one(database_url: str) -> None:
    """As an array that SQL itself made, so that subscripts and unnest() give the same."""
    copied(database_url, [(1, 1, ["a", "b"], [5, 7])])
    query = """
        SELECT array_ndims(vod_ids), array_lower(vod_ids, 1), array_upper(vod_ids, 1),
               array_ndims(deltas), array_lower(deltas, 1), array_upper(deltas, 1),
               vod_ids = ARRAY['a', 'b'], deltas = ARRAY[5, 7]::bigint[]
        FROM viewer.flush_batch
    """
    with psycopg.connect(database_url) as connection:
        assert connection.execute(query).fetchone() == (1, 1, 2, 1, 1, 2, True, True)
