"""The asset, its checks, sensor and schedule, in process on real servers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dagster as dg
import psycopg
import pytest
import redis
from dagster._core.storage.tags import GRPC_INFO_TAG

from viewer_pipeline.checks import CheckResult
from viewer_pipeline.definitions import defs
from viewer_pipeline.flush import ledger, transaction
from viewer_pipeline.flush.run_metrics import RunMetric, buckets_of, read_run_metrics
from viewer_pipeline.flush.run_report import RunReport
from viewer_pipeline.flush.settle import Settler
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.flush.sweep_need import evaluate_sweep_need
from viewer_pipeline.flush.verify import CHECKS, verify
from viewer_pipeline.orchestration.dagster_home import DAGSTER_YAML
from viewer_pipeline.orchestration.dagster_instance import (
    count_flush_runs,
    mark_launched_runs_failed,
    open_instance,
)
from viewer_pipeline.orchestration.daily_views_asset import CHECKS as DAILY_CHECKS
from viewer_pipeline.orchestration.flush_job import LAUNCHED, flush_views
from viewer_pipeline.orchestration.flush_ops import FlushMode, flush_run_config
from viewer_pipeline.orchestration.flush_sensor import EARLY_SECONDS, view_count_updates_sensor
from viewer_pipeline.orchestration.settings_resource import LOADED
from viewer_pipeline.orchestration.sweep_and_rollup_schedules import sweep_schedule
from viewer_pipeline.reconcile import reconciliation as reconcile_compare
from viewer_pipeline.settings import LAUNCH_SECONDS, Settings
from viewer_pipeline_tests.support.dagster_world import DagsterWorld
from viewer_pipeline_tests.support.world import PREFIX, World

NOWHERE = "redis://127.0.0.1:1/0"
NO_DATABASE = "postgresql://nobody@127.0.0.1:1/nothing"


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """A Dagster history of its own."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def kept_instance(dagster: DagsterWorld) -> dg.DagsterInstance:
    """The same on PostgreSQL: a schedule opens its history by reference."""
    return dagster.instance


class Runner:
    """Runs the flush job in this process."""

    def __init__(self, instance: dg.DagsterInstance, settings: Settings) -> None:
        self.instance = instance
        self.settings = settings

    def run(self, config: dict[str, Any] | None = None) -> dg.ExecuteInProcessResult:
        """Run it; failures are in the result."""
        job = defs.resolve_job_def(flush_views.name)
        return job.execute_in_process(
            run_config=config, instance=self.instance, resources={"settings": self.settings}, raise_on_error=False
        )


@pytest.fixture
def runner(instance: dg.DagsterInstance, redis_url: str, database_url: str) -> Runner:
    """The flush job on the servers of this test."""
    return Runner(instance, Settings(redis_url=redis_url, database_url=database_url))


