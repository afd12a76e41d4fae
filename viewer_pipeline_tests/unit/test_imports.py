"""What a process that runs for months carries along."""

from __future__ import annotations

import subprocess
import sys

HEAVY = {"dagster", "pandas", "numpy", "sqlalchemy", "alembic"}  # half a second and 45 MB, or more, each


def test_the_worker_stays_light() -> None:
    """It reads and writes both stores without what only flushes need."""
    code = "import sys, viewer_pipeline.cli.worker; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "viewer_pipeline.flush.ledger" in done.stdout.split()
    assert HEAVY & set(done.stdout.split()) == set()
