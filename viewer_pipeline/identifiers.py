"""Names of SQL objects as people write them in settings: `Vod`, `"Vod"`, `shop.video`, `"my schema"."a table"`."""

from __future__ import annotations

import re
from typing import NamedTuple

MAX_BYTES = 63  # PostgreSQL cuts longer names, so they would name something else

_PART = re.compile(r'"((?:[^"\x00]|"")+)"|([^".\s\x00]+)')


class TableName(NamedTuple):
    """A table; without a schema it is looked up on the search_path."""

    schema: str | None
    table: str

    def __str__(self) -> str:
        return ".".join(map(quoted, filter(None, self)))


def quoted(name: str) -> str:
    """Return a name as SQL takes it, whatever characters it has."""
    return '"' + name.replace('"', '""') + '"'


def parse_names(text: str, at_most: int) -> list[str]:
    """Split `a.b` into its names, each taken exactly as it stands: nothing is folded to lower case.

    A name with dots, blanks or quotes stands in double quotes, a double quote in it is written twice.
    Raises ValueError with what is expected.
    """
    names, at = list[str](), 0
    while True:
        found = _PART.match(text, at)
        if found is None:
            raise ValueError(f"expected {_expected(at_most)}")
        names.append(_checked(found[1].replace('""', '"') if found[1] else found[2]))
        at = found.end()
        if at == len(text):
            break
        if text[at] != "." or len(names) == at_most:
            raise ValueError(f"expected {_expected(at_most)}")
        at += 1
    return names


def parse_table(text: str) -> TableName:
    """Read `table` or `schema.table`. Raises ValueError."""
    *schema, table = parse_names(text, 2)
    return TableName(schema[0] if schema else None, table)


def parse_column(text: str) -> str:
    """Read one column's name. Raises ValueError."""
    return parse_names(text, 1)[0]


def _expected(at_most: int) -> str:
    what = "a column's name" if at_most == 1 else "table or schema.table"
    return f'{what}; a name with other characters in double quotes, such as "my ""odd"" name"'


def _checked(name: str) -> str:
    if len(name.encode()) > MAX_BYTES:
        raise ValueError(f"expected names of at most {MAX_BYTES} bytes, which is what PostgreSQL takes")
    return name
