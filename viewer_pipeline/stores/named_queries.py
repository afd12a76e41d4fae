"""Named queries: the SQL of a module is in a file of the same name beside it.

Each query begins with `-- name: insert_flush`, then a line with its purpose.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

import psycopg

HEADER = "-- name: "


def named_queries(module: str) -> dict[str, str]:
    """Return the queries of a module by name; `module` is its `__name__`."""
    package, _, name = module.rpartition(".")
    text = resources.files(package).joinpath(f"{name}.sql").read_text(encoding="utf-8")
    queries = (part.partition("\n") for part in f"\n{text}".split(f"\n{HEADER}")[1:])
    return {name.strip(): query.strip() + "\n" for name, _, query in queries}


def fetch_one(connection: psycopg.Connection, query: str, **parameters: Any) -> tuple[Any, ...]:
    """Return the only row of a query that always returns one."""
    row = connection.execute(query, parameters).fetchone()
    assert row is not None, f"returns one row: {query}"
    return row
