"""A Dagster instance on PostgreSQL, with records as its daemon writes them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import dagster as dg
from dagster._core.remote_origin import (
    GrpcServerCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    InstigatorType,
    ScheduleInstigatorData,
    SensorInstigatorData,
    TickData,
    TickStatus,
)
from dagster._daemon.types import DaemonHeartbeat
from dagster_shared.error import SerializableErrorInfo

from viewer_pipeline.definitions import defs
from viewer_pipeline.orchestration.flush_job import flush_views
from viewer_pipeline.orchestration.flush_sensor import view_count_updates_sensor
from viewer_pipeline.orchestration.sweep_and_rollup_schedules import sweep_schedule


def error_of(message: str, cause: SerializableErrorInfo | None = None) -> SerializableErrorInfo:
    """Return an error as Dagster stores it."""
    return SerializableErrorInfo(message, ["  File nowhere\n"], "Error", cause)


@dataclass
class DagsterWorld:
    """Writes records through Dagster's API as the daemon and the UI do."""

    instance: dg.DagsterInstance

    def beat(self, daemon: str, ago: float = 0, error: str = "") -> None:
        """Write a heartbeat."""
        errors = [error_of(error)] if error else None
        self.instance.add_daemon_heartbeat(DaemonHeartbeat(time.time() - ago, daemon, "test", errors))

    def beat_all(self, ago: float = 0) -> None:
        """Write a heartbeat of every daemon that this instance requires."""
        for daemon in self.instance.get_required_daemon_types():
            self.beat(daemon, ago)

    def register(self, *, sensor: bool = True, sweep: bool = True) -> None:
        """Register sensor and schedule, as running or (False) as stopped in the UI."""
        for name, running in ((view_count_updates_sensor.name, sensor), (sweep_schedule.name, sweep)):
            status = InstigatorStatus.DECLARED_IN_CODE if running else InstigatorStatus.STOPPED
            kind = InstigatorType.SENSOR if name == view_count_updates_sensor.name else InstigatorType.SCHEDULE
            data = SensorInstigatorData() if kind is InstigatorType.SENSOR else ScheduleInstigatorData("* * * * *")
            state = InstigatorState(origin(name), kind, status, data)
            known = self.instance.get_instigator_state(state.instigator_origin_id, state.selector_id)
            (self.instance.update_instigator_state if known else self.instance.add_instigator_state)(state)

    def tick(self, name: str, ago: float = 0, *, skip: str = "", error: SerializableErrorInfo | None = None) -> None:
        """Write a tick: skipped for a reason, failed with an error, or with a run launched."""
        kind = InstigatorType.SENSOR if name == view_count_updates_sensor.name else InstigatorType.SCHEDULE
        status = TickStatus.FAILURE if error else TickStatus.SKIPPED if skip else TickStatus.SUCCESS
        self.instance.create_tick(
            TickData(
                origin(name).get_id(),
                name,
                kind,
                status,
                time.time() - ago,
                skip_reason=skip or None,
                error=error,
                selector_id=selector_id(name),
            )
        )

    def queue_run(self) -> str:
        """Write a flush run that was requested and has not started."""
        job = defs.resolve_job_def(flush_views.name)
        queued_by = RemoteJobOrigin(origin(job.name).repository_origin, job.name)
        run = self.instance.create_run_for_job(job_def=job, tags=job.tags, remote_job_origin=queued_by)
        event = dg.DagsterEvent(dg.DagsterEventType.RUN_ENQUEUED.value, flush_views.name)
        self.instance.report_dagster_event(event, run.run_id)
        return run.run_id

    def run(self, status: dg.DagsterRunStatus) -> str:
        """Write a flush run with this status, without running it."""
        job = defs.resolve_job_def(flush_views.name)
        run = self.instance.create_run_for_job(job_def=job, status=dg.DagsterRunStatus.STARTED, tags=job.tags)
        if status is dg.DagsterRunStatus.FAILURE:
            self.instance.report_run_failed(run, "its process ended")
        else:
            event = dg.DagsterEvent(dg.DagsterEventType.RUN_SUCCESS.value, flush_views.name)
            self.instance.report_dagster_event(event, run.run_id)
        return run.run_id


def by_hand(
    instance: dg.DagsterInstance, asset: str = "view_counts", tags: Mapping[str, str] | None = None, *, ok: bool = True
) -> dg.ExecuteInProcessResult:
    """Materialize an asset in this process as the UI does: by a run of Dagster's own job of all assets."""
    return defs.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=instance, asset_selection=[dg.AssetKey(asset)], tags=dict(tags or {}), raise_on_error=ok
    )


def origin(name: str) -> RemoteInstigatorOrigin:
    """Return the origin of a sensor or schedule: the code server of `up`."""
    location = GrpcServerCodeLocationOrigin(host="127.0.0.1", port=1, location_name="viewer_pipeline")
    return RemoteInstigatorOrigin(RemoteRepositoryOrigin(location, "__repository__"), name)


def selector_id(name: str) -> str:
    """Return the id under which Dagster files its ticks."""
    return origin(name).get_selector().get_id()
