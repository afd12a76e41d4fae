"""The log line by which a flush is searched for."""

from logging import Logger

from viewer_pipeline.flush.rejected_counts import describe_rejected
from viewer_pipeline.flush.run_report import RunReport
from viewer_pipeline.logs import event
from viewer_pipeline.orchestration.flush_metadata import StateAfterRun


def log_committed(log: Logger, report: RunReport, state: StateAfterRun) -> None:
    """Log what a run committed and settled, in one line; `seq` is the last of its flushes."""
    rejected = sum(count.inputs for count in state.rejected)
    if rejected:
        log.warning(event("input_rejected", inputs=rejected, reasons=describe_rejected(state.rejected)))
    if not report.flushes:
        log.info(event("nothing_committed", mode=report.snapshot.request.mode))
        return
    log.info(
        event(
            "flush_committed",
            seq=report.seqs[-1],
            flushes=len(report.seqs),
            views=report.views,
            counters=report.counters,
            batches=report.batches,
            work_seconds=round(report.seconds, 3),
            rejected=rejected,
            parked=state.parked.views,
            held=report.held_views,
            remaining=report.remaining,
            mode=report.snapshot.request.mode,
        )
    )
