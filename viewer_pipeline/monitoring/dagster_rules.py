"""Which state Dagster's daemons, sensor, schedule and runs are in, and how to say it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from croniter import croniter

from viewer_pipeline.monitoring.checks import Result, Results, State
from viewer_pipeline.monitoring.dagster_tables import DagsterReading, FlushRun, Heartbeat, Instigator, Tick
from viewer_pipeline.settings import Settings

# What our dagster.yaml makes Dagster run; a test holds it to the instance.
DAEMONS = (
    "SENSOR",
    "SCHEDULER",
    "QUEUED_RUN_COORDINATOR",
    "MONITORING",
    "EVENT_LOG_CONSUMER",
    "BACKFILL",
    "ASSET",
    "FRESHNESS_DAEMON",
)
TOLERANCE_SECONDS = 120.0  # heartbeats come every 30 s; Dagster itself waits for half an hour
COORDINATOR, LAUNCHERS = "QUEUED_RUN_COORDINATOR", ("SENSOR", "SCHEDULER")
NEVER_RAN = "Dagster has never run on this database"
NAMES = (*(f"daemon_{daemon.lower()}" for daemon in DAEMONS), "sensor", "sweep", "flush_runs")
FAILURES_IN_A_ROW = 3  # flush runs that failed; after so many it is no hiccup


@dataclass(frozen=True)
class Clock:
    """The times, Unix seconds, that the readings are held against."""

    now: float
    born: float  # when this worker was started; Dagster may be starting as well
    sensor_due: float  # a sensor that runs has ticked since
    sweep_due: float

    @classmethod
    def of(cls, settings: Settings, now: float, born: float) -> Clock:
        """Read off when sensor and schedule must have ticked, with the tolerance of the daemons."""
        late = now - TOLERANCE_SECONDS
        sweep_due = float(croniter(settings.sweep_cron, late).get_prev(float))
        return cls(now, born, late - settings.sensor_interval_seconds, sweep_due)

    @property
    def grown(self) -> bool:
        """Whether Dagster has had the time to show itself."""
        return self.now - self.born > TOLERANCE_SECONDS


def dead_daemons(heartbeats: Mapping[str, Heartbeat], now: float) -> list[str]:
    """Return those of DAEMONS that gave no sign of life within TOLERANCE_SECONDS before `now` (Unix time)."""
    return [name for name in DAEMONS if _age(heartbeats.get(name), now) > TOLERANCE_SECONDS]


def judge_dagster(reading: DagsterReading | None, clock: Clock) -> Results:
    """Judge everything of Dagster's."""
    found = reading or DagsterReading({}, None, None, [])
    dead = dead_daemons(found.heartbeats, clock.now)
    none_launches = COORDINATOR in dead or all(name in dead for name in LAUNCHERS)
    due = ((found.sensor, clock.sensor_due), (found.sweep, clock.sweep_due))
    none_fires = not any(one and one.running and not _late(one.tick, since) for one, since in due)
    results = {
        f"daemon_{name.lower()}": _daemon(found.heartbeats.get(name), name, clock, none_launches=none_launches)
        for name in DAEMONS
    }
    if reading is None:
        results = {name: Result(result.state, NEVER_RAN) for name, result in results.items()}
    for name, what, (one, since) in zip(("sensor", "sweep"), ("the sensor", "the sweep schedule"), due, strict=True):
        results[name] = _instigator(what, one, since, clock, none_fires=none_fires)
    results["flush_runs"] = judge_runs(found.runs, clock.now)
    return results


def judge_runs(runs: list[FlushRun], now: float) -> Result:
    """Judge the last flush runs that have ended, newest first."""
    if not runs:
        return Result("healthy", "no flush run has ended yet")
    last = runs[0]
    figures = {"last_run": last.run_id, "seconds_since_last": _seconds(now - last.ended)}
    if last.success:
        return Result("healthy", "the last flush run succeeded", figures)
    in_a_row = next((number for number, run in enumerate(runs) if run.success), len(runs))
    state: State = "unhealthy" if in_a_row >= FAILURES_IN_A_ROW else "degraded"
    said = "the last flush run failed" if in_a_row == 1 else f"the last {in_a_row} flush runs failed"
    return Result(state, f"{said}: {last.why}", {**figures, "failed_in_a_row": in_a_row})


def _age(beat: Heartbeat | None, now: float) -> float:
    return float("inf") if beat is None else max(0.0, now - beat.at)


def _daemon(beat: Heartbeat | None, name: str, clock: Clock, *, none_launches: bool) -> Result:
    needed = name == COORDINATOR or name in LAUNCHERS
    bad: State = "unhealthy" if needed and none_launches and clock.grown else "degraded"
    if beat is None:
        return Result(bad, "has never been seen" if clock.grown else "has not been seen yet")
    age = _age(beat, clock.now)
    figures = {"heartbeat_age_seconds": _seconds(age)}
    if age > TOLERANCE_SECONDS:
        return Result(bad, f"has not been seen for {in_words(age)}", figures)
    if beat.error:
        return Result("degraded", f"lives, and reports: {beat.error}", figures)
    return Result("healthy", f"seen {in_words(age)} ago", figures)


def _late(tick: Tick | None, since: float) -> bool:
    return tick is not None and tick.at < since


def _instigator(what: str, one: Instigator | None, since: float, clock: Clock, *, none_fires: bool) -> Result:
    bad: State = "unhealthy" if none_fires and clock.grown else "degraded"
    if one is None:
        return Result(bad, f"Dagster has not met {what} yet")
    figures = {"running": one.running} | _tick_figures(one.tick, clock.now)
    if not one.running:
        other = "; nothing launches flushes" if none_fires else ""
        return Result("unhealthy" if none_fires else bad, f"{what} was stopped in Dagster's UI{other}", figures)
    if one.tick is None:
        return Result("healthy", f"{what} runs and has not ticked yet", figures)
    ago = in_words(clock.now - one.tick.at)
    if _late(one.tick, since):
        return Result(bad, f"{what} has not ticked for {ago}", figures)
    if one.tick.status == "FAILURE":
        return Result("degraded", f"the last tick of {what}, {ago} ago, failed: {one.tick.said}", figures)
    return Result("healthy", f"{what} runs; last tick {ago} ago", figures)


def _tick_figures(tick: Tick | None, now: float) -> dict[str, object]:
    if tick is None:
        return {}
    skipped = {"skip_reason": tick.said} if tick.status == "SKIPPED" else {}
    return {"last_tick": tick.status.lower(), "seconds_since_tick": _seconds(now - tick.at), **skipped}


def _seconds(seconds: float) -> float:
    return round(max(0.0, seconds), 1)


def in_words(seconds: float) -> str:
    """Return a time for people: `12 s`, `5 min`, `3 h`, `2 days`."""
    seconds = max(0.0, seconds)
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / 86_400:.0f} days"
