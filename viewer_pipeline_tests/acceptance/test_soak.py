"""`viewer-pipeline soak`: the whole stack under injected faults."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SECONDS = 20


@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes to kill in /proc")
def test_soak_counts_every_view_once(tmp_path: Path) -> None:
    """Processes were killed or paused, and every view is persisted once; the seed is printed."""
    environment = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    command = [sys.executable, "-m", "viewer_pipeline.cli", "soak", "--minutes", str(SECONDS / 60), "--json"]
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
