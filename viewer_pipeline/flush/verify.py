"""Step 4, verify: compare what was committed with what was intended. Reads only."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pandas as pd

from viewer_pipeline.checks import CheckResult
from viewer_pipeline.flush.ledger_reads import batch_digests, find_totals_behind_their_flush, sum_batches
from viewer_pipeline.flush.ledger_row_types import BatchDigest, FlushRow
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.flush.run_notes import RunNotes
from viewer_pipeline.flush.run_report import CommittedFlush, RunReport
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.text_formatting import pluralize

CHECKS = ("ledger_equals_frame", "redis_is_settled", "totals_carry_the_flush", "no_drift")


def verify(stores: Stores, report: RunReport) -> list[CheckResult]:
    """Return one result for each name in CHECKS. PostgreSQL reads the batches while this process digests the frame."""
    separator = choose_separator(committed.frame["vod_id"].tolist() for committed in report.committed)
    with ThreadPoolExecutor(1, "digests") as thread, stores.ledger.connect() as connection:
        intended = thread.submit(_digests, report, separator)
        digests = batch_digests(connection, [committed.flush.seq for committed in report.committed], separator)
        recovered = sum_batches(connection, [row.seq for row in report.recovered]) if report.recovered else []
        seqs = [flush.seq for flush in report.flushes if not flush.is_held]
        behind = find_totals_behind_their_flush(connection, seqs)
    return [
        _ledger_equals_frame(report, intended.result(), digests, recovered),
        _redis_is_settled(stores.redis, report),
        CheckResult.of_rows(
            "totals_carry_the_flush",
            [f"{vod_id}: total of flush {last}, not {seq}" for seq, vod_id, last in behind],
            f"all of {pluralize(report.counters, 'total')} carry their flush"
            if not behind
            else "totals are behind their flush",
        ),
        CheckResult.of_rows(
            "no_drift", report.notes.drifted, _drift_message(report.notes), passed=report.notes.drift == 0
        ),
    ]


def choose_separator(flushes: Iterable[Sequence[str]]) -> str:
    """Return a text that none of the ids of these flushes holds, so that only the same ids are joined to the same text.

    It cannot overlap itself either, because only its first character is a newline.
    """
    joined, separator = ["".join(vod_ids) for vod_ids in flushes], "\n"
    while any(separator in text for text in joined):
        separator = f"\n{uuid4()}"
    return separator


def _ledger_equals_frame(
    report: RunReport, intended: set[BatchDigest], digests: Sequence[BatchDigest], recovered: Sequence[FlushRow]
) -> CheckResult:
    """Compare each batch of this attempt; of recovered flushes, the sum of the batches with the flush."""
    failing = [f"flush {d.seq} batch {d.number}" for d in sorted(intended ^ {*digests})]
    failing += [f"flush {flush.seq}" for flush in report.recovered if flush not in recovered]
    message = ", ".join(
        (
            pluralize(report.batches, "batch"),
            pluralize(sum(flush.counters for flush in report.flushes), "counter"),
            pluralize(sum(flush.views for flush in report.flushes), "view"),
        )
    )
    if report.recovered:
        seqs = sorted(flush.seq for flush in report.recovered)
        message += f"; flushes {seqs} were committed by an earlier attempt of the step"
    return CheckResult.of_rows("ledger_equals_frame", failing, message)


def _digests(report: RunReport, separator: str) -> set[BatchDigest]:
    """Digest the frame again, so that a fault in cutting or copying batches shows."""
    cut = report.snapshot.batch_rows
    return {digest for committed in report.committed for digest in _digests_of_flush(committed, cut, separator)}


def _digests_of_flush(
    committed: CommittedFlush, cut: Callable[[pd.DataFrame], Sequence[slice]], separator: str
) -> Iterator[BatchDigest]:
    columns = committed.frame["vod_id"].tolist(), committed.frame["delta"].tolist()
    for number, rows in enumerate(cut(committed.frame), 1):
        vod_ids, deltas = (column[rows] for column in columns)
        text = separator.join([*vod_ids, " ".join(map(str, deltas))])
        yield BatchDigest(committed.flush.seq, number, len(vod_ids), hashlib.sha256(text.encode()).digest())


def _drift_message(notes: RunNotes) -> str:
    message = f"drift is {pluralize(notes.drift, 'view')}"
    return (
        f"{message}; of {pluralize(notes.settled_already, 'batch')} it is not known"
        if notes.settled_already
        else message
    )


def _redis_is_settled(redis: RedisStore, report: RunReport) -> CheckResult:
    if not report.flushes:
        return CheckResult("redis_is_settled", "healthy", "nothing was committed, nothing to settle")
    last = report.flushes[-1]
    failing = redis.find_unsettled(last, [committed.flush for committed in report.committed])
    return CheckResult.of_rows("redis_is_settled", failing, f"settled through flush {last.seq}")
