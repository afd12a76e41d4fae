"""Tables of commands with ids, and the last line of the demo, in 80 columns: ids must be copied, lines be found."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest

from viewer_pipeline.cli.parked_report import ParkedReport, print_parked
from viewer_pipeline.cli.reconcile_run import print_reconcile_result
from viewer_pipeline.reconcile.difference_csv import Difference, Kind
from viewer_pipeline.reconcile.reconciliation import ReconcileResult
from viewer_pipeline.stack.demo import DemoReport
from viewer_pipeline.stack.demo_terminal import print_demo_report
from viewer_pipeline.target.parked_views import ParkedByReason, ParkedViews, ParkedVod

NOW = datetime(2026, 11, 29, 3, 46, tzinfo=UTC)
CUID = "clv8k2m0p0001qz3f7d9x4abc"
UUID = "0190b7c2-6f5e-7c3a-9d21-5b8e4f6a7c10"
LONGEST = "".join(f"{number:05}" for number in range(51))  # 255 characters, none of whose parts repeat


@pytest.fixture(autouse=True)
def _eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def first_column(text: str) -> str:
    """Return what the first column of the tables holds, its lines joined."""
    return "".join(line.split("│")[1].strip() for line in text.splitlines() if line.startswith("│"))


def parked(vod_id: str) -> ParkedReport:
    """Return a report of one VOD, with the widest reason and number."""
    reason = 'no row in "public"."Vod"'
    largest = [ParkedVod(vod_id, 9_000_000_000, reason, NOW, NOW)]
    return ParkedReport({}, ParkedViews(0, 0), [ParkedByReason(reason, 1, 9_000_000_000, NOW)], largest)


@pytest.mark.parametrize("vod_id", [CUID, UUID])
def test_parked_ids_are_on_one_line(vod_id: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The id that `parked --discard` needs can be copied, and the table fits."""
    print_parked(parked(vod_id))
    output = capsys.readouterr().out
    assert f"│ {vod_id} │ 9000000000 │" in output
    assert [line for line in output.splitlines() if len(line) > 80] == []


def test_the_longest_parked_id_is_complete(capsys: pytest.CaptureFixture[str]) -> None:
    """An id of 255 characters takes several lines, none of which is cut."""
    print_parked(parked(LONGEST))
    assert first_column(capsys.readouterr().out).endswith(LONGEST)


def test_reconciled_ids_are_on_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A long message leaves the id complete on a terminal; in a pipe there is more room."""
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    difference = Difference("total", UUID, 9_000_000_000, 9_000_000_001, "the total differs from its history " * 5)
    counts: tuple[Counter[Kind], Counter[Kind]] = (Counter({"total": 1}), Counter())  # found, repaired
    print_reconcile_result(ReconcileResult(*counts, [difference], [], [], {}, 1, 0, Path("r.csv"), 1.0, NOW))
    assert f"│ {UUID} │" in capsys.readouterr().out


def test_the_demos_result_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """The line that the README shows is not wrapped."""
    print_demo_report(DemoReport({CUID: 20_000}, {CUID: 20_000}, {}, 0, 0, 2, 2, 0, 2.0, 15.0))
    assert capsys.readouterr().out.splitlines()[-1] == (
        "sent 20000 = persisted 20000 + in Redis 0 + parked 0: exact for every VOD (lost 0, duplicated 0, rejected 0)"
    )
