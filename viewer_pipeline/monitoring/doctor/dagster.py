"""Dagster: whether its storage can be read, and what its own tables say of daemons, sensor, schedule and runs."""

from __future__ import annotations

import time
from collections.abc import Iterator

from viewer_pipeline.monitoring.checks import Result
from viewer_pipeline.monitoring.checks import State as Health
from viewer_pipeline.monitoring.dagster_rules import DAEMONS, NEVER_RAN, Clock, judge_dagster
from viewer_pipeline.monitoring.dagster_tables import DagsterReading, read_dagster
from viewer_pipeline.monitoring.doctor.finding import Finding, State
from viewer_pipeline.settings import Settings

STATES: dict[Health, State] = {"healthy": "ok", "degraded": "warning", "unhealthy": "problem"}
START = "start its daemon, or `viewer-pipeline up`"
DO = {
    "sensor": "start it under *Automation* in Dagster's UI; the sentence has the error, if it is one",
    "sweep": "start it under *Automation* in Dagster's UI; the sentence has the error, if it is one",
    "flush_runs": "the sentence has the reason, the run in Dagster's UI the rest",
}


def examine_dagster(settings: Settings) -> Iterator[Finding]:
    """Look at it. Raises PostgresUnavailable, PostgresFailed."""
    yield from judge(read_dagster(settings), Clock.of(settings, time.time(), 0.0))


def judge(reading: DagsterReading | None, clock: Clock) -> Iterator[Finding]:
    """Judge it. Pure."""
    if reading is None:
        yield Finding("dagster_storage", "warning", NEVER_RAN, START)
        return
    yield Finding("dagster_storage", "ok", "Dagster's tables can be read")
    results = judge_dagster(reading, clock)
    yield _daemons({name: results[f"daemon_{name.lower()}"] for name in DAEMONS})
    for name, do in DO.items():
        result = results[name]
        state = STATES[result.state]
        yield Finding(name, state, result.said, "" if state == "ok" else do)


def _daemons(results: dict[str, Result]) -> Finding:
    bad = {name: result for name, result in results.items() if result.state != "healthy"}
    if not bad:
        return Finding("dagster_daemons", "ok", f"all {len(results)} live")
    state = max((STATES[result.state] for result in bad.values()), key=("warning", "problem").index)
    if len(bad) == len(results) and len({result.said for result in bad.values()}) == 1:
        return Finding("dagster_daemons", state, f"no daemon lives: each {next(iter(bad.values())).said}", START)
    said = "; ".join(f"{name} {result.said}" for name, result in bad.items())
    return Finding("dagster_daemons", state, said, "start Dagster's daemon; its log says why it ended")
