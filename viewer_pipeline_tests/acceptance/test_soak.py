"""`viewer-pipeline soak`: the whole stack under injected faults."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tools.judge import Line, check, read_history, summarize

SECONDS = 20


@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes to kill in /proc")
def test_soak_counts_every_view_once(tmp_path: Path) -> None:
    """Processes were killed or paused, and every view is persisted once; the seed is printed."""
    environment = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    command = [sys.executable, "-m", "viewer_pipeline.cli", "soak", "--minutes", str(SECONDS / 60), "--json"]
    command += ["--history", str(tmp_path / "history")]
    result = subprocess.run(
        command, env={**environment, "HOME": str(tmp_path)}, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "seed " in result.stderr
    report = json.loads(result.stdout)
    assert (result.returncode, report["exact"], report["lost"], report["duplicated"]) == (0, True, {}, {}), (
        result.stderr
    )
    assert report["sent"] == report["persisted"] > 1_000
    assert sum(report["kills"].values()) + sum(report["pauses"].values()) > 0
    _check_history(tmp_path / "history", report)


def test_a_history_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    """Before anything is started."""
    command = [sys.executable, "-m", "viewer_pipeline.cli", "soak", "--history", str(tmp_path / "missing" / "history")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "No such file or directory" in result.stderr


def _check_history(path: Path, report: dict[str, Any]) -> None:
    """A program without our code finds the same in the history, and notices errors that are planted in it."""
    lines = read_history(path)
    assert list(check(lines)) == []
    result = summarize(lines, [])
    assert (result["sent"], result["persisted"], result["unknown"]) == (report["sent"], report["persisted"], 0)
    kills, pauses = sum(report["kills"].values()), sum(report["pauses"].values())
    assert result["faults"].total() == kills + pauses + report["failovers"]
    assert result["reads"] > 10
    final = next(line for line in lines if line.type == "final")
    vod = max(final.maps["persisted"])
    for views, kind in ((-1, "lost"), (1, "doubled")):
        changed = _with_views(final, vod, views)
        others = [line for line in lines if line is not final]
        assert (kind, vod) in {(violation.kind, violation.vod) for violation in check([*others, changed])}
    later = replace(_with_views(final, vod, -1), type="read", begin=final.end + 1, end=final.end + 1)
    assert {violation.kind for violation in check([*lines, later])} == {"backwards", "missing"}


def _with_views(line: Line, vod: str, views: int) -> Line:
    """Return a copy of a read with more persisted views of one VOD."""
    return replace(line, maps=line.maps | {"persisted": line.maps["persisted"] + Counter({vod: views})})
