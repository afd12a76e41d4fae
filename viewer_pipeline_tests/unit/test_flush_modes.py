"""The modes of flushes, which SQL has as literals, are those of the Python code."""

from __future__ import annotations

import re
from typing import get_args

from viewer_pipeline.flush.flush_request import Mode
from viewer_pipeline.flush.ledger_row_types import COUNT_HELD, HOLD
from viewer_pipeline.reconcile.adjustment_transaction import AdjustmentMode
from viewer_pipeline_tests.unit.test_queries import FILES

LITERAL = re.compile(r"'(\w+)'")
REPAIR = "reconcile"  # what the modes of repairs begin with


def test_modes_in_sql() -> None:
    """Queries name these and no others; with another name in Python, held views would count, or be subtracted again."""
    lines = [line for file in FILES for line in file.read_text(encoding="utf-8").splitlines()]
    assert {literal for line in lines if re.search(r"\bmode\b", line) for literal in LITERAL.findall(line)} == {
        HOLD,
        COUNT_HELD,
        REPAIR,
    }


def test_only_modes_of_repairs_begin_like_them() -> None:
    """SQL compares only the beginning, so that another mode that begins so would be taken for a repair."""
    modes = {*get_args(Mode), *get_args(AdjustmentMode), HOLD}
    assert {mode for mode in modes if mode.startswith(REPAIR)} == {*get_args(AdjustmentMode)} - {COUNT_HELD}
