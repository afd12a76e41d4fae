"""Named queries: each has a purpose, and a module that runs it."""

from __future__ import annotations

from pathlib import Path

import pytest

import viewer_pipeline
from viewer_pipeline.stores.named_queries import named_queries

PACKAGE = Path(viewer_pipeline.__file__).parent
FILES = sorted(PACKAGE.rglob("*.sql"))


@pytest.mark.parametrize("file", FILES, ids=[str(file.relative_to(PACKAGE)) for file in FILES])
def test_each_query_has_a_purpose_and_is_used(file: Path) -> None:
    """The line below its name is its purpose; the module beside the file uses it."""
    queries = named_queries(".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts))
    module = file.with_suffix(".py").read_text(encoding="utf-8")
    assert queries
    for name, query in queries.items():
        assert query.startswith("-- "), name
        assert f'"{name}"' in module, name
    assert file.read_text(encoding="utf-8").count("-- name: ") == len(queries)
