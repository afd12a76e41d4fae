"""Reads the state of daemons, sensor, schedule and flush runs from Dagster's own tables.

By SQL, because importing Dagster more than doubles the start-up time of the worker (docs/adr/0005). A test compares
every value with what Dagster's API returns, so it fails when an upgrade of Dagster changes the tables.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson
import psycopg
from psycopg import errors as pg

from viewer_pipeline.errors import PostgresDeniesRight
from viewer_pipeline.redaction import redact_text
from viewer_pipeline.settings import Settings
from viewer_pipeline.sql_identifiers import quoted
from viewer_pipeline.stores.named_queries import fetch_one, named_queries
from viewer_pipeline.stores.postgres import DAGSTER_STORAGE, connect_dagster_storage

SENSOR, SWEEP, JOB = "view_count_updates_sensor", "sweep_schedule", "flush_views"
MAX_RUNS = 3  # of the last flush runs
MAX_ERROR_CHARACTERS = 300

SQL = named_queries(__name__)

T = TypeVar("T")

_OUR_ERROR = re.compile(r"^viewer_pipeline\.errors\.\w+: ")


@dataclass(frozen=True)
class Heartbeat:
    """The last heartbeat of a daemon (Unix time in seconds), and the error that it reported with it."""

    at: float
    error: str = ""
    daemon_id: str = ""  # of its process


@dataclass(frozen=True)
class Tick:
    """The last finished evaluation of a sensor or schedule; `message` is the skip reason or the error."""

    status: str  # SKIPPED, SUCCESS or FAILURE
    at: float
    message: str = ""


@dataclass(frozen=True)
class Instigator:
    """The sensor or the schedule, as Dagster's daemon has registered it."""

    running: bool  # False: somebody stopped it in the UI
    tick: Tick | None
    evaluated: float | None  # Unix time of the last tick that did not fail; None if none of the last 100 did


@dataclass(frozen=True)
class FlushRun:
    """A flush run that has ended. `error` is read for the last run only."""

    run_id: str
    success: bool
    ended: float
    error: str = ""


@dataclass(frozen=True)
class WaitingRun:
    """A run that was requested and has not started; `requested` is Unix time."""

    run_id: str
    requested: float


@dataclass(frozen=True)
class RunningRun:
    """A run that has started and not ended, according to Dagster; `started` is Unix time."""

    run_id: str
    job: str
    started: float


@dataclass(frozen=True)
class DagsterReading:
    """Everything, read at one moment. Runs are newest first, without canceled ones."""

    heartbeats: dict[str, Heartbeat]
    sensor: Instigator | None
    sweep: Instigator | None
    runs: list[FlushRun]
    waiting: WaitingRun | None = None  # the flush run that has waited longest


def read_dagster(settings: Settings) -> DagsterReading | None:
    """Read everything; None where Dagster has never run on this database. Raises as `_read_tables`."""
    return _read_tables(settings, _select_dagster)


def read_heartbeats(settings: Settings) -> dict[str, Heartbeat]:
    """Read the heartbeats of the daemons; none where Dagster has never run. Raises as `_read_tables`."""
    return _read_tables(settings, _select_heartbeats) or {}


def read_running_runs(settings: Settings) -> list[RunningRun]:
    """Read the runs that are running according to Dagster; none where it has never run. Raises as `_read_tables`."""
    return _read_tables(settings, _select_running) or []


def count_ticks_after(settings: Settings, time: float) -> int:
    """Count the ticks of all sensors and schedules after a time (Unix); 0 where Dagster has never run.

    Raises as `_read_tables`.
    """
    return _read_tables(settings, lambda c: int(fetch_one(c, SQL["count_ticks_after"], time=time)[0])) or 0


def _read_tables(settings: Settings, read: Callable[[psycopg.Connection], T]) -> T | None:
    """Read Dagster's tables; None where they do not exist: Dagster has never run on this database.

    Raises PostgresUnavailable; PostgresDeniesRight where this role has no right to them: a search path skips a schema
    that the role may not use.
    """
    with connect_dagster_storage(settings) as connection:
        try:
            return read(connection)
        except pg.UndefinedTable:
            schema = settings.dagster_storage_url().schema
            if connection.execute(SQL["has_usage"], {"schema": schema}).fetchone() == (False,):
                role = quoted(connection.info.user)
                sentence = f"{DAGSTER_STORAGE}: role {role} has no USAGE on schema {schema}"
                remedy = f"GRANT USAGE, CREATE ON SCHEMA {quoted(str(schema))} TO {role}"
                raise PostgresDeniesRight(sentence, remedy) from None
            return None


