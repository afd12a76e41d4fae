"""Decorators of schedules and sensors: running by default, in UTC, with the docstring as their description in the UI.

Dagster takes the docstring of assets and jobs by itself, but not of schedules and sensors.
"""

import inspect
from collections.abc import Callable
from typing import Any

import dagster as dg

Function = Callable[..., Any]


def schedule(**options: Any) -> Callable[[Function], dg.ScheduleDefinition]:
    """Return a decorator that makes a schedule."""
    status = dg.DefaultScheduleStatus.RUNNING
    return lambda function: dg.schedule(
        description=_description(function), execution_timezone="UTC", default_status=status, **options
    )(function)


def sensor(**options: Any) -> Callable[[Function], dg.SensorDefinition]:
    """Return a decorator that makes a sensor."""
    status = dg.DefaultSensorStatus.RUNNING
    return lambda function: dg.sensor(description=_description(function), default_status=status, **options)(function)


def run_failure_sensor(**options: Any) -> Callable[[Function], dg.SensorDefinition]:
    """Return a decorator that makes a sensor for failed runs."""
    status = dg.DefaultSensorStatus.RUNNING
    return lambda function: dg.run_failure_sensor(description=_description(function), default_status=status, **options)(
        function
    )


def _description(function: Function) -> str:
    return (inspect.getdoc(function) or "").replace("`", "")  # these pages show plain text
