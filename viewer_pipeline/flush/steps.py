"""The flush protocol: drain, aggregate, bulk upsert, verify. Rules R1 to R11 are told in docs/flush-protocol.md.

PostgreSQL's ledger is the only record of what was counted. Redis is reduced only by what the ledger already holds, and
remembers how far that reduction got (the marker) in the same script that does it. So a run may die at any point,
be repeated, or run beside another one: the next run settles what is left and goes on.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID, uuid4

import pandas as pd
import psycopg

from viewer_pipeline.checks import CheckResult
from viewer_pipeline.errors import MarkerMoved
from viewer_pipeline.flush.aggregate import Aggregate, aggregate, slices
from viewer_pipeline.flush.findings import Findings
from viewer_pipeline.flush.incidents import record_incidents
from viewer_pipeline.flush.ledger import (
    Batch,
    BatchDigest,
    Flush,
    HeldFlush,
    LastFlush,
    Ledger,
    batch_digests,
    flushes_of_run,
    last_flush,
    record_rejects,
    totals_behind,
)
from viewer_pipeline.flush.ownership import check_history
from viewer_pipeline.flush.readings import Readings, Reject
from viewer_pipeline.flush.redis_store import READ_COUNT, Marker, RedisStore
from viewer_pipeline.flush.settle import Settler, settle_through
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.stores.chunks import chunks
from viewer_pipeline.target.parked import NO_VIEWS, ParkedViews, count_ready, prune_parked

Mode = Literal["changed", "sweep", "ids"]

SUPERSEDED_TRIES = 3  # how often a run drains again because another one committed first


@dataclass(frozen=True)
class Request:
    """What one run is to do."""

    run_id: str
    mode: Mode = "sweep"
    vod_ids: tuple[str, ...] = ()
    batch_size: int = 100
    flush_max_counters: int = 10_000
    parked_retention_days: int | None = None


@dataclass(frozen=True)
class Snapshot:
    """The counters as they were read once everything up to flush `base` was settled."""

    request: Request
    base: int
    after: UUID | None  # the newest flush of the ledger by then
    marker: Marker
    readings: Readings
    taken_at: datetime
    oldest: datetime | None  # when the oldest pending VOD was announced
    asked: bytes | None  # the request for a sweep that this one fulfils
    findings: Findings
    seconds: float


@dataclass(frozen=True)
class Counted:
    """A committed and settled flush with the rows of the frame that it took."""

    flush: Flush
    frame: pd.DataFrame


@dataclass(frozen=True)
class Persisted:
    """What a run committed. `left_over`: another run kept committing first, the next run takes the rest."""

    snapshot: Snapshot
    counted: list[Counted]  # by this attempt of the step
    found: list[HeldFlush]  # in the ledger: committed by an earlier attempt of the same step, which then failed
    rejects: list[Reject]
    findings: Findings
    left_over: bool
    aggregate_seconds: float
    upsert_seconds: float
    settle_seconds: float
    unparked: ParkedViews = NO_VIEWS  # parked views that could be counted now

    @property
    def flushes(self) -> list[HeldFlush]:
        """All flushes, in order."""
        new = (c.flush for c in self.counted)
        return sorted([*self.found, *(HeldFlush(f.seq, f.counters, f.views, len(f.batches)) for f in new)])

    @property
    def counters(self) -> int:
        """Counters that were persisted."""
        return sum(flush.counters for flush in self.flushes)

    @property
    def views(self) -> int:
        """Views that were persisted."""
        return sum(flush.views for flush in self.flushes)

    @property
    def batches(self) -> int:
        """Batches that were committed."""
        return sum(flush.batches for flush in self.flushes)

    @property
    def seqs(self) -> list[int]:
        """The numbers of the flushes, in order."""
        return [flush.seq for flush in self.flushes]


CHECKS = ("ledger_equals_frame", "redis_is_settled", "totals_carry_the_flush", "no_drift")


# --- drain ----------------------------------------------------------------------------------------------------------


def drain(stores: Stores, request: Request) -> Snapshot:
    """Settle what earlier runs left, then read the counters.

    Writes nothing but the marker. `base` is fixed, and everything up to it settled, before the first counter is read
    (rules R3, R6); Redis has accepted a write before anything can be committed (R11), and has made durable what was
    read where that is asked for (R7). All of it on one connection.
    """
    for _ in range(SUPERSEDED_TRIES):
        if snapshot := _drain_once(stores, request):
            return snapshot
    raise MarkerMoved("Redis was emptied or fell back while its counters were read, again and again")


def _drain_once(stores: Stores, request: Request) -> Snapshot | None:
    """Drain; None where what was read is worth nothing, because Redis was emptied or fell back meanwhile.

    The counters may then have views that nothing of this run's can be subtracted from: committed, they would count
    twice.
    """
    started = time.perf_counter()
    findings = Findings()
    with stores.redis.one_server() as redis:
        with stores.ledger.connect() as connection:
            stores.ledger.target(connection)  # before anything is written: a table that cannot be used
            last, marker = _begin(redis, stores.ledger, connection, request.run_id, findings)
            base = max(last.seq, marker.seq)
            marker, findings.settled_before = settle_through(redis, connection, marker, last.seq, findings)
            record_incidents(connection, findings, request.run_id)
        _, oldest = stores.redis.pending()
        asked = stores.redis.asked_sweep() if request.mode == "sweep" else None
        readings = redis.read(_candidates(stores.redis, request))
        now = redis.confirm(request.run_id, marker, findings.redis_was_emptied)
    if now is None or (now.epoch, now.ledger) != (marker.epoch, marker.ledger) or now[:2] < marker[:2]:
        return None
    taken_at, seconds = stores.redis.now(), time.perf_counter() - started
    return Snapshot(request, base, last.flush_id, marker, readings, taken_at, oldest, asked, findings, seconds)


def _begin(
    redis: RedisStore, ledger: Ledger, connection: psycopg.Connection, run_id: str, findings: Findings
) -> tuple[LastFlush, Marker]:
    identity = ledger.identity(connection)
    last = last_flush(connection)
    while True:
        made, marker = redis.begin(run_id, last, identity)
        check_history(connection, marker, identity.place, last)
        findings.redis_was_emptied |= made and last.seq > 0
        if marker.seq <= last.seq:
            return last, marker
        again = last_flush(connection)
        if again.seq <= last.seq:
            findings.postgres_was_rolled_back = True
            return last, marker._replace(missing=(last.seq, marker.seq))
        last = again  # another run went on in between: start over


def _candidates(redis: RedisStore, request: Request) -> Iterable[list[bytes]]:
    match request.mode:
        case "ids":
            return [[vod_id.encode() for vod_id in some] for some in chunks(request.vod_ids, READ_COUNT)]
        case "changed":
            return redis.changed()
        case "sweep":
            return redis.swept()


# --- bulk upsert ----------------------------------------------------------------------------------------------------


def bulk_upsert(stores: Stores, snapshot: Snapshot, aggregated: Aggregate) -> Persisted:
    """Commit the frame flush by flush, and settle each.

    Where another run committed since `base` was fixed, the snapshot is worth nothing: it is dropped and drained again,
    a bounded number of times. The counters are all still there. So it is where an earlier attempt of this step, with
    the same snapshot, committed before it failed: what it committed is reported with the rest.
    """
    request, base, findings = snapshot.request, snapshot.base, snapshot.findings
    counted = list[Counted]()
    upsert_seconds = settle_seconds = 0.0
    with stores.ledger.connect() as connection:
        if flushes_of_run(connection, request.run_id, base):
            snapshot, aggregated = _drain_again(stores, request, findings)
        for _ in range(SUPERSEDED_TRIES):
            # Not in the flush's transaction: no row need be locked for it.
            record_rejects(connection, aggregated.rejects)
            with Settler(stores.redis, stores.ledger, snapshot.marker, findings) as settler:
                new, complete, seconds = _commit_all(stores.ledger, connection, snapshot, aggregated, settler)
            counted += new
            upsert_seconds += seconds
            settle_seconds += settler.seconds
            if complete:
                break
            findings.superseded += 1
            snapshot, aggregated = _drain_again(stores, request, findings)
    with stores.ledger.connect() as connection:  # anew: the other may have gone with the answer of the last COMMIT
        record_incidents(connection, findings, request.run_id)
        committed = {c.flush.seq for c in counted}
        found = [held for held in flushes_of_run(connection, request.run_id, base) if held.seq not in committed]
        unparked = _look_after_parked(stores.ledger, connection, request)
    stores.redis.forget(snapshot.marker.ledger, aggregated.idle, aggregated.rejected)
    if complete:
        stores.redis.sweep_done(snapshot.asked, snapshot.marker.ledger)
    return Persisted(
        snapshot,
        counted,
        found,
        aggregated.rejects,
        findings,
        left_over=not complete,
        aggregate_seconds=aggregated.seconds,
        upsert_seconds=upsert_seconds,
        settle_seconds=settle_seconds,
        unparked=unparked,
    )


def _look_after_parked(ledger: Ledger, connection: psycopg.Connection, request: Request) -> ParkedViews:
    """In a sweep, count parked views whose rows are there by now, and give up those that waited too long."""
    target = ledger.target(connection)
    if target is None or request.mode != "sweep":
        return NO_VIEWS
    unparked = count_ready(connection, target)
    if request.parked_retention_days is not None:
        prune_parked(connection, target, request.parked_retention_days)
    return unparked


def _drain_again(stores: Stores, request: Request, findings: Findings) -> tuple[Snapshot, Aggregate]:
    snapshot = drain(stores, request)
    findings.add(snapshot.findings)
    return snapshot, aggregate(snapshot.readings)


def _commit_all(
    ledger: Ledger, connection: psycopg.Connection, snapshot: Snapshot, aggregated: Aggregate, settler: Settler
) -> tuple[list[Counted], bool, float]:
    """Commit every slice, each settled beside the next; False as soon as another run was first."""
    counted, flush_seconds = list[Counted](), settler.findings.flush_seconds
    base, after, seconds = snapshot.base, snapshot.after, 0.0
    for rows in slices(aggregated.frame, snapshot.request.flush_max_counters):
        started = time.perf_counter()
        flush = _flush_of(snapshot, base, after, rows)
        try:
            totals = ledger.commit(connection, flush)
        finally:  # also where the answer was lost: the next attempt may find the flush in the ledger
            flush_seconds[flush.seq] = time.perf_counter() - started
            seconds += flush_seconds[flush.seq]
        if totals is None:
            return counted, False, seconds
        counted.append(Counted(flush, rows))
        settler.add(flush, totals)
        base, after = flush.seq, flush.flush_id
    return counted, True, seconds


def _flush_of(snapshot: Snapshot, base: int, after: UUID | None, rows: pd.DataFrame) -> Flush:
    request, seq, epoch, flush_id = snapshot.request, base + 1, snapshot.marker.epoch, uuid4()
    ids, deltas, size = rows["vod_id"].tolist(), rows["delta"].tolist(), request.batch_size
    starts, known = range(0, len(ids), size), (epoch, str(flush_id))
    batches = [
        Batch(seq, number, len(starts), snapshot.taken_at, ids[at : at + size], deltas[at : at + size], *known)
        for number, at in enumerate(starts, 1)
    ]
    return Flush(seq, base, flush_id, request.run_id, request.mode, snapshot.taken_at, batches, after, epoch)


# --- verify ---------------------------------------------------------------------------------------------------------


def verify(stores: Stores, persisted: Persisted) -> list[CheckResult]:
    """Compare what was committed with what was meant, one result for each name in CHECKS. Reads only."""
    with stores.ledger.connect() as connection:
        held = batch_digests(connection, persisted.seqs)
        behind = totals_behind(connection, persisted.seqs)
    return [
        _ledger_equals_frame(persisted, held),
        _redis_is_settled(stores.redis.marker(), persisted),
        CheckResult.of_rows(
            "totals_carry_the_flush",
            [f"{vod_id}: total of flush {last}, not {seq}" for seq, vod_id, last in behind],
            f"{persisted.counters} totals carry their flush" if not behind else "totals are behind their flush",
        ),
        CheckResult.of_rows(
            "no_drift",
            persisted.findings.drifted,
            _drift_message(persisted.findings),
            passed=persisted.findings.drift == 0,
        ),
    ]


def _ledger_equals_frame(persisted: Persisted, held: list[BatchDigest]) -> CheckResult:
    """Compare by batch what this attempt committed; of what was found, batches with the flush they belong to."""
    meant = [digest for counted in persisted.counted for digest in _digests(counted, persisted.snapshot.request)]
    found = {flush.seq for flush in persisted.found}
    differing = set(meant) ^ {digest for digest in held if digest.seq not in found}
    failing = [f"flush {d.seq} batch {d.number}" for d in sorted(differing)]
    failing += [f"flush {flush.seq}" for flush in persisted.found if flush != _added_up(flush.seq, held)]
    message = f"{persisted.batches} batches, {persisted.counters} counters, {persisted.views} views"
    if found:
        message += f"; flushes {sorted(found)} were found in the ledger, committed by an earlier attempt of the step"
    return CheckResult.of_rows("ledger_equals_frame", failing, message)


def _added_up(seq: int, held: list[BatchDigest]) -> HeldFlush:
    digests = [digest for digest in held if digest.seq == seq]
    return HeldFlush(seq, sum(d.counters for d in digests), sum(d.views for d in digests), len(digests))


def _digests(counted: Counted, request: Request) -> Iterator[BatchDigest]:
    """Digest the frame anew, so that a fault in cutting or copying batches shows."""
    rows = zip(counted.frame["vod_id"].tolist(), counted.frame["delta"].tolist(), strict=True)
    for number, some in enumerate(chunks(rows, request.batch_size), 1):
        text = "\n".join(f"{vod_id}\x1f{delta}" for vod_id, delta in some)
        sha256 = hashlib.sha256(text.encode()).digest()
        yield BatchDigest(counted.flush.seq, number, len(some), sum(delta for _, delta in some), sha256)


def _drift_message(findings: Findings) -> str:
    message = f"drift is {findings.drift} views"
    return f"{message}; of {findings.settled_already} batches it is not known" if findings.settled_already else message


def _redis_is_settled(marker: Marker | None, persisted: Persisted) -> CheckResult:
    if not persisted.flushes:
        return CheckResult("redis_is_settled", "healthy", "nothing was committed, nothing is to be settled")
    last = persisted.flushes[-1]
    due = (last.seq, last.batches)
    settled = marker is not None and (marker.seq, marker.batch) >= due
    failing = [] if settled else [f"marker {marker}, flush {last.seq} has {last.batches} batches"]
    return CheckResult.of_rows("redis_is_settled", failing, f"settled up to flush {last.seq}")
