"""The trace of a run, made from its events in Dagster when it ends: a root span, and a span for each attempt of a step.

Nothing of it can fail or delay a run: the spans are sent by a thread, for which the process waits EXPORT_SECONDS at
most after the run has ended.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from threading import Thread
from typing import Any, NamedTuple
from uuid import UUID

import dagster as dg
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import Span, StatusCode, set_span_in_context

from viewer_pipeline.logs import event, make_stderr_handler
from viewer_pipeline.orchestration.flush_ops import flush_mode_of
from viewer_pipeline.orchestration.recorded_errors import own_or_innermost_error
from viewer_pipeline.orchestration.run_trigger_tag import trigger_of_run_tags
from viewer_pipeline.redaction import redact_text
from viewer_pipeline.settings import Settings

EXPORT_SECONDS = 2.0
THREAD = "trace-export"
SERVICE = "viewer-pipeline"  # if neither OTEL_SERVICE_NAME nor OTEL_RESOURCE_ATTRIBUTES names another

BEGINS = {dg.DagsterEventType.STEP_START, dg.DagsterEventType.STEP_RESTARTED}
FAILS = {dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.STEP_UP_FOR_RETRY}
ENDS = {dg.DagsterEventType.STEP_SUCCESS, *FAILS}
MATERIALIZED = dg.DagsterEventType.ASSET_MATERIALIZATION
STATS = {"last_flush": "seq", "flushes": "flushes", "views": "views", "counters": "counters", "batches": "batches"}


class _Attempt(NamedTuple):
    """An attempt of a step. `error`: why it failed, empty if it did not."""

    step: str
    started_ns: int
    ended_ns: int
    error: str


class _TraceId(RandomIdGenerator):
    """The id of a run as that of its trace, so that one is found by the other."""

    def __init__(self, run_id: str) -> None:
        self._trace_id = UUID(run_id).int

    def generate_trace_id(self) -> int:
        """Return it."""
        return self._trace_id


def export_trace(instance: dg.DagsterInstance, run: dg.DagsterRun, settings: Settings) -> None:
    """Begin to export the trace of a run whose steps have ended. Raises nothing."""
    log = logging.Logger("viewer_pipeline.traces")  # noqa: LOG001 - not of the run, which has ended when it logs
    log.addHandler(make_stderr_handler(settings))
    try:
        spans = _spans(run, instance.all_logs(run.run_id, BEGINS | ENDS | {MATERIALIZED}))
    except Exception as error:  # noqa: BLE001 - nothing of a trace fails a run
        log.warning(event("trace_not_exported", run_id=run.run_id, reason=error))
        return
    endpoint = f"{settings.otel_exporter_otlp_endpoint}".rstrip("/") + "/v1/traces"
    outcome = _Outcome()
    exporting = Thread(target=_export, args=[spans, endpoint, outcome], name=THREAD, daemon=True)
    exporting.start()
    Thread(
        target=_wait, args=[exporting, outcome, run.run_id, endpoint, log]
    ).start()  # the process waits for it at its end


@dataclass
class _Outcome:
    """The outcome of an export so far. `errors`: the first has the reason, the last says that the exporter gives up."""

    received: bool = False
    errors: list[str] = field(default_factory=list)


class _ErrorsOfExporter(logging.Handler):
    """Adds what the exporter logs to `errors`."""

    def __init__(self, errors: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._errors = errors

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the message."""
        self._errors.append(record.getMessage())


def _export(spans: Sequence[ReadableSpan], endpoint: str, outcome: _Outcome) -> None:
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # others of its loggers show values of headers
    log, handler = logging.getLogger(OTLPSpanExporter.__module__), _ErrorsOfExporter(outcome.errors)
    log.setLevel(logging.WARNING)
    log.propagate = False  # it logs each attempt
    log.addHandler(handler)
    try:
        if OTLPSpanExporter(endpoint, timeout=EXPORT_SECONDS).export(spans) is SpanExportResult.SUCCESS:
            outcome.received = True
    except Exception as error:  # noqa: BLE001 - a variable of the exporter that it does not accept, for example
        outcome.errors.append(str(error))
    finally:
        log.removeHandler(handler)


def _wait(exporting: Thread, outcome: _Outcome, run_id: str, endpoint: str, log: logging.Logger) -> None:
    exporting.join(EXPORT_SECONDS)
    if not outcome.received:
        reason = f": {outcome.errors[0]}" if outcome.errors else f" within {EXPORT_SECONDS:g} s"
        log.warning(event("trace_not_exported", run_id=run_id, reason=f"{endpoint} did not take it{reason}"))


def _spans(run: dg.DagsterRun, events: Sequence[dg.EventLogEntry]) -> Sequence[ReadableSpan]:
    memory, attempts = InMemorySpanExporter(), list(_attempts(events))
    provider = TracerProvider(resource=_resource(), id_generator=_TraceId(run.run_id), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(memory))
    tracer = provider.get_tracer("viewer_pipeline")
    begin, end = min(each.started_ns for each in attempts), max(each.ended_ns for each in attempts)
    root = tracer.start_span(run.job_name, start_time=begin, attributes=_attributes(run, events))
    for attempt in attempts:
        context = set_span_in_context(root)
        span = tracer.start_span(attempt.step.rpartition(".")[2], context, start_time=attempt.started_ns)
        span.set_attribute("step", attempt.step)
        _end(span, attempt)
    _end(root, attempts[-1]._replace(ended_ns=end))
    return memory.get_finished_spans()


def _resource() -> Resource:
    """Return what the environment says of this service, with a name."""
    resource = Resource.create()
    unnamed = str(resource.attributes[SERVICE_NAME]).startswith("unknown_service")
    return resource.merge(Resource({SERVICE_NAME: SERVICE})) if unnamed else resource


def _end(span: Span, attempt: _Attempt) -> None:
    if attempt.error:
        span.set_status(StatusCode.ERROR, attempt.error)
    span.end(attempt.ended_ns)


def _attempts(events: Sequence[dg.EventLogEntry]) -> Iterator[_Attempt]:
    started = dict[str, int]()
    for entry in events:
        if entry.step_key is None or entry.dagster_event is None:
            continue
        time_ns, kind = int(entry.timestamp * 1e9), entry.dagster_event.event_type
        if kind in BEGINS:
            started[entry.step_key] = time_ns
        elif kind in ENDS:
            error = getattr(entry.dagster_event.event_specific_data, "error", None) if kind in FAILS else None
            reason = redact_text(own_or_innermost_error(error)) if error else ""
            yield _Attempt(entry.step_key, started.pop(entry.step_key), time_ns, reason)


def _attributes(run: dg.DagsterRun, events: Sequence[dg.EventLogEntry]) -> dict[str, Any]:
    """Return the attributes of the root span, named as the fields of log lines."""
    attributes = {"run_id": run.run_id, "job": run.job_name, "mode": flush_mode_of(run.run_config)}
    attributes["trigger"] = redact_text(trigger_of_run_tags(run.tags))
    for entry in events:
        if entry.asset_materialization is not None:
            stats: Any = entry.asset_materialization.metadata["details"].value
            attributes |= {ours: stats[name] for name, ours in STATS.items()}
    return attributes
