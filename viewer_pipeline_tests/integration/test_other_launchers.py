"""The command by which other run launchers (Docker, Kubernetes, Celery) execute a run, in a container of their own."""

from __future__ import annotations

import subprocess
import sys

import dagster as dg
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import serialize_value

from viewer_pipeline.definitions import defs
from viewer_pipeline.orchestration.flush_job import flush_views
from viewer_pipeline.orchestration.flush_ops import FlushMode, flush_run_config
from viewer_pipeline.settings import Settings
from viewer_pipeline_tests.support.dagster_world import DagsterWorld
from viewer_pipeline_tests.support.world import World


def test_a_run_of_another_launcher(dagster: DagsterWorld, dagster_settings: Settings, world: World) -> None:
    """A process without code server and fork server executes it; its views are persisted."""
    world.send_many(10)
    instance = dagster.instance
    pointer = ModuleCodePointer("viewer_pipeline.definitions", "defs", None)
    origin = ReconstructableRepository(pointer).get_reconstructable_job(flush_views.name).get_python_origin()
    run = instance.create_run_for_job(
        defs.resolve_job_def(flush_views.name), run_config=flush_run_config(FlushMode.sweep), job_code_origin=origin
    )
    arguments = ExecuteRunArgs(origin, run.run_id, instance.get_ref(), set_exit_code_on_failure=True)
    completed = subprocess.run(
        [sys.executable, "-m", "dagster", "api", "execute_run", serialize_value(arguments)],
        env=dagster_settings.child_process_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr
    ended = instance.get_run_by_id(run.run_id)
    assert ended is not None
    assert ended.status is dg.DagsterRunStatus.SUCCESS
    world.assert_all_persisted()
