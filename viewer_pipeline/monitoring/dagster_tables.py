"""What Dagster's own tables say of its daemons, the sensor, the schedule and the flush runs.

Read by SQL, because importing Dagster more than doubles what the worker takes to start (docs/adr/0005). A test holds
every reading to what Dagster's API says of the same tables, so an upgrade that changes them goes red.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import orjson
import psycopg
from psycopg import errors as pg

from viewer_pipeline.errors import PostgresFailed
from viewer_pipeline.redaction import without_password
from viewer_pipeline.settings import Settings
from viewer_pipeline.stores.postgres import open_connection
from viewer_pipeline.stores.postgres_errors import postgres_errors

SENSOR, SWEEP, JOB = "view_count_updates_sensor", "sweep_schedule", "flush_views"
RUNS = 3  # last flush runs that are looked at
SENTENCE_CHARACTERS = 300

HEARTBEATS = "SELECT body FROM daemon_heartbeats"
INSTIGATORS = "SELECT selector_id, status, instigator_body FROM instigators"
LAST_TICK = """
    SELECT tick_body FROM job_ticks WHERE selector_id = %(selector)s AND status <> 'STARTED'
    ORDER BY timestamp DESC LIMIT 1
"""
LAST_RUNS = """
    SELECT run_id, status = 'SUCCESS', end_time FROM runs
    WHERE pipeline_name = %(job)s AND status IN ('SUCCESS', 'FAILURE') ORDER BY id DESC LIMIT %(limit)s
"""
RUNNING = """
    SELECT run_id, pipeline_name, start_time FROM runs
    WHERE status IN ('STARTING', 'STARTED', 'CANCELING') AND start_time IS NOT NULL ORDER BY id
"""
FAILURES = """
    SELECT event FROM event_logs
    WHERE run_id = %(run_id)s AND dagster_event_type IN ('STEP_FAILURE', 'PIPELINE_FAILURE') ORDER BY id LIMIT 1
"""
MAY_LOOK = "SELECT has_schema_privilege(oid, 'USAGE') FROM pg_namespace WHERE nspname = %(schema)s"

_OUR_ERROR = re.compile(r"^viewer_pipeline\.errors\.\w+: ")


@dataclass(frozen=True)
class Heartbeat:
    """The last sign of life of a daemon, Unix time in seconds, and what it complained about lately."""

    daemon: str
    at: float
    error: str = ""


@dataclass(frozen=True)
class Tick:
    """The last finished evaluation of a sensor or schedule; `said` is the skip reason or the error."""

    status: str  # SKIPPED, SUCCESS or FAILURE
    at: float
    said: str = ""


@dataclass(frozen=True)
class Instigator:
    """The sensor or the schedule, as Dagster's daemon has met it."""

    running: bool  # False: somebody stopped it in the UI
    tick: Tick | None


@dataclass(frozen=True)
class FlushRun:
    """A flush run that has ended; `why` it failed is known of the last one only."""

    run_id: str
    success: bool
    ended: float
    why: str = ""


@dataclass(frozen=True)
class RunningRun:
    """A run that has started and not ended, as far as Dagster knows; `started` is Unix time."""

    run_id: str
    job: str
    started: float


@dataclass(frozen=True)
class DagsterReading:
    """All of it, at one moment. Runs newest first; canceled ones are none."""

    heartbeats: dict[str, Heartbeat]
    sensor: Instigator | None
    sweep: Instigator | None
    runs: list[FlushRun]


def read_dagster(settings: Settings) -> DagsterReading | None:
    """Read Dagster's tables; None where there are none: Dagster has never run on this database.

    Raises PostgresUnavailable; PostgresFailed where this role may not see them.
    """
    with connect(settings) as connection:
        try:
            heartbeats = _heartbeats(connection)
            sensor, sweep = (_instigator(connection, name) for name in (SENSOR, SWEEP))
            return DagsterReading(heartbeats, sensor, sweep, _last_runs(connection))
        except pg.UndefinedTable:
            _require_usage(settings, connection)
            return None


