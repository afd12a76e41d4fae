"""The statements that add a flush to the totals: on this PostgreSQL, and on older ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest

from viewer_pipeline.flush import transaction
from viewer_pipeline_tests.support.world import World


class TotalsStatement(NamedTuple):
    """A named query, and the function of `transaction` that runs it."""

    query: str
    function: str


MERGE = TotalsStatement("merge_totals", "merge_into_totals")
UPSERT = TotalsStatement("upsert_totals", "add_to_totals")


def uses_merge(world: World) -> bool:
    """Whether flushes use MERGE on this PostgreSQL."""
    ((version,),) = world.rows("SELECT current_setting('server_version_num')::integer")
    return bool(version >= transaction.MERGE_VERSION)


@contextmanager
def forced(statement: TotalsStatement, world: World) -> Iterator[None]:
    """Let flushes run this statement. Skip the test where PostgreSQL is too old for it."""
    if statement is MERGE and not uses_merge(world):
        pytest.skip("flushes use MERGE from PostgreSQL 17.7 on")
    with pytest.MonkeyPatch.context() as patch:
        if statement is UPSERT:
            patch.setattr(transaction, "MERGE_VERSION", 10**6)
        yield
