"""The reports in VIEWER_HOME: the newest stay."""

from __future__ import annotations

import time
from pathlib import Path

KEPT = 30
DAY_SECONDS = 86_400  # no reconciliation takes as long
_ANY, UNFINISHED = "reconcile-*.csv", ".partial"


def report_path(directory: Path, stamp: str, run_id: str) -> Path:
    """Return where the report of a run goes. Names are in the order of time."""
    return directory / f"reconcile-{stamp}-{run_id[:8]}.csv"


def forget_old_reports(newest: Path) -> None:
    """Delete reports beside this one but the newest, and what runs left unfinished that were killed."""
    others = sorted((path for path in newest.parent.glob(_ANY) if path != newest), reverse=True)
    yesterday = time.time() - DAY_SECONDS
    unfinished = [path for path in newest.parent.glob(_ANY + UNFINISHED) if _changed(path) < yesterday]
    for path in (*others[KEPT - 1 :], *unfinished):
        path.unlink(missing_ok=True)


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # its run has ended
        return time.time()