def own_or_innermost_error(error: dict[str, Any]) -> str:
    """Return the first line of an error that Dagster stored, without a password.

    Of a chain, it is the first error of ours, whose text is written for operators, else the innermost. Errors of gRPC
    do not count: their first line has no reason, and Dagster's error above them has one.
    """
    chain = [error]
    while (cause := chain[-1].get("cause")) and not str(cause.get("message")).startswith("grpc."):
        chain.append(cause)
    messages = [str(link.get("message") or link.get("cls_name") or "unknown error").strip() for link in chain]
    message = next((message for message in messages if _OUR_ERROR.match(message)), messages[-1])
    line = _OUR_ERROR.sub("", message).partition("\n")[0].strip()
    return redact_text(line)[:MAX_ERROR_CHARACTERS]


def _select_dagster(connection: psycopg.Connection) -> DagsterReading:
    heartbeats = _select_heartbeats(connection)
    sensor, sweep = (_select_instigator(connection, name) for name in (SENSOR, SWEEP))
    waiting = connection.execute(SQL["waiting_run"], {"job": JOB}).fetchone()
    runs = _select_last_runs(connection)
    return DagsterReading(heartbeats, sensor, sweep, runs, WaitingRun(*waiting) if waiting else None)


def _select_heartbeats(connection: psycopg.Connection) -> dict[str, Heartbeat]:
    heartbeats = {}
    for (text,) in connection.execute(SQL["heartbeats"]):
        body = orjson.loads(text)
        error = own_or_innermost_error(body["errors"][0]) if body.get("errors") else ""
        heartbeats[body["daemon_type"]] = Heartbeat(float(body["timestamp"]), error, str(body.get("daemon_id")))
    return heartbeats


def _select_running(connection: psycopg.Connection) -> list[RunningRun]:
    return [RunningRun(*row) for row in connection.execute(SQL["running_runs"])]


def _select_instigator(connection: psycopg.Connection, name: str) -> Instigator | None:
    """Read it by name; of several (the code location was renamed), return the one that ticked last."""
    instigators = [
        Instigator(status != "STOPPED", *_select_last_ticks(connection, selector))
        for selector, status, body in connection.execute(SQL["instigators"]).fetchall()
        if orjson.loads(body)["origin"]["job_name"] == name
    ]
    return max(instigators, key=lambda item: item.tick.at if item.tick else 0.0, default=None)


def _select_last_ticks(connection: psycopg.Connection, selector: str) -> tuple[Tick | None, float | None]:
    """Return the last tick that has ended, and the time of the last one that did not fail."""
    row = connection.execute(SQL["last_tick"], {"selector": selector}).fetchone()
    if row is None:
        return None, None
    body = orjson.loads(row[0])
    message = own_or_innermost_error(body["error"]) if body.get("error") else redact_text(body.get("skip_reason") or "")
    tick = Tick(body["status"]["__enum__"].rpartition(".")[2], float(body["timestamp"]), message)
    if tick.status != "FAILURE":
        return tick, tick.at
    return tick, fetch_one(connection, SQL["last_evaluation"], selector=selector)[0]


def _select_last_runs(connection: psycopg.Connection) -> list[FlushRun]:
    rows = connection.execute(SQL["last_runs"], {"job": JOB, "limit": MAX_RUNS}).fetchall()
    return [
        FlushRun(run_id, success, float(ended or 0), "" if success or number else _select_run_error(connection, run_id))
        for number, (run_id, success, ended) in enumerate(rows)
    ]


def _select_run_error(connection: psycopg.Connection, run_id: str) -> str:
    """Return the error of its first failure. Dagster records that of a launch in the event before the failure."""
    row = connection.execute(SQL["run_failure"], {"run_id": run_id}).fetchone()
    if row is None:
        return "no reason is recorded"
    failure, *others = [orjson.loads(text)["dagster_event"] or {} for text in row if text]
    errors = [(event.get("event_specific_data") or {}).get("error") for event in (failure, *others)]
    return own_or_innermost_error(next(filter(None, errors), {"message": failure.get("message")}))
