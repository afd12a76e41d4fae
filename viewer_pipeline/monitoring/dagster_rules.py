"""The rules for Dagster's daemons, sensor, schedule and runs. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from croniter import croniter

from viewer_pipeline.checks import CheckResult, Status
from viewer_pipeline.command_to_type import command_to_type
from viewer_pipeline.monitoring.dagster_tables import (
    DagsterReading,
    FlushRun,
    Heartbeat,
    Instigator,
    Tick,
    WaitingRun,
)
from viewer_pipeline.monitoring.health_rules import CLOCKS, evaluate_future_timestamp
from viewer_pipeline.settings import Settings
from viewer_pipeline.time_formatting import format_age, format_duration, round_age, tolerate_clock_skew

# What our dagster.yaml makes Dagster run; a test compares it with the instance.
DAEMONS = (
    "SENSOR",
    "SCHEDULER",
    "QUEUED_RUN_COORDINATOR",
    "MONITORING",
    "BACKFILL",
    "FRESHNESS_DAEMON",
)
TOLERANCE_SECONDS = 120.0  # heartbeats come every 30 s; Dagster itself waits for half an hour
COORDINATOR, LAUNCHERS = "QUEUED_RUN_COORDINATOR", ("SENSOR", "SCHEDULER")
NEVER_RAN = "Dagster has never run on this database"
MAX_FAILURES = 3  # flush runs in a row; fewer may be transient

START = f"start Dagster's daemon, or `{command_to_type('up')}`"
AUTOMATION = "look under Automation in Dagster's UI, and start it there if it is stopped"
FAILED_TICK = (
    "none if it passes: the next tick tries again; else see the tick under Automation in Dagster's UI, and the log of"
    " the code server, which must run"
)
RESTART = f"{CLOCKS}; then restart Dagster's daemon"
ONE_DAEMON = (
    f"stop all but one; on other machines run `{command_to_type('worker')}`,"
    f" see `{command_to_type('docs several-workers')}`"
)
DAEMON_ERROR = "none if it passes: Dagster reports an error for 5 min; else read the log of the daemon"
RUN = "look at the run in Dagster's UI"
QUEUE = "look under Runs in Dagster's UI; the logs of daemon and code server tell why it does not start"


def daemon_check_name(daemon: str) -> str:
    """Return the name of the check of a daemon."""
    return f"daemon_{daemon.lower()}"


DAGSTER_CHECKS = (*map(daemon_check_name, DAEMONS), "single_daemon", "sensor", "sweep", "flush_runs")


@dataclass(frozen=True)
class DagsterDeadlines:
    """The times, in Unix seconds, that the readings are compared with."""

    now: float
    process_started: float  # when this process started; Dagster may be starting as well
    sensor_due: float  # a sensor that runs has ticked since
    sweep_due: float
    start_due: float  # a run that was requested before has started

    @classmethod
    def of(cls, settings: Settings, now: float, process_started: float) -> DagsterDeadlines:
        """Compute when sensor and schedule must have ticked, with the tolerance of the daemons."""
        late = now - TOLERANCE_SECONDS
        sweep_due = float(croniter(settings.sweep_cron, late).get_prev(float))
        start_due = now - settings.freshness_limit_seconds
        return cls(now, process_started, late - settings.sensor_interval_seconds, sweep_due, start_due)

    @property
    def startup_grace_is_over(self) -> bool:
        """Whether Dagster has had the time to start."""
        return self.now - self.process_started > TOLERANCE_SECONDS


def dead_daemons(heartbeats: Mapping[str, Heartbeat], now: float) -> list[str]:
    """Return those of DAEMONS without a heartbeat in the last TOLERANCE_SECONDS before `now` (Unix time)."""
    return [
        name for name in DAEMONS if not 0 <= _seconds_since_heartbeat(heartbeats.get(name), now) <= TOLERANCE_SECONDS
    ]


def failing_daemons(checks: Mapping[str, CheckResult], daemons: Sequence[str]) -> list[tuple[str, str]]:
    """Return (daemon, message) of those that fail; one without a name if all report the same: they are one process."""
    failing = [(name, check.message) for name in daemons if not (check := checks[daemon_check_name(name)]).passed]
    messages = {message for _, message in failing}
    return [("", messages.pop())] if len(failing) == len(daemons) and len(messages) == 1 else failing


def evaluate_dagster(
    reading: DagsterReading | None, clock: DagsterDeadlines, concurrent_ids: frozenset[str] = frozenset()
) -> list[CheckResult]:
    """Return the results of all DAGSTER_CHECKS. A reading of None: Dagster has never run on this database.

    `concurrent_ids`: of daemon processes that run at the same time.
    """
    known = reading or DagsterReading({}, None, None, [])
    dead = dead_daemons(known.heartbeats, clock.now)
    none_launches = COORDINATOR in dead or all(name in dead for name in LAUNCHERS)
    launch_status: Status = "unhealthy" if none_launches and clock.startup_grace_is_over else "degraded"
    ticks = ((known.sensor, clock.sensor_due), (known.sweep, clock.sweep_due))
    none_fires = not any(item and item.running and not _ticked_but_not_since(item, since) for item, since in ticks)
    no_beat = "no heartbeat was ever recorded" if clock.startup_grace_is_over else "no heartbeat yet"
    no_beat = NEVER_RAN if reading is None else no_beat
    instigators = zip(("sensor", "sweep"), ("the sensor", "the sweep schedule"), ticks, strict=True)
    return [
        *(_evaluate_daemon(known.heartbeats.get(name), name, clock, no_beat, launch_status) for name in DAEMONS),
        evaluate_single_daemon(concurrent_ids),
        *(
            _evaluate_instigator(name, subject, item, since, clock, none_fires=none_fires)
            for name, subject, (item, since) in instigators
        ),
        evaluate_flush_runs(known.runs, known.waiting, clock),
    ]


def evaluate_single_daemon(concurrent_ids: frozenset[str]) -> CheckResult:
    """Whether several daemon processes run. Views stay exact: each flush is, and a second one finds nothing."""
    if not concurrent_ids:
        return CheckResult("single_daemon", "healthy", "no second Dagster daemon was seen")
    ids = ", ".join(sorted(daemon_id[:8] for daemon_id in concurrent_ids))
    message = f"{len(concurrent_ids)} Dagster daemons send heartbeats ({ids}): each of them launches runs"
    return CheckResult("single_daemon", "degraded", message, {"daemon_ids": sorted(concurrent_ids)}, ONE_DAEMON)


def evaluate_flush_runs(runs: list[FlushRun], waiting: WaitingRun | None, clock: DagsterDeadlines) -> CheckResult:
    """Evaluate the last flush runs that have ended, newest first, and the one that waits for its start."""
    if waiting:
        age = round_age(clock.now - waiting.requested)
        measured = {"waiting_run": waiting.run_id, "seconds_since_request": age}
        if future := evaluate_future_timestamp("flush_runs", "the request of a flush run", age, measured):
            return future
        if waiting.requested < clock.start_due:
            message = f"a flush run was requested {format_age(age)} and has not started; it blocks all others"
            return CheckResult("flush_runs", "unhealthy", message, measured, QUEUE)
    if not runs:
        return CheckResult("flush_runs", "healthy", "no flush run has ended yet")
    last = runs[0]
    age = round_age(clock.now - last.ended)
    details: dict[str, object] = {"last_run": last.run_id, "seconds_since_last": age}
    if future := evaluate_future_timestamp("flush_runs", "the end of the last flush run", age, details):
        return future
    if last.success:
        return CheckResult("flush_runs", "healthy", f"the last flush run succeeded {format_age(age)}", details)
    failures = next((number for number, run in enumerate(runs) if run.success), len(runs))
    status: Status = "unhealthy" if failures >= MAX_FAILURES else "degraded"
    subject = "the last flush run failed" if failures == 1 else f"the last {failures} flush runs failed"
    details["failed_in_a_row"] = failures
    return CheckResult("flush_runs", status, f"{subject}: {last.error}", details, RUN)


def relate_last_flush_to_dagster(results: Sequence[CheckResult], limit_seconds: float) -> list[CheckResult]:
    """Return the results; `last_flush` is unhealthy where it is older than the limit, and Dagster makes no other.

    Without that its age alone means nothing: no flush is made while nothing is pending.
    """
    causes = [result.name for result in results if result.name in DAGSTER_CHECKS and result.status == "unhealthy"]
    return [_without_successor(result, causes[0], limit_seconds) if causes else result for result in results]


def drop_outdated_skip_reasons(results: Sequence[CheckResult]) -> list[CheckResult]:
    """Return the results; a tick that is older than the oldest pending view has not skipped because of it."""
    pending_seconds = next((r.details.get("oldest_pending_seconds") for r in results if r.name == "freshness"), None)
    return [_without_outdated_skip_reason(result, pending_seconds) for result in results]


def _without_outdated_skip_reason(result: CheckResult, pending_seconds: float | None) -> CheckResult:
    age = result.details.get("seconds_since_tick")
    if pending_seconds is None or age is None or age < pending_seconds or "skip_reason" not in result.details:
        return result
    return replace(result, details={name: value for name, value in result.details.items() if name != "skip_reason"})


def _without_successor(result: CheckResult, cause: str, limit_seconds: float) -> CheckResult:
    age = result.details.get("seconds_since_flush") if result.name == "last_flush" and result.passed else None
    if age is None or age <= limit_seconds:
        return result
    message = f"{result.message}, and Dagster makes no other now"
    return replace(result, status="unhealthy", message=message, remedy=f"see the check {cause}")


def _seconds_since_heartbeat(heartbeat: Heartbeat | None, now: float) -> float:
    return float("inf") if heartbeat is None else tolerate_clock_skew(now - heartbeat.at)


def _evaluate_daemon(
    beat: Heartbeat | None, daemon: str, clock: DagsterDeadlines, no_beat: str, launch_status: Status
) -> CheckResult:
    name = daemon_check_name(daemon)
    worse = launch_status if daemon in (COORDINATOR, *LAUNCHERS) else "degraded"
    if beat is None:
        return CheckResult(name, worse, no_beat, remedy=START)
    age = _seconds_since_heartbeat(beat, clock.now)
    details = {"heartbeat_age_seconds": round_age(age)}
    if future := evaluate_future_timestamp(name, "the last heartbeat", age, details, RESTART):
        return future
    if age > TOLERANCE_SECONDS:
        return CheckResult(name, worse, f"no heartbeat for {format_duration(age)}", details, START)
    if beat.error:
        return CheckResult(name, "degraded", f"runs, and reports an error: {beat.error}", details, DAEMON_ERROR)
    return CheckResult(name, "healthy", f"last heartbeat {format_age(age)}", details)


def _ticked_but_not_since(item: Instigator, due: float) -> bool:
    """Whether its last tick that did not fail is older; a daily sweep may run long before its first tick."""
    return item.tick is not None and (item.evaluated is None or item.evaluated < due)


def _evaluate_instigator(
    name: str, subject: str, item: Instigator | None, since: float, clock: DagsterDeadlines, *, none_fires: bool
) -> CheckResult:
    worse: Status = "unhealthy" if none_fires and clock.startup_grace_is_over else "degraded"
    if item is None:
        return CheckResult(name, worse, f"Dagster has not registered {subject} yet", remedy=START)
    details = {"running": item.running} | _tick_details(item.tick, clock.now)
    if not item.running:
        message = f"{subject} was stopped in Dagster's UI" + ("; nothing launches flushes" if none_fires else "")
        return CheckResult(name, "unhealthy" if none_fires else worse, message, details, AUTOMATION)
    if item.tick is None:
        return CheckResult(name, "healthy", f"{subject} runs and has not ticked yet", details)
    return _evaluate_tick(name, subject, item, item.tick, details, since=since, now=clock.now, worse=worse)


def _evaluate_tick(
    name: str,
    subject: str,
    item: Instigator,
    tick: Tick,
    details: dict[str, object],
    *,
    since: float,
    now: float,
    worse: Status,
) -> CheckResult:
    age, late = round_age(now - tick.at), _ticked_but_not_since(item, since)
    if future := evaluate_future_timestamp(name, f"the last tick of {subject}", age, details, RESTART):
        return future
    if late and tick.at < since:
        return CheckResult(name, worse, f"{subject} has not ticked for {format_duration(age)}", details, START)
    if tick.status == "FAILURE":
        message = f"the last tick of {subject}, {format_age(age)}, failed: {tick.message}"
        return CheckResult(name, worse if late else "degraded", message, details, FAILED_TICK)
    return CheckResult(name, "healthy", f"{subject} runs; last tick {format_age(age)}", details)


def _tick_details(tick: Tick | None, now: float) -> dict[str, object]:
    if tick is None:
        return {}
    skipped = {"skip_reason": tick.message} if tick.status == "SKIPPED" else {}
    return {"last_tick": tick.status.lower(), "seconds_since_tick": round_age(now - tick.at), **skipped}