def read_heartbeats(settings: Settings) -> dict[str, Heartbeat]:
    """Read the daemons' signs of life alone; none where Dagster has never run.

    Raises PostgresUnavailable; PostgresFailed where this role may not see them.
    """
    with connect(settings) as connection:
        try:
            return _heartbeats(connection)
        except pg.UndefinedTable:
            _require_usage(settings, connection)
            return {}


def read_running(settings: Settings) -> list[RunningRun]:
    """Read the runs that Dagster takes for running; none where it has never run.

    Raises PostgresUnavailable; PostgresFailed where this role may not see them.
    """
    with connect(settings) as connection:
        try:
            return [RunningRun(*row) for row in connection.execute(RUNNING)]
        except pg.UndefinedTable:
            _require_usage(settings, connection)
            return []


@contextmanager
def connect(settings: Settings) -> Iterator[psycopg.Connection]:
    """Open a connection to Dagster's storage, without SQLAlchemy."""
    with postgres_errors("Dagster's storage"), open_connection(settings.dagster_storage()) as connection:
        yield connection


def _require_usage(settings: Settings, connection: psycopg.Connection) -> None:
    """Raise PostgresFailed where the tables may be there: the search path leaves out a schema that one may not use."""
    schema = settings.dagster_storage().schema
    if connection.execute(MAY_LOOK, {"schema": schema}).fetchone() == (False,):
        raise PostgresFailed(f"Dagster's storage: this role has no USAGE on schema {schema}") from None


def sentence_of(error: dict[str, Any]) -> str:
    """Return the first line of one of Dagster's stored errors that says the cause, without a password.

    Of a chain it takes the first error of ours, whose text is made for people, else the innermost.
    """
    chain = [error]
    while cause := chain[-1].get("cause"):
        chain.append(cause)
    messages = [str(link.get("message") or link.get("cls_name") or "unknown error").strip() for link in chain]
    message = next((said for said in messages if _OUR_ERROR.match(said)), messages[-1])
    line = _OUR_ERROR.sub("", message).partition("\n")[0].strip()
    return without_password(line)[:SENTENCE_CHARACTERS]


def _heartbeats(connection: psycopg.Connection) -> dict[str, Heartbeat]:
    beats = [_heartbeat(orjson.loads(body)) for (body,) in connection.execute(HEARTBEATS)]
    return {beat.daemon: beat for beat in beats}


def _heartbeat(body: dict[str, Any]) -> Heartbeat:
    errors = body.get("errors") or []
    return Heartbeat(body["daemon_type"], float(body["timestamp"]), sentence_of(errors[0]) if errors else "")


def _instigator(connection: psycopg.Connection, name: str) -> Instigator | None:
    """Find it by name; of several (the code location was renamed) the one that ticked last."""
    found = [
        Instigator(status != "STOPPED", _last_tick(connection, selector))
        for selector, status, body in connection.execute(INSTIGATORS).fetchall()
        if orjson.loads(body)["origin"]["job_name"] == name
    ]
    return max(found, key=lambda one: one.tick.at if one.tick else 0.0, default=None)


def _last_tick(connection: psycopg.Connection, selector: str) -> Tick | None:
    row = connection.execute(LAST_TICK, {"selector": selector}).fetchone()
    if row is None:
        return None
    body = orjson.loads(row[0])
    said = sentence_of(body["error"]) if body.get("error") else without_password(body.get("skip_reason") or "")
    return Tick(body["status"]["__enum__"].rpartition(".")[2], float(body["timestamp"]), said)


def _last_runs(connection: psycopg.Connection) -> list[FlushRun]:
    rows = connection.execute(LAST_RUNS, {"job": JOB, "limit": RUNS}).fetchall()
    return [
        FlushRun(run_id, success, float(ended or 0), "" if success or number else _why_failed(connection, run_id))
        for number, (run_id, success, ended) in enumerate(rows)
    ]


def _why_failed(connection: psycopg.Connection, run_id: str) -> str:
    row = connection.execute(FAILURES, {"run_id": run_id}).fetchone()
    if row is None:
        return "no reason is recorded"
    happened = orjson.loads(row[0])["dagster_event"]
    error = (happened.get("event_specific_data") or {}).get("error")
    return sentence_of(error or {"message": happened.get("message")})
