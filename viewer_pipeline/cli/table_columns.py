"""Columns of tables in a terminal: numbers, and ids, none of which is cut off: it is copied into the next command."""

from __future__ import annotations

from collections.abc import Collection

from rich.table import Column

LONGEST_ID_ON_ONE_LINE = 40  # a uuid has 36 characters, Prisma's cuid 25; other columns of a table need the rest of 80


def id_column(heading: str, ids: Collection[str]) -> Column:
    """Return a column that shows every id completely: on one line, unless some are very long."""
    longest = max(map(len, ids), default=0)
    return Column(heading, no_wrap=longest <= LONGEST_ID_ON_ONE_LINE, overflow="fold")


def number_columns(*headings: str) -> list[Column]:
    """Return columns of numbers, aligned at their last digits."""
    return [Column(heading, justify="right") for heading in headings]
