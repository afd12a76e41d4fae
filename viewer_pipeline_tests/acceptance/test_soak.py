"""The whole stack under fire, from outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SECONDS = 20


@pytest.mark.timeout(400)
@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes to strike at in /proc")
def test_every_view_is_counted_once(tmp_path: Path) -> None:
    """Something was killed or paused, much was sent, and all of it is persisted; the seed is printed."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    command = [sys.executable, "-m", "viewer_pipeline.cli", "soak", "--minutes", str(SECONDS / 60), "--json"]
    done = subprocess.run(
        command, env={**kept, "HOME": str(tmp_path)}, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "seed " in done.stderr
    report = json.loads(done.stdout)
    assert (done.returncode, report["exact"], report["lost"], report["duplicated"]) == (0, True, {}, {}), done.stderr
    assert report["sent"] == report["persisted"] > 10_000
    assert sum(report["kills"].values()) + sum(report["pauses"].values()) > 0
