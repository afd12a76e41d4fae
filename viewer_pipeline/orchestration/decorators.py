"""Dagster's decorators of what is automatic, with the docstring as description, which Dagster takes of others alone."""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import dagster as dg

Definition = TypeVar("Definition")
Function = Callable[..., Any]


def _described(decorator: Function, _: type[Definition]) -> Callable[..., Callable[[Function], Definition]]:
    def with_options(**options: Any) -> Callable[[Function], Definition]:
        def decorate(function: Function) -> Definition:
            said = (inspect.getdoc(function) or "").replace("`", "")  # their pages show plain text
            definition: Definition = decorator(description=said, **options)(function)
            return definition

        return decorate

    return with_options


schedule = _described(dg.schedule, dg.ScheduleDefinition)
sensor = _described(dg.sensor, dg.SensorDefinition)
run_failure_sensor = _described(dg.run_failure_sensor, dg.SensorDefinition)
