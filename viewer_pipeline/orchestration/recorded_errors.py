"""The errors that Dagster records of a run, each with a chain of causes."""

import re
from itertools import pairwise

import dagster as dg
from dagster_shared.error import SerializableErrorInfo

_EXCEPTION_CLASS = re.compile(r"^[\w.]+: ")  # in front of the message


def own_or_innermost_error(error: SerializableErrorInfo) -> str:
    """Return the message of the first error of this package in the chain of causes, else of the innermost error."""
    return own_error(error) or _EXCEPTION_CLASS.sub("", innermost_error(error).message.strip())


def own_error(error: SerializableErrorInfo | None) -> str:
    """Return the message of the first error of this package in the chain of causes; empty if there is none."""
    while error is not None:
        if error.message.startswith("viewer_pipeline.errors."):
            return _EXCEPTION_CLASS.sub("", error.message.strip())
        error = error.cause
    return ""


def innermost_error(error: SerializableErrorInfo) -> SerializableErrorInfo:
    """Return the error at the end of the chain of causes."""
    while error.cause is not None:
        error = error.cause
    return error


def launch_error(instance: dg.DagsterInstance, run_id: str) -> SerializableErrorInfo | None:
    """Return the error with which a run could not be launched: Dagster records it in the event before the failure."""
    events = [entry.dagster_event for entry in instance.all_logs(run_id)]
    for before, failure in pairwise(events):
        if failure is not None and failure.is_run_failure:
            error: SerializableErrorInfo | None = getattr(before and before.event_specific_data, "error", None)
            return error
    return None
