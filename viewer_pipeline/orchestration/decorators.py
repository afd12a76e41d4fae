"""Dagster's decorators of schedules and sensors, with the docstring as their description in the UI.

Dagster takes the docstring of assets and jobs by itself, but not of schedules and sensors.
"""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import dagster as dg

Definition = TypeVar("Definition")
Function = Callable[..., Any]


def _with_description(decorator: Function, _: type[Definition]) -> Callable[..., Callable[[Function], Definition]]:
    def with_options(**options: Any) -> Callable[[Function], Definition]:
        def decorate(function: Function) -> Definition:
            description = (inspect.getdoc(function) or "").replace("`", "")  # these pages show plain text
            definition: Definition = decorator(description=description, **options)(function)
            return definition

        return decorate

    return with_options


schedule = _with_description(dg.schedule, dg.ScheduleDefinition)
sensor = _with_description(dg.sensor, dg.SensorDefinition)
run_failure_sensor = _with_description(dg.run_failure_sensor, dg.SensorDefinition)
