"""Decorators of schedules and sensors: running by default, in UTC, with the docstring as their description in the UI.

Dagster takes the docstring of assets and jobs by itself, but not of schedules and sensors.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import dagster as dg

Function = Callable[..., Any]
SensorDecorator = Callable[..., Callable[[Function], dg.SensorDefinition]]
ScheduleDecorator = Callable[..., Callable[[Function], dg.ScheduleDefinition]]


def _with_description(decorator: Callable[..., Any], **options: Any) -> Callable[[Function], Any]:
    def decorate(function: Function) -> Any:
        description = (inspect.getdoc(function) or "").replace("`", "")  # these pages show plain text
        return decorator(description=description, **options)(function)

    return decorate


_RUNNING = {"default_status": dg.DefaultSensorStatus.RUNNING}
sensor: SensorDecorator = partial(_with_description, dg.sensor, **_RUNNING)
run_failure_sensor: SensorDecorator = partial(_with_description, dg.run_failure_sensor, **_RUNNING)
schedule: ScheduleDecorator = partial(
    _with_description, dg.schedule, default_status=dg.DefaultScheduleStatus.RUNNING, execution_timezone="UTC"
)
