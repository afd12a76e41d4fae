"""The tables of benchmarks in a terminal of 80 columns."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields

import pytest

from viewer_pipeline.bench import flush_tables, result_tables
from viewer_pipeline.bench.bench_messages import MessageStats
from viewer_pipeline.bench.bench_reconcile import ReconcileStats
from viewer_pipeline.bench.bench_target import TargetStats
from viewer_pipeline.bench.bench_unrelated_keys import ScanStats, UnrelatedKeysStats
from viewer_pipeline.bench.complete_run import StepSeconds
from viewer_pipeline.bench.flush_stats import FlushStats
from viewer_pipeline.bench.row_lock_and_double_count_times import LocksAndDoubleCounts

COLUMNS = 80
UNLIMITED = 10_000

STEPS = StepSeconds(**{field.name: 1234.5 + number for number, field in enumerate(fields(StepSeconds))})
IMPACT = LocksAndDoubleCounts(12.345, 23.456, 134.567, 245.67, 356.7)
FLUSHES = [
    FlushStats(
        mode, 10_000_000, 5, 1011.1, 1212.2, STEPS, 21, 2_345_678, 1313.3, 10.14, 1414.4, 10.15, statement,
        1516.0, 1617.0, 1718.0, 1819.1, 1920.2, 2021.3, 2122.0, 2223.0, 2324.0, IMPACT,
    )
    for mode, statement in (("sweep", "MERGE"), ("changed", "UPDATE … FROM"))
]  # fmt: skip
SCAN = ScanStats(12.34, 45.67, 89.01, 1_234_567, 98.76)

TABLES: dict[str, Callable[[], None]] = {
    "flush": lambda: flush_tables.print_flush_tables(FLUSHES),
    "flush without MERGE": lambda: flush_tables.print_flush_tables(FLUSHES[::-1]),
    "target": lambda: result_tables.print_target_table(
        TargetStats(90_000_000, 9_000_000, 5, 123.45, 1.0, 234.56, 12.34, 1_234_567, 12.345, 123.456)
    ),
    "changed": lambda: result_tables.print_unrelated_keys_table(
        UnrelatedKeysStats(1_000_000, 90_000_000, 123.4567, 234.5678, 12.34, SCAN)
    ),
    "messages": lambda: result_tables.print_messages_table(
        MessageStats(90_000_000, 1_234_567, 2_345_678, 3_456_789, 4_567_890, 12_345)
    ),
    "reconcile": lambda: result_tables.print_reconcile_table(
        ReconcileStats(90_000_000, 123.45, 2345.6, 3456.7, 1_234_567, 4567.8, 12_345)
    ),
}


def numbers_and_headings(text: str) -> list[str]:
    """Return the words of the tables, in an order that does not depend on the width."""
    return sorted(re.findall(r"[^\s│┃━─┏┓┗┛┡┩┳╇┷┴└┘├┤┼╋]+", text))


@pytest.mark.parametrize("name", TABLES)
def test_tables_fit(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """No line is too long, and no number and no word of a heading is broken, however large the numbers are."""
    TABLES[name]()
    output = capsys.readouterr().out
    assert [line for line in output.splitlines() if len(line) > COLUMNS] == []
    for module in (result_tables, flush_tables):
        monkeypatch.setattr(module, "WIDTH", UNLIMITED)
    TABLES[name]()
    assert numbers_and_headings(output) == numbers_and_headings(capsys.readouterr().out)
