"""A flush run in this process, recorded in Dagster's history."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import dagster as dg

from viewer_pipeline.definitions import defs
from viewer_pipeline.orchestration.jobs import flush_run_config, flush_views
from viewer_pipeline.orchestration.ops import FlushMode


@dataclass(frozen=True)
class FlushRun:
    """A run that has ended: what its materialization and its checks say."""

    run_id: str
    success: bool
    figures: dict[str, Any]
    failed_checks: list[str]


def run_flush(
    instance: dg.DagsterInstance,
    mode: FlushMode,
    vod_ids: tuple[str, ...],
    why: str,
    tags: Mapping[str, str] = MappingProxyType({}),
) -> FlushRun:
    """Run the flush job in this process, recorded in Dagster's history."""
    config = flush_run_config(mode, vod_ids) | {"loggers": {"console": {"config": {"log_level": "ERROR"}}}}
    result = defs.resolve_job_def(flush_views.name).execute_in_process(
        run_config=config, instance=instance, tags={"viewer/why": why, **tags}, raise_on_error=False
    )
    figures: dict[str, Any] = {}
    for event in result.get_asset_materialization_events():
        metadata = event.materialization.metadata
        figures |= {k: v.value for k, v in metadata.items() if isinstance(v.value, int | float | str)}
    failed = [check.check_name for check in result.get_asset_check_evaluations() if not check.passed]
    return FlushRun(result.run_id, result.success, figures, failed)
