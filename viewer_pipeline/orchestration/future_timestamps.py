"""Timestamps in the future in Dagster's storage: what a clock leaves behind that was ahead, or was set back."""

from typing import Any, NamedTuple

import dagster as dg
from dagster._core.scheduler.instigation import InstigatorState

from viewer_pipeline.settings import Settings
from viewer_pipeline.stores.named_queries import named_queries
from viewer_pipeline.stores.postgres import connect_dagster_storage

SQL = named_queries(__name__)


class MovedTimestamps(NamedTuple):
    """How many sensors and schedules, ticks, and active runs had a timestamp in the future."""

    instigators: int
    ticks: int
    runs: int


def move_or_delete_future_timestamps(settings: Settings, instance: dg.DagsterInstance, now: float) -> MovedTimestamps:
    """Make Dagster evaluate all sensors and schedules again, from `now` (Unix time) on. Safe to repeat.

    Deletes ticks in the future, which are only history. Call it while no daemon runs. Raises PostgresUnavailable.
    """
    states = [state for state in instance.all_instigator_state() if _future_fields(state, now)]
    for state in states:
        assert state.instigator_data is not None, "has fields"
        instance.update_instigator_state(state.with_data(state.instigator_data._replace(**_future_fields(state, now))))
    with connect_dagster_storage(settings) as connection:
        ticks = connection.execute(SQL["delete_future_ticks"], {"now": now}).rowcount
        runs = connection.execute(SQL["restart_runtime_of_active_runs"], {"now": now}).rowcount
    return MovedTimestamps(len(states), ticks, runs)


def _future_fields(state: InstigatorState, now: float) -> dict[str, Any]:
    """Return `now` by the name of each timestamp of a sensor or schedule that is in the future."""
    fields = state.instigator_data._asdict() if state.instigator_data else {}
    return {name: now for name, value in fields.items() if name.endswith("_timestamp") and (value or 0.0) > now}
