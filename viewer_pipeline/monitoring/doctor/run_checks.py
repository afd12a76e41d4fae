"""All checks of the doctor: those of /health with longer time limits, and slow ones of its own."""

from __future__ import annotations

from functools import partial

from viewer_pipeline.checks import CheckResult
from viewer_pipeline.monitoring.check_runner import CheckRunner, ProbedChecks
from viewer_pipeline.monitoring.doctor.check_rationales import CHECK_RATIONALES
from viewer_pipeline.monitoring.doctor.clock_skew import check_clocks
from viewer_pipeline.monitoring.doctor.clone_detectability import check_clone_detection
from viewer_pipeline.monitoring.doctor.grpc_proxy import evaluate_grpc_proxy
from viewer_pipeline.monitoring.doctor.postgres_checks import check_dagster_storage, check_postgres_server
from viewer_pipeline.monitoring.doctor.pubsub_mode_of_producers import check_producers
from viewer_pipeline.monitoring.doctor.redis_checks import check_redis_server
from viewer_pipeline.monitoring.doctor.settings_contradictions import evaluate_settings
from viewer_pipeline.monitoring.doctor.sweep_cost_and_bad_counters import check_keyspace
from viewer_pipeline.monitoring.doctor.target_checks import check_target
from viewer_pipeline.monitoring.doctor.timeline import check_timeline
from viewer_pipeline.monitoring.probes import HealthProbes
from viewer_pipeline.settings import Settings, read_grpc_proxy_variables, unknown_variables

CHECK_SECONDS = 15.0  # time limit of a check
COMMAND_SECONDS = 3.0  # time limit of a Redis command


def run_doctor_checks(
    settings: Settings, watch_producers_seconds: float = 0.0, check_seconds: float = CHECK_SECONDS
) -> list[CheckResult]:
    """Run all checks side by side and return their results in the order of the report. Changes nothing.

    Watches the producers for `watch_producers_seconds`, if it is not 0. Returns within the sum of both times,
    even if a server hangs.
    """
    probes = HealthProbes(settings, COMMAND_SECONDS)
    checks = CheckRunner(
        [*probes.health_checks(check_seconds), *_slow_checks(probes, watch_producers_seconds, check_seconds)],
        probes.relate,
    )
    results = [evaluate_settings(settings, unknown_variables()), *checks.run_in_parallel()]
    sensor_ticks = any(result.name == "sensor" and result.status == "healthy" for result in results)
    results.append(evaluate_grpc_proxy(read_grpc_proxy_variables(), sensor_ticks=sensor_ticks))
    order = list(CHECK_RATIONALES)
    return sorted(results, key=lambda result: order.index(result.name))


def _slow_checks(probes: HealthProbes, watch_producers_seconds: float, check_seconds: float) -> list[ProbedChecks]:
    settings, store, ledger = probes.settings, probes.store, probes.ledger
    check = partial(ProbedChecks, seconds=check_seconds)
    postgres_names = ("version", "latency", "encoding", "durability", "privileges")
    redis_names = ("version", "commands", "latency", "cluster", "persistence", "durability")
    watch = partial(check_producers, settings, store, watch_producers_seconds)
    return [
        check(
            tuple(f"postgres_{name}" for name in postgres_names),
            lambda: check_postgres_server(ledger),
            needs=("postgres",),
        ),
        check(tuple(f"redis_{name}" for name in redis_names), lambda: check_redis_server(probes), needs=("redis",)),
        check(
            ("dagster_storage",),
            lambda: check_dagster_storage(settings),
            needs=("postgres",) if settings.dagster_database_url is None else (),
        ),
        check(("clock",), lambda: [check_clocks(settings, store, ledger)], needs=("postgres", "redis")),
        check(("target", "target_room", "parked"), lambda: check_target(ledger), needs=("postgres",)),
        check(("clone_detection",), lambda: check_clone_detection(store, ledger), needs=("postgres", "redis")),
        check(("timeline",), lambda: check_timeline(ledger), needs=("postgres",)),
        check(("keyspace", "expiring_counters", "counter_values"), lambda: check_keyspace(store), needs=("redis",)),
        ProbedChecks(("pubsub_mode",), watch, check_seconds + watch_producers_seconds, ("redis",)),
    ]