def metadata_of(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    """Metadata of the one materialization."""
    (event,) = result.get_asset_materialization_events()
    return {name: value.value for name, value in event.materialization.metadata.items()}


def checks(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    """Name and outcome of each check."""
    return {check.check_name: check.passed for check in result.get_asset_check_evaluations()}


def test_definitions_load() -> None:
    """All of them, by name: what a person sees in the UI."""
    dg.Definitions.validate_loadable(defs)
    keys = {spec.key.to_user_string() for spec in defs.resolve_all_asset_specs()}
    assert keys == {"redis_counters", "view_counts", "daily_views", "reconciliation"}
    graph = defs.resolve_asset_graph()
    assert {key.name for key in graph.asset_check_keys} == {*CHECKS, *DAILY_CHECKS, *reconcile_compare.CHECKS}
    assert graph.get(dg.AssetKey("daily_views")).parent_keys == {dg.AssetKey("view_counts")}
    assert graph.get(dg.AssetKey("view_counts")).parent_keys == {dg.AssetKey("redis_counters")}
    job = defs.resolve_job_def("flush_views")
    graph_of_the_asset: Any = job.graph.node_named("view_counts").definition
    steps = {node.name for node in graph_of_the_asset.nodes}
    assert steps == {"drain_counters", "aggregate_counts", "bulk_upsert", "verify_consistency"}
    assert job.executor_def is dg.in_process_executor
    assert job.tags["viewer/job"] == "flush"
    sensor = defs.resolve_sensor_def("view_count_updates_sensor")
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
    assert sensor.minimum_interval_seconds == LOADED.sensor_interval_seconds - EARLY_SECONDS
    assert defs.resolve_schedule_def("sweep_schedule").default_status is dg.DefaultScheduleStatus.RUNNING


def test_the_asset_persists_and_reports(runner: Runner, world: World) -> None:
    """Numbers that the UI plots, a table of the top VODs, and four checks that pass."""
    world.send("a", 5, announce=True)
    world.send("b", 7)
    world.client.set(PREFIX + "bad", "abc")
    result = runner.run()
    assert result.success
    metadata = metadata_of(result)
    stats = {"mode": "sweep", "counters": 2, "views": 12, "flushes": 1, "batches": 1, "rejected": 1, "drift": 0}
    assert stats.items() <= metadata["details"].items()
    numbers = {"added_views": 12, "counters": 2, "pending_vods": 0, "total_views": 12, "total_vods": 2}
    assert numbers.items() <= metadata.items()
    assert metadata["lag_seconds"] > 0
    for step in ("drain", "aggregate", "upsert", "settle", "verify"):
        assert metadata[f"seconds_{step}"] == metadata["details"][f"{step}_seconds"] >= 0
    assert [record.data for record in metadata["top_vods"].records] == [
        {"vod_id": "b", "views": 7, "total": 7},
        {"vod_id": "a", "views": 5, "total": 5},
    ]
    assert checks(result) == dict.fromkeys(CHECKS, True)
    assert world.totals() == {"a": 5, "b": 7}


def test_run_config_selects_counters(runner: Runner, world: World) -> None:
    """`changed`, and single VODs."""
    world.send("a", 5, announce=True)
    world.send("b", 7)
    world.send("c", 9)
    assert metadata_of(runner.run(flush_run_config(FlushMode.changed)))["added_views"] == 5
    assert metadata_of(runner.run(flush_run_config(FlushMode.sweep, ("c",))))["added_views"] == 9
    assert world.counters() == {"b": 7}


def test_invalid_run_config_is_refused(runner: Runner) -> None:
    """A mode that does not exist never becomes a run."""
    with pytest.raises(dg.DagsterInvalidConfigError, match="sometimes"):
        runner.run({"ops": {"view_counts": {"config": {"mode": "sometimes"}}}})


def test_an_empty_run_passes_its_checks(runner: Runner) -> None:
    """Having nothing to flush is no failure."""
    result = runner.run()
    assert metadata_of(result)["counters"] == 0
    assert checks(result) == dict.fromkeys(CHECKS, True)


def test_check_ledger_equals_frame_can_fail(runner: Runner, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that was written otherwise than meant is named."""
    world.send("a", 5)
    _tamper(monkeypatch, lambda _: world.execute("UPDATE viewer.flush_batch SET deltas = '{6}'"))
    result = runner.run()
    assert result.success
    assert checks(result) == dict.fromkeys(CHECKS, True) | {"ledger_equals_frame": False}
    (failed,) = [check for check in result.get_asset_check_evaluations() if not check.passed]
    assert failed.metadata["failing_rows"].value == ["flush 1 batch 1", "flush 1 batch 1"]


def test_check_totals_carry_the_flush_can_fail(runner: Runner, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A total that lacks the flush is named."""
    world.send("a", 5)
    _tamper(monkeypatch, lambda _: world.execute("UPDATE viewer.vod_view_counts SET last_flush = 0"))
    assert checks(runner.run()) == dict.fromkeys(CHECKS, True) | {"totals_carry_the_flush": False}


def test_check_redis_is_settled_can_fail(runner: Runner, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flush that was not settled shows."""
    world.send("a", 5)
    monkeypatch.setattr(Settler, "add", lambda *_: None)
    assert checks(runner.run()) == dict.fromkeys(CHECKS, True) | {"redis_is_settled": False}


def test_check_no_drift_can_fail(runner: Runner, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A counter that somebody lowered between read and settle shows, with its name."""
    world.send("a", 5)
    commit = ledger.Ledger.commit

    def lower_and_commit(*arguments: Any) -> Any:
        world.client.decrby(PREFIX + "a", 2)
        return commit(*arguments)

    monkeypatch.setattr(ledger.Ledger, "commit", lower_and_commit)
    result = runner.run()
    assert checks(result) == dict.fromkeys(CHECKS, True) | {"no_drift": False}
    assert metadata_of(result)["details"]["drift"] == 2
    (failed,) = [check for check in result.get_asset_check_evaluations() if not check.passed]
    assert failed.metadata["failing_rows"].value == ["a"]


def _tamper(monkeypatch: pytest.MonkeyPatch, tamper: Any) -> None:
    def tamper_and_verify(stores: Stores, persisted: RunReport) -> list[CheckResult]:
        tamper(stores)
        return verify(stores, persisted)

    monkeypatch.setattr("viewer_pipeline.flush.each_stream.verify", tamper_and_verify)


def test_transient_errors_are_retried(runner: Runner, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A deadlock in the transaction: the step is repeated, the views are counted once."""
    world.send("a", 5)
    transact, fails = transaction.commit_flush, iter([True])

    def fail_at_first(*arguments: Any) -> Any:
        if next(fails, False):
            raise psycopg.errors.DeadlockDetected("deadlock detected")
        return transact(*arguments)

    monkeypatch.setattr(transaction, "commit_flush", fail_at_first)
    result = runner.run()
    assert result.success
    assert len([event for event in result.all_events if event.is_step_up_for_retry]) == 1
    world.assert_all_persisted()


def test_a_connection_that_refuses_writes_is_not_used_again(
    runner: Runner, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server set it read-only: the step is repeated on a new one, the views are counted once."""
    world.send("a", 5)
    transact, refused = transaction.commit_flush, iter([True])

    def refuse_at_first(connection: psycopg.Connection, *arguments: Any) -> Any:
        if next(refused, False):
            connection.execute("SET default_transaction_read_only = on")
        return transact(connection, *arguments)

    monkeypatch.setattr(transaction, "commit_flush", refuse_at_first)
    result = runner.run()
    assert result.success
    assert len([event for event in result.all_events if event.is_step_up_for_retry]) == 1
    world.assert_all_persisted()


def fail_between_flushes(runner: Runner, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prepare ten counters, and a deadlock in the second transaction of the three that they need."""
    runner.settings = runner.settings.copy_unvalidated(flush_max_counters=4, batch_size=2)
    world.send_many(10)
    transact, fails = transaction.commit_flush, iter([False, True])

    def fail_at_second(*arguments: Any) -> Any:
        if next(fails, False):
            raise psycopg.errors.DeadlockDetected("deadlock detected")
        return transact(*arguments)

    monkeypatch.setattr(transaction, "commit_flush", fail_at_second)


def check_message(result: dg.ExecuteInProcessResult, name: str) -> str:
    """Return the message of a check."""
    (check,) = [check for check in result.get_asset_check_evaluations() if check.check_name == name]
    return check.description or ""


def test_a_retried_step_reports_what_its_first_attempt_committed(
    runner: Runner, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The metadata of the run is that of its flushes in the ledger, and the checks cover all of them."""
    fail_between_flushes(runner, world, monkeypatch)
    result = runner.run()
    assert len([event for event in result.all_events if event.is_step_up_for_retry]) == 1
    metadata = metadata_of(result)
    expected = {"counters": 10, "views": 30, "flushes": 3, "batches": 5, "last_flush": 3}
    assert expected.items() <= metadata["details"].items()
    assert metadata["notes"] == "nothing out of the ordinary"
    assert len(metadata["top_vods"].records) == 10
    assert checks(result) == dict.fromkeys(CHECKS, True)
    recovered = "flushes [1] were committed by an earlier attempt of the step"
    assert check_message(result, "ledger_equals_frame") == f"5 batches, 10 counters, 30 views; {recovered}"
    world.assert_all_persisted()


@pytest.mark.parametrize(("flush", "failing_rows"), [(1, ["flush 1"]), (2, ["flush 2 batch 1", "flush 2 batch 1"])])
def test_checks_of_a_retried_step_can_fail(
    runner: Runner, world: World, monkeypatch: pytest.MonkeyPatch, flush: int, failing_rows: list[str]
) -> None:
    """For flushes that were found in the ledger, and for those that the last attempt committed."""
    fail_between_flushes(runner, world, monkeypatch)
    tamper = f"UPDATE viewer.flush_batch SET deltas = '{{3,4}}' WHERE seq = {flush} AND batch = 1"
    _tamper(monkeypatch, lambda _: world.execute(tamper))
    result = runner.run()
    assert checks(result) == dict.fromkeys(CHECKS, True) | {"ledger_equals_frame": False}
    (failed,) = [check for check in result.get_asset_check_evaluations() if not check.passed]
    assert failed.metadata["failing_rows"].value == failing_rows


def test_permanent_errors_are_not_retried(runner: Runner, world: World) -> None:
    """A missing schema: one failure that names the command to run."""
    world.send("a", 5)
    world.execute("DROP SCHEMA viewer CASCADE")
    result = runner.run()
    assert not result.success
    assert not [event for event in result.all_events if event.is_step_up_for_retry]
    (failure,) = result.filter_events(lambda event: event.is_step_failure)
    data: Any = failure.step_failure_data
    assert "run `viewer-pipeline migrate`" in data.user_failure_data.description
    assert world.counters() == {"a": 5}


def recorded(world: World) -> dict[tuple[str, str], RunMetric]:
    """Return the sums for metrics by mode and outcome."""
    with world.stores.ledger.connect() as connection:
        return {(metrics.mode, metrics.outcome): metrics for metrics in read_run_metrics(connection)}


def test_run_metrics_count_a_successful_run(runner: Runner, world: World) -> None:
    """With each flush in a bucket, and the time it took; an idle run is not."""
    runner.run()
    assert recorded(world) == {}
    world.send("a", 5)
    metadata = metadata_of(runner.run())
    ((key, metrics),) = recorded(world).items()
    assert (key, metrics.count, sum(metrics.buckets), metrics.drift) == (("sweep", "committed"), 1, 1, 0)
    assert metrics.seconds == pytest.approx(metadata["seconds_upsert"] + metadata["seconds_settle"], abs=0.002)
    assert metrics.buckets == buckets_of([metrics.seconds])


def test_run_metrics_count_a_retried_run_once(runner: Runner, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """All its flushes with their times; an attempt that is retried is no failure, nor was another run first."""
    fail_between_flushes(runner, world, monkeypatch)
    runner.run()
    ((key, metrics),) = recorded(world).items()
    assert (key, metrics.count) == (("sweep", "committed"), 3)
    assert sum(metrics.buckets) == 3
    assert metrics.seconds > 0


def test_run_metrics_count_drift_and_superseded_runs(
    runner: Runner, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Views that counters should have held, and how often another run committed first."""
    world.send("a", 5, announce=True)
    commit, first = ledger.Ledger.commit, iter([True])

    def interfere(*arguments: Any) -> Any:
        if next(first, False):
            world.flush()
            world.send("a", 5, announce=True)
            return commit(*arguments)
        world.client.decrby(PREFIX + "a", 2)
        return commit(*arguments)

    monkeypatch.setattr(ledger.Ledger, "commit", interfere)
    runner.run(flush_run_config(FlushMode.changed))
    metrics = recorded(world)
    assert metrics["changed", "superseded"].count == 1
    assert (metrics["changed", "committed"].count, metrics["changed", "committed"].drift) == (1, 2)


@pytest.mark.parametrize(("vod_ids", "mode"), [((), "changed"), (("a",), "ids"), (None, "sweep")])
def test_run_metrics_count_a_failed_run(
    runner: Runner, world: World, monkeypatch: pytest.MonkeyPatch, vod_ids: tuple[str, ...] | None, mode: str
) -> None:
    """Once, under its mode, whatever the error."""
    world.send("a", 5, announce=True)

    def fail(*_: Any) -> Any:
        raise dg.Failure("not to be retried", allow_retries=False)

    monkeypatch.setattr(ledger.Ledger, "commit", fail)
    config = None if vod_ids is None else flush_run_config(FlushMode.changed, vod_ids)
    assert not runner.run(config).success
    assert {key: metrics.count for key, metrics in recorded(world).items()} == {(mode, "failed"): 1}


def test_run_metrics_not_written_fail_no_run(runner: Runner, world: World, caplog: pytest.LogCaptureFixture) -> None:
    """One log line reports that."""
    world.send("a", 5)
    world.execute("DROP TABLE viewer.run_metrics")
    with caplog.at_level("WARNING", "viewer_pipeline"):
        result = runner.run()
    assert checks(result) == dict.fromkeys(CHECKS, True)
    assert "run_metrics_not_recorded mode=sweep reason=" in caplog.text
    world.assert_all_persisted()


def tick(instance: dg.DagsterInstance, redis_url: str) -> dg.RunRequest | dg.SkipReason:
    """Evaluate the sensor once, without its scan of the keys."""
    settings = Settings(redis_url=redis_url, database_url=NO_DATABASE, sensor_scan_max_keys=0)
    with dg.build_sensor_context(instance=instance, resources={"settings": settings}) as context:
        result = view_count_updates_sensor(context)
    assert isinstance(result, dg.RunRequest | dg.SkipReason)
    return result


def test_sensor_skips_without_announced_vods(instance: dg.DagsterInstance, redis_url: str) -> None:
    """With the reason."""
    assert tick(instance, redis_url) == dg.SkipReason("no VOD was announced since the last flush")


def test_sensor_requests_a_flush_of_announced_vods(
    instance: dg.DagsterInstance, redis_url: str, client: redis.Redis
) -> None:
    """The request has mode and trigger."""
    client.zadd("viewer:changed", {"a": 1, "b": 2})
    request = tick(instance, redis_url)
    assert isinstance(request, dg.RunRequest)
    assert request.run_config == flush_run_config(FlushMode.changed)
    assert request.tags["viewer/trigger"].startswith("sensor: 2 VODs announced, the oldest ")
    assert request.run_key is None


def test_sensor_requests_a_sweep_for_the_worker(instance: dg.DagsterInstance, redis_url: str, world: World) -> None:
    """A subscriber that may have missed messages requests a sweep."""
    world.stores.redis.request_sweep("subscribed")
    request = tick(instance, redis_url)
    assert isinstance(request, dg.RunRequest)
    assert request.run_config == flush_run_config(FlushMode.sweep)
    assert request.tags["viewer/trigger"] == "sensor: sweep requested: subscribed"


@pytest.mark.parametrize("status", LAUNCHED)
def test_sensor_and_schedule_skip_while_a_flush_is_active(
    kept_instance: dg.DagsterInstance, world: World, monkeypatch: pytest.MonkeyPatch, status: dg.DagsterRunStatus
) -> None:
    """Starting, running or stopping: they skip and name it. (A queued run cannot be made without a code server.)"""
    redis_url, database_url = world.stores.redis.url, world.stores.ledger.url
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("DATABASE_URL", database_url)
    world.send("a", 1, announce=True)
    job = defs.resolve_job_def(flush_views.name)
    run = kept_instance.create_run_for_job(job_def=job, status=status)
    word = status.value.lower().replace("_", " ")
    expected = dg.SkipReason(f"flush run {run.run_id[:8]} is {word}")
    assert tick(kept_instance, redis_url) == expected
    assert evaluate_sweep_schedule(kept_instance, redis_url, database_url) == expected


def test_orphans_of_a_killed_stack_do_not_block_the_next(
    kept_instance: dg.DagsterInstance, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run whose process is gone with its stack is marked as failed, and the sensor launches again."""
    monkeypatch.setenv("REDIS_URL", world.stores.redis.url)
    monkeypatch.setenv("DATABASE_URL", world.stores.ledger.url)
    world.send("a", 1, announce=True)
    job = defs.resolve_job_def(flush_views.name)
    run = kept_instance.create_run_for_job(job_def=job, status=dg.DagsterRunStatus.STARTED)
    assert isinstance(tick(kept_instance, world.stores.redis.url), dg.SkipReason)
    assert mark_launched_runs_failed(kept_instance) == [run.run_id]
    after = kept_instance.get_run_by_id(run.run_id)
    assert after is not None
    assert after.status is dg.DagsterRunStatus.FAILURE
    assert isinstance(tick(kept_instance, world.stores.redis.url), dg.RunRequest)


def test_runs_that_ended_with_their_code_server(
    kept_instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that it ran, not one of `viewer-pipeline flush`, whose process lives on."""
    monkeypatch.setenv("REDIS_URL", NOWHERE)
    monkeypatch.setenv("DATABASE_URL", NO_DATABASE)
    job = defs.resolve_job_def(flush_views.name)
    started = dg.DagsterRunStatus.STARTED
    launched = kept_instance.create_run_for_job(job_def=job, status=started, tags={GRPC_INFO_TAG: "{}"})
    by_hand = kept_instance.create_run_for_job(job_def=job, status=started)
    assert mark_launched_runs_failed(kept_instance, of_code_server_only=True) == [launched.run_id]
    after = kept_instance.get_run_by_id(by_hand.run_id)
    assert after is not None
    assert after.status is started


def test_sensor_with_redis_down_fails_with_one_clear_line(instance: dg.DagsterInstance) -> None:
    """The tick's error names the server."""
    with pytest.raises(Exception, match=r"Redis does not answer: redis://127\.0\.0\.1:1/0"):
        tick(instance, NOWHERE)


def evaluate_sweep_schedule(
    instance: dg.DagsterInstance, redis_url: str, database_url: str
) -> dg.RunRequest | dg.SkipReason:
    """Evaluate the schedule once."""
    resources = {"settings": Settings(redis_url=redis_url, database_url=database_url)}
    with dg.build_schedule_context(instance=instance, resources=resources) as context:
        result = sweep_schedule(context)
    assert isinstance(result, dg.RunRequest | dg.SkipReason)
    return result


def test_schedule_skips_where_no_counter_holds_views(
    kept_instance: dg.DagsterInstance, world: World, redis_url: str, database_url: str
) -> None:
    """Other keys, zero counters and rejects that are recorded make no run."""
    nothing = dg.SkipReason("no key vod:views:* holds views: nothing to flush")
    assert evaluate_sweep_schedule(kept_instance, redis_url, database_url) == nothing
    world.client.set("other", 5)
    world.client.set(PREFIX + "zero", 0)
    assert evaluate_sweep_schedule(kept_instance, redis_url, database_url) == nothing
    world.client.set(PREFIX + "bad", "abc")
    request = evaluate_sweep_schedule(kept_instance, redis_url, database_url)
    assert isinstance(request, dg.RunRequest)
    assert request.tags["viewer/trigger"] == ("schedule: found counters to reject, e.g. 'bad': value is not an integer")
    world.flush()
    beside = dg.SkipReason("no key vod:views:* holds views, beside 1 rejected one: nothing to flush")
    assert evaluate_sweep_schedule(kept_instance, redis_url, database_url) == beside


def test_schedule_sweeps_counters_nobody_announced(
    kept_instance: dg.DagsterInstance, world: World, redis_url: str, database_url: str
) -> None:
    """A counter that was raised by INCR alone."""
    world.send("silent", 3)
    request = evaluate_sweep_schedule(kept_instance, redis_url, database_url)
    assert isinstance(request, dg.RunRequest)
    assert request.run_config == flush_run_config(FlushMode.sweep)
    assert request.tags["viewer/trigger"] == "schedule: found counters to flush, e.g. 'silent'"
    again = evaluate_sweep_schedule(kept_instance, redis_url, database_url)
    assert isinstance(again, dg.RunRequest)
    assert again.run_key != request.run_key, "else Dagster launches no run where a time comes a second time"


def test_sweep_precheck_is_bounded(world: World) -> None:
    """Among too many keys the scan stops, and a sweep is requested."""
    world.client.mset({f"other:{number}": 1 for number in range(5000)})
    pending = evaluate_sweep_need(world.stores, max_scans=2)
    assert pending.is_needed
    assert "no counter among the first 1000 keys" in pending.reason


def test_dagster_yaml_makes_an_instance(database_url: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every line of it is accepted, on PostgreSQL, in the schema `dagster`."""
    settings = Settings(database_url=database_url, redis_url=NOWHERE, dagster_home=tmp_path / "home")
    for name in settings.child_process_environment():
        monkeypatch.setenv(name, settings.child_process_environment()[name])
    with open_instance(settings) as instance:
        assert count_flush_runs(instance) == 0
        assert instance.run_monitoring_enabled
        assert instance.run_monitoring_start_timeout_seconds == LAUNCH_SECONDS
    assert (tmp_path / "home" / "dagster.yaml").read_text() == DAGSTER_YAML.read_text()
    with psycopg.connect(database_url) as connection:
        row = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'dagster'").fetchone()
    assert row is not None
    assert row[0] > 15
