"""The lease of a run on a Celery worker: who has it, when it expires, and what a task does that is delivered again."""

from __future__ import annotations

from typing import Any

import dagster as dg
import pytest

from viewer_pipeline.definitions import defs
from viewer_pipeline.orchestration.flush_job import flush_views
from viewer_pipeline.orchestration.flush_ops import FlushMode, flush_run_config
from viewer_pipeline.settings import Settings
from viewer_pipeline_tests.support.dagster_world import DagsterWorld
from viewer_pipeline_tests.support.world import World

pytest.importorskip("dagster_celery", reason="the extra `celery` is not installed")

from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._core.launcher import WorkerStatus
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import pack_value
from dagster_celery.tags import DAGSTER_CELERY_TASK_ID_TAG

from viewer_pipeline.celery_worker.run_execution import execute_run_with_lease
from viewer_pipeline.orchestration.celery.launcher import LeasedCeleryRunLauncher
from viewer_pipeline.orchestration.celery.run_lease import LEASE_SECONDS, RunLease

ORIGIN = ReconstructableRepository(ModuleCodePointer("viewer_pipeline.definitions", "defs", None))
STARTING, STARTED, SUCCESS = dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.SUCCESS
EXPIRE = f"""UPDATE dagster.kvs SET value = (
    value::jsonb || jsonb_build_object('renewed', (value::jsonb ->> 'renewed')::float8 - {LEASE_SECONDS})
)::text WHERE starts_with(key, 'viewer_pipeline/run_lease/')"""


@pytest.fixture
def celery_settings(dagster_settings: Settings) -> Settings:
    """Settings of a daemon and of a worker; no broker is needed for what is tested here."""
    return dagster_settings.copy_unvalidated(celery_broker_url="redis://127.0.0.1:1/0")


def create_run(dagster: DagsterWorld, status: dg.DagsterRunStatus, **tags: str) -> dg.DagsterRun:
    """Return a flush run in the storage."""
    return dagster.instance.create_run_for_job(
        defs.resolve_job_def(flush_views.name),
        run_config=flush_run_config(FlushMode.sweep),
        job_code_origin=ORIGIN.get_reconstructable_job(flush_views.name).get_python_origin(),
        status=status,
        tags=tags,
    )


def deliver(dagster: DagsterWorld, settings: Settings, run: dg.DagsterRun) -> dg.DagsterRun:
    """Execute the task of a run, in this process; return the run afterwards."""
    assert run.job_code_origin is not None
    arguments: Any = pack_value(ExecuteRunArgs(run.job_code_origin, run.run_id, dagster.instance.get_ref()))
    settings.export_to_os_environ()
    execute_run_with_lease(settings, arguments, "the second worker")
    after = dagster.instance.get_run_by_id(run.run_id)
    assert after is not None
    return after


@pytest.mark.usefixtures("dagster")
def test_one_holder(celery_settings: Settings, world: World) -> None:
    """Of two processes one has it; after its release, or without a renewal, the other one may."""
    first, second = RunLease(celery_settings, "r", "first"), RunLease(celery_settings, "r", "second")
    assert [first.claim(), second.claim(), second.renew(), first.renew()] == [True, False, False, True]
    second.release()  # not its own
    holder = second.read_holder()
    assert holder is not None
    assert (holder.name, holder.is_expired, second.end_if_expired()) == ("first", False, False)
    world.execute(EXPIRE)
    assert [second.claim(), first.renew(), first.claim()] == [True, False, False]
    second.release()
    assert second.read_holder() is None
    assert first.claim()


def test_health_of_a_run(dagster: DagsterWorld, celery_settings: Settings, world: World) -> None:
    """Dead without a lease, alive while it is renewed, dead once it has expired; then its holder finds it lost."""
    launcher = LeasedCeleryRunLauncher(celery_settings)
    launcher.register_instance(dagster.instance)
    of_a_command = create_run(dagster, STARTED)
    assert launcher.check_run_worker_health(of_a_command).status is WorkerStatus.RUNNING
    assert launcher.terminate(of_a_command.run_id) is False
    run = create_run(dagster, STARTED, **{DAGSTER_CELERY_TASK_ID_TAG: "task"})
    assert launcher.check_run_worker_health(run).status is WorkerStatus.FAILED
    lease = RunLease(celery_settings, run.run_id, "the first worker")
    lease.claim()
    assert launcher.check_run_worker_health(run).status is WorkerStatus.RUNNING
    world.execute(EXPIRE)
    result = launcher.check_run_worker_health(run)
    assert (result.status, "the first worker" in str(result.msg)) == (WorkerStatus.FAILED, True)
    assert not lease.renew()
    assert launcher.terminate(run.run_id)  # no worker executes it
    canceled = dagster.instance.get_run_by_id(run.run_id)
    assert canceled is not None
    assert canceled.status is dg.DagsterRunStatus.CANCELED


def test_deliveries(dagster: DagsterWorld, celery_settings: Settings, world: World) -> None:
    """The first one executes the run. Others do nothing; they report a run as failed if its process has died."""
    world.send_many(10)
    run = create_run(dagster, STARTING)
    assert deliver(dagster, celery_settings, run).status is SUCCESS
    world.assert_all_persisted()
    world.send_many(10)
    flushes = world.seqs()
    assert deliver(dagster, celery_settings, run).status is SUCCESS
    active = create_run(dagster, STARTING)
    first = RunLease(celery_settings, active.run_id, "the first worker")
    first.claim()
    assert deliver(dagster, celery_settings, active).status is STARTING
    world.execute(EXPIRE)
    died = create_run(dagster, STARTED)
    assert deliver(dagster, celery_settings, died).status is dg.DagsterRunStatus.FAILURE
    canceling = create_run(dagster, dg.DagsterRunStatus.CANCELING)
    assert deliver(dagster, celery_settings, canceling).status is dg.DagsterRunStatus.CANCELED
    assert world.seqs() == flushes
    assert deliver(dagster, celery_settings, active).status is SUCCESS  # its worker died before it began
    world.assert_all_persisted()
    assert world.rows("SELECT count(*) FROM dagster.kvs WHERE key LIKE '%run_lease%'") == [(0,)]
