"""Step 4, verify: compare what was committed with what was intended. Reads only."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from viewer_pipeline.checks import CheckResult
from viewer_pipeline.flush.ledger_reads import batch_digests, find_totals_behind_their_flush
from viewer_pipeline.flush.ledger_row_types import BatchDigest, FlushRow
from viewer_pipeline.flush.marker import Marker
from viewer_pipeline.flush.run_notes import RunNotes
from viewer_pipeline.flush.run_report import CommittedFlush, RunReport
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.stores.chunks import chunks

CHECKS = ("ledger_equals_frame", "redis_is_settled", "totals_carry_the_flush", "no_drift")


def verify(stores: Stores, report: RunReport) -> list[CheckResult]:
    """Return one result for each name in CHECKS."""
    with stores.ledger.connect() as connection:
        digests = batch_digests(connection, report.seqs)
        behind = find_totals_behind_their_flush(connection, report.seqs)
    return [
        _ledger_equals_frame(report, digests),
        _redis_is_settled(stores.redis.marker(), report),
        CheckResult.of_rows(
            "totals_carry_the_flush",
            [f"{vod_id}: total of flush {last}, not {seq}" for seq, vod_id, last in behind],
            f"{report.counters} totals carry their flush" if not behind else "totals are behind their flush",
        ),
        CheckResult.of_rows(
            "no_drift", report.notes.drifted, _drift_message(report.notes), passed=report.notes.drift == 0
        ),
    ]


def _ledger_equals_frame(report: RunReport, digests: Sequence[BatchDigest]) -> CheckResult:
    """Compare each batch of this attempt; of recovered flushes, the sum of the batches with the flush."""
    size = report.snapshot.request.batch_size
    intended = {digest for committed in report.committed for digest in _digests(committed, size)}
    recovered = {flush.seq for flush in report.recovered}
    differing = intended ^ {digest for digest in digests if digest.seq not in recovered}
    failing = [f"flush {d.seq} batch {d.number}" for d in sorted(differing)]
    failing += [f"flush {flush.seq}" for flush in report.recovered if flush != _sum_batches(flush.seq, digests)]
    message = f"{report.batches} batches, {report.counters} counters, {report.views} views"
    if recovered:
        message += f"; flushes {sorted(recovered)} were committed by an earlier attempt of the step"
    return CheckResult.of_rows("ledger_equals_frame", failing, message)


def _sum_batches(seq: int, digests: Sequence[BatchDigest]) -> FlushRow:
    batches = [digest for digest in digests if digest.seq == seq]
    return FlushRow(seq, sum(d.counters for d in batches), sum(d.views for d in batches), len(batches))


def _digests(committed: CommittedFlush, batch_size: int) -> Iterator[BatchDigest]:
    """Digest the frame again, so that a fault in cutting or copying batches shows."""
    rows = zip(committed.frame["vod_id"].tolist(), committed.frame["delta"].tolist(), strict=True)
    for number, batch in enumerate(chunks(rows, batch_size), 1):
        text = "\n".join(f"{vod_id}\x1f{delta}" for vod_id, delta in batch)
        sha256 = hashlib.sha256(text.encode()).digest()
        yield BatchDigest(committed.flush.seq, number, len(batch), sum(delta for _, delta in batch), sha256)


def _drift_message(notes: RunNotes) -> str:
    message = f"drift is {notes.drift} views"
    return f"{message}; of {notes.settled_already} batches it is not known" if notes.settled_already else message


def _redis_is_settled(marker: Marker | None, report: RunReport) -> CheckResult:
    if not report.flushes:
        return CheckResult("redis_is_settled", "healthy", "nothing was committed, nothing to settle")
    last = report.flushes[-1]
    settled = marker is not None and (marker.seq, marker.batch) >= (last.seq, last.batches)
    failing = [] if settled else [f"marker {marker}, flush {last.seq} has {last.batches} batches"]
    return CheckResult.of_rows("redis_is_settled", failing, f"settled through flush {last.seq}")
