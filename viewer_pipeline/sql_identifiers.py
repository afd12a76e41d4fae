"""Names of SQL objects in settings: `Vod`, `"Vod"`, `shop.video`, `"my schema"."a table"`."""

from __future__ import annotations

import re
from typing import NamedTuple

MAX_BYTES = 63  # PostgreSQL truncates longer names, which would then name another object

_PART = re.compile(r'"((?:[^"\x00]|"")+)"|([^".\s\x00]+)')


class TableName(NamedTuple):
    """A table; without a schema it is looked up on the search_path."""

    schema: str | None
    table: str

    def __str__(self) -> str:
        return ".".join(map(quoted, filter(None, self)))


def quoted(name: str) -> str:
    """Return a name quoted for SQL, whatever its characters."""
    return '"' + name.replace('"', '""') + '"'


def parse_names(text: str, max_parts: int) -> list[str]:
    """Split `a.b` into its names, each exactly as written: nothing is folded to lower case.

    A name with dots, blanks or quotes is written in double quotes, a double quote in it twice. Raises ValueError with
    the expected form.
    """
    names, at = list[str](), 0
    while True:
        part = _PART.match(text, at)
        if part is None:
            raise ValueError(f"expected {_expected_name_form(max_parts)}")
        names.append(part[1].replace('""', '"') if part[1] else part[2])
        if len(names[-1].encode()) > MAX_BYTES:
            raise ValueError(f"expected names of at most {MAX_BYTES} bytes, which is what PostgreSQL takes")
        at = part.end()
        if at == len(text):
            break
        if text[at] != "." or len(names) == max_parts:
            raise ValueError(f"expected {_expected_name_form(max_parts)}")
        at += 1
    return names


def parse_table(text: str) -> TableName:
    """Parse `table` or `schema.table`. Raises ValueError."""
    *schema, table = parse_names(text, 2)
    return TableName(schema[0] if schema else None, table)


def parse_column(text: str) -> str:
    """Parse the name of a column. Raises ValueError."""
    return parse_names(text, 1)[0]


def _expected_name_form(max_parts: int) -> str:
    form = "a column's name" if max_parts == 1 else "table or schema.table"
    return f'{form}; a name with other characters in double quotes, such as "my ""odd"" name"'
