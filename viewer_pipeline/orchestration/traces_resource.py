"""The trace of a run as Dagster gets it: exported at the end of a run, if OTEL_EXPORTER_OTLP_ENDPOINT is set."""

from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module

import dagster as dg

from viewer_pipeline.orchestration.settings_resource import LOADED

TRACE_EXPORT = "viewer_pipeline.orchestration.trace_export"  # which imports OpenTelemetry

if LOADED.otel_exporter_otlp_endpoint:
    with suppress(ImportError):
        import_module(TRACE_EXPORT)  # once, in the process of which runs are forks


def _export_at_end(context: dg.InitResourceContext) -> Iterator[None]:
    yield
    endpoint = context.resources.settings.otel_exporter_otlp_endpoint
    if endpoint and context.instance and context.run:
        with suppress(ImportError):  # without the extra `otel`, which commands warn of
            import_module(TRACE_EXPORT).export_trace(context.instance, context.run, context.resources.settings)


traces_resource = dg.ResourceDefinition(
    _export_at_end,
    required_resource_keys={"settings"},
    description="Exports a span for the run and one for each of its steps, if OTEL_EXPORTER_OTLP_ENDPOINT is set.",
)
