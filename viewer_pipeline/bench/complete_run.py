"""A complete run in a process of its own: what the steps of a flush call, without Dagster; with the time of each."""

from __future__ import annotations

import time
from dataclasses import astuple, dataclass
from itertools import pairwise

from viewer_pipeline.bench.bench_servers import BenchServers, read_peak_mb
from viewer_pipeline.bench.new_process import Call, call_in_new_process
from viewer_pipeline.flush.combined_report import combine_reports
from viewer_pipeline.flush.each_stream import (
    aggregate_each_stream,
    drain_each_stream,
    upsert_each_stream,
    verify_each_stream,
)
from viewer_pipeline.flush.flush_request import FlushRequest
from viewer_pipeline.flush.ledger_reads import last_reading
from viewer_pipeline.flush.most_viewed import most_viewed_vods
from viewer_pipeline.flush.recorded_settings import record_settings_in_redis
from viewer_pipeline.flush.rejected_counts import report_newly_rejected
from viewer_pipeline.flush.run_metrics import record_run
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.history.view_totals import read_view_totals
from viewer_pipeline.settings import Settings
from viewer_pipeline.target.parked_views import still_parked_of_flushes

TOP_VODS = 10


@dataclass(frozen=True)
class StepSeconds:
    """The durations of the steps of a run in their order, together the complete run; then those of two parts."""

    start: float  # of the process
    drain: float
    aggregate: float
    bulk_upsert: float
    verify: float
    top_vods: float
    other: float  # what the last step does besides: parked, rejected, totals, the run's metrics; and disconnecting
    commit: float  # the transactions of the bulk upsert
    settle: float  # beside them

    @property
    def flush(self) -> float:
        """From the begin of the first step until everything is settled and the totals are published."""
        return self.drain + self.aggregate + self.bulk_upsert

    @property
    def complete_run(self) -> float:
        """From the request for the process to the end of the last step."""
        return self.start + self.flush + self.verify + self.top_vods + self.other


@dataclass(frozen=True)
class CompleteRun:
    """One run, or several together."""

    seconds: StepSeconds
    cpu_seconds: float  # of the process, without its start
    peak_mb: float  # of the process; of several, the highest
    counters: int  # that were flushed
    processes: int = 1


def run_until_flushed(
    servers: BenchServers, request: FlushRequest, counters: int, call: Call = call_in_new_process
) -> CompleteRun:
    """Start one run after another, each in another process, until so many counters are flushed; return their sums."""
    runs = [_start_run(servers, request, call)]
    while sum(run.counters for run in runs) < counters:
        runs.append(_start_run(servers, request, call))
        assert runs[-1].counters, "no counter was left"
    seconds = StepSeconds(*map(sum, zip(*(astuple(run.seconds) for run in runs), strict=True)))
    cpu_seconds, peak_mb = sum(run.cpu_seconds for run in runs), max(run.peak_mb for run in runs)
    return CompleteRun(seconds, cpu_seconds, peak_mb, sum(run.counters for run in runs), len(runs))


def _start_run(servers: BenchServers, request: FlushRequest, call: Call) -> CompleteRun:
    run: CompleteRun = call(time_run, servers.settings, request, time.perf_counter())
    return run


def time_run(settings: Settings, request: FlushRequest, requested_at: float) -> CompleteRun:
    """Run once; return the duration of each step. `requested_at`: by the clock `time.perf_counter`."""
    times, cpu_before = [requested_at, time.perf_counter()], time.process_time()

    def end_step() -> None:
        times.append(time.perf_counter())

    with Stores.open(settings) as stores:
        snapshots = drain_each_stream(stores.of_each_stream(), request)
        record_settings_in_redis(stores.redis, settings)
        end_step()
        aggregates = aggregate_each_stream(snapshots)
        end_step()
        reports = upsert_each_stream(stores, snapshots, aggregates)
        report = combine_reports(reports)
        end_step()
        results = verify_each_stream(stores, reports)
        end_step()
        with stores.ledger.connect() as connection:
            most_viewed_vods(connection, report, TOP_VODS)
            end_step()
            still_parked_of_flushes(connection, report.seqs)
            report_newly_rejected(connection, request.run_id)
            read_view_totals(connection)
            last_reading(connection, snapshots[0].base)
        record_run(stores.ledger, report)
    end_step()
    assert all(result.passed for result in results), results
    seconds = [ended - began for began, ended in pairwise(times)] + [report.upsert_seconds, report.settle_seconds]
    return CompleteRun(StepSeconds(*seconds), time.process_time() - cpu_before, read_peak_mb(), report.counters)
