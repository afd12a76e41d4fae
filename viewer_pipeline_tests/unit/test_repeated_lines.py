"""Which lines of Dagster's processes `up` repeats in its foreground."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from viewer_pipeline.logs import LineFormatter, event
from viewer_pipeline.setting_types import LogFormat
from viewer_pipeline.stack.repeated_lines import RepeatedLines, is_repeated


def line(log_format: LogFormat, level: int, name: str, **fields: object) -> str:
    """Format a line as the processes do."""
    record = logging.LogRecord("viewer_pipeline.run", level, "file", 1, event(name, **fields), (), None)
    return LineFormatter(log_format).format(record)


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_flushes_and_warnings(log_format: LogFormat) -> None:
    """In either format; no other line, whatever its fields hold."""
    assert is_repeated(line(log_format, logging.INFO, "flush_committed", seq=3))
    assert is_repeated(line(log_format, logging.WARNING, "counters_rejected", counters=1))
    assert is_repeated(line(log_format, logging.ERROR, "run_failed", reason="no answer"))
    forged = ' level=error event=flush_committed "level": "error", "event": "flush_committed"'
    assert not is_repeated(line(log_format, logging.INFO, "counters_read", mode=forged))
    assert not is_repeated(line(log_format, logging.DEBUG, "tick_skipped", reason="nothing to flush"))
    assert is_repeated(line(log_format, logging.DEBUG, "tick_skipped", reason="nothing"), of_all_levels=True)


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_no_lines_of_dagster(log_format: LogFormat) -> None:
    """Its errors have long tracebacks; ours have the reason."""
    for text in (
        line(log_format, logging.ERROR, "step_failure", exception="Traceback …"),
        line(log_format, logging.ERROR, "run_failure", exception="Traceback …"),
        line(log_format, logging.ERROR, "Dependencies for step a failed"),
        '{"event": "flush_committed", "logger": "dagster.daemon", "level": "error"}',
        "Traceback (most recent call last):",
    ):
        assert not is_repeated(text)
        assert not is_repeated(text, of_all_levels=True)


def test_lines_are_repeated_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only those that are appended later and complete; also after the log was rotated."""
    log = tmp_path / "code-server.log"
    flushes = [line("text", logging.INFO, "flush_committed", seq=seq) + "\n" for seq in range(5)]
    log.write_text(flushes[0])
    lines = RepeatedLines(log)
    lines.repeat()
    with log.open("a") as appended:
        appended.write(flushes[1] + "noise\n" + flushes[2] + flushes[3][:50])
    lines.repeat()
    lines.repeat()
    assert capsys.readouterr().err == flushes[1] + flushes[2]
    with log.open("a") as appended:
        appended.write(flushes[3][50:])
    lines.repeat()
    log.write_text(flushes[4])
    lines.repeat()
    assert capsys.readouterr().err == flushes[3] + flushes[4]
    log.unlink()
    lines.repeat()


def test_a_log_that_does_not_exist_yet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is read from its beginning."""
    log = tmp_path / "daemon.log"
    lines = RepeatedLines(log)
    lines.repeat()
    log.write_text(warning := line("json", logging.WARNING, "clock_set_back", seconds=20) + "\n")
    lines.repeat()
    assert capsys.readouterr().err == warning
