"""Decorators of schedules and sensors: running by default, in UTC unless stated, with the docstring as description.

LOG_LEVEL=debug logs what each tick decided.

Dagster takes the docstring of assets and jobs by itself, but not of schedules and sensors.
"""

import inspect
import logging
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import dagster as dg

from viewer_pipeline.logs import event
from viewer_pipeline.orchestration.run_trigger_tag import TRIGGER_TAG

log = logging.getLogger("viewer_pipeline.ticks")

Function = Callable[..., Any]
SensorDecorator = Callable[..., Callable[[Function], dg.SensorDefinition]]
ScheduleDecorator = Callable[..., Callable[[Function], dg.ScheduleDefinition]]


def _with_description(decorator: Callable[..., Any], **options: Any) -> Callable[[Function], Any]:
    def decorate(function: Function) -> Any:
        description = (inspect.getdoc(function) or "").replace("`", "")  # these pages show plain text
        return decorator(description=description, **options)(_with_log(function))

    return decorate


def _with_log(function: Function) -> Function:
    @wraps(function)  # Dagster reads the parameters
    def call(*arguments: Any, **options: Any) -> Any:
        result = function(*arguments, **options)
        for decision in result if isinstance(result, list) else [result]:
            _log_decision(function.__name__, decision)
        return result

    return call


def _log_decision(name: str, decision: Any) -> None:
    if isinstance(decision, dg.SkipReason):
        log.debug(event("tick_skipped", name=name, reason=decision.skip_message))
    elif isinstance(decision, dg.RunRequest):
        log.debug(event("run_requested", name=name, trigger=decision.tags.get(TRIGGER_TAG)))


_RUNNING = {"default_status": dg.DefaultSensorStatus.RUNNING}
sensor: SensorDecorator = partial(_with_description, dg.sensor, **_RUNNING)
run_failure_sensor: SensorDecorator = partial(_with_description, dg.run_failure_sensor, **_RUNNING)
schedule: ScheduleDecorator = partial(
    _with_description, dg.schedule, default_status=dg.DefaultScheduleStatus.RUNNING, execution_timezone="UTC"
)
