"""`viewer-pipeline baseline`."""

from __future__ import annotations

from pathlib import Path

from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.history.baseline import Baseline, take_counts, take_from_target, taken_baseline
from viewer_pipeline.history.counts_file import read_counts
from viewer_pipeline.settings import Settings
from viewer_pipeline.target.table import TargetNames


def take(settings: Settings, file: Path | None, *, from_target: bool, again: bool) -> Baseline | None:
    """Take it from where it is asked to be taken; else return what was taken, None where nothing was."""
    ledger = Ledger(settings.require_database_url(), TargetNames.of(settings))
    with ledger.connect() as connection:
        taken = taken_baseline(connection)
        if taken is not None and not again:
            return taken
        if from_target:
            return take_from_target(connection, ledger, again=again)
        if file is not None:
            return take_counts(connection, read_counts(file), f"file {file.name}", again=again)
        return taken


def said(taken: Baseline | None) -> str:
    """Say it in a sentence."""
    if taken is None:
        return "no baseline was taken: --from-target takes it from TARGET_TABLE, --csv FILE from a file"
    what = f"{taken.views} views of {taken.vods} VODs from {taken.source}"
    if taken.new:
        return f"baseline: {what}"
    return f"the baseline was taken at {taken.taken_at:%Y-%m-%d %H:%M:%S %Z}: {what}; nothing was changed"
