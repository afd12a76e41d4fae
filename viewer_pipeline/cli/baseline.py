"""The command `baseline`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from viewer_pipeline.cli.command_settings import load_settings_with_running_servers
from viewer_pipeline.cli.output import echo_result, json_option
from viewer_pipeline.settings import Settings
from viewer_pipeline.text_formatting import views_of_vods

if TYPE_CHECKING:
    from viewer_pipeline.history.baseline import Baseline


@click.command()
@click.option("--from-target", is_flag=True, help="From TARGET_TABLE: its counts, less what was counted into it.")
@click.option(
    "--csv",
    "file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="From a file: vod_id,count with a header.",
)
@click.option("--again", is_flag=True, help="Replace a baseline that was taken before.")
@json_option
def baseline(from_target: bool, file: Path | None, again: bool, as_json: bool) -> None:
    """Take the counts that exist today as the baseline, once.

    Without a source, show the one that was taken. Flushes may run meanwhile.
    """
    if from_target and file is not None:
        raise click.UsageError("--from-target and --csv are two sources: choose one")
    if again and not (from_target or file):
        raise click.UsageError("--again needs --from-target or --csv")
    result = _take_baseline(load_settings_with_running_servers(), file, from_target=from_target, again=again)
    echo_result(result._asdict() if result else {}, _describe_baseline(result), as_json=as_json)


def _take_baseline(settings: Settings, file: Path | None, *, from_target: bool, again: bool) -> Baseline | None:
    """Take it from the named source; without one return the present baseline, None where there is none."""
    from viewer_pipeline.flush.ledger import Ledger
    from viewer_pipeline.history.baseline import read_baseline, take_baseline_from_counts, take_baseline_from_target
    from viewer_pipeline.history.baseline_csv import read_baseline_csv

    ledger = Ledger.of(settings)
    with ledger.connect() as connection:
        present = read_baseline(connection)
        if present is not None and not again:
            return present
        if from_target:
            return take_baseline_from_target(connection, ledger, again=again)
        if file is not None:
            return take_baseline_from_counts(connection, read_baseline_csv(file), f"file {file.name}", again=again)
        return present


def _describe_baseline(baseline: Baseline | None) -> str:
    if baseline is None:
        return "no baseline was taken: --from-target takes it from TARGET_TABLE, --csv FILE from a file"
    text = f"{views_of_vods(baseline.views, baseline.vods)} from {baseline.source}"
    if baseline.new:
        return f"baseline: {text}"
    return f"the baseline was taken at {baseline.taken_at:%Y-%m-%d %H:%M:%S %Z}: {text}; nothing was changed"
