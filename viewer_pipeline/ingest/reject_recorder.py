"""Rejected messages on their way to PostgreSQL: all are counted, a few of each reason are stored as examples.

Each worker receives them all. So they are counted by segment, as views are: the worker that holds the lease writes the
numbers, the others keep those of the last segments, for the case that they take over.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, defaultdict
from dataclasses import replace
from itertools import groupby
from operator import attrgetter

from viewer_pipeline.errors import ViewerPipelineError
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.rejected_counts import RejectedSegment, count_rejected_messages
from viewer_pipeline.flush.rejects import Reject, record_message_rejects
from viewer_pipeline.logs import event

log = logging.getLogger("viewer_pipeline.rejections")

# Hostile input must not fill the database: a bound for all workers together, also over restarts.
MAX_ROWS_PER_REASON = 100
MAX_SEGMENTS = 1000  # kept by a worker that stands by: at least 50 s
WRITE_SECONDS = 1.0


class RejectRecorder:
    """Takes rejects from the subscriber without making it wait, and records them on a thread of its own."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._lock = threading.Lock()
        self._waiting: list[Reject] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rejections", daemon=True)
        self._examples: defaultdict[str, set[bytes]] = defaultdict(set)  # digests by reason
        self._last_subjects = dict[str, str]()  # by reason
        self._open: Counter[str] = Counter()  # since the last cut
        self._segments: list[RejectedSegment] = []
        self._is_holder = False
        self._last_cut = ("", 0)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Record what is waiting, once, and end the thread."""
        with self._lock:
            channel, number = self._last_cut
            self._close_segment(channel, number + 1)
        self._stop.set()
        self._thread.join(timeout=10)

    def count_and_queue(self, reject: Reject, messages: int = 1) -> None:
        """Count so many equal messages, and queue one of them as an example if it is among the first of its reason."""
        with self._lock:
            self._open[reject.reason] += messages
            self._last_subjects[reject.reason] = reject.subject
            examples = self._examples[reject.reason]
            if len(examples) < MAX_ROWS_PER_REASON and reject.digest not in examples:
                examples.add(reject.digest)
                self._waiting.append(reject)

    def on_cut(self, cuts_channel: str, number: int, *, is_holder: bool) -> None:
        """End the segment with the number of a cut, which all workers receive at the same place between messages."""
        with self._lock:
            self._is_holder, self._last_cut = is_holder, (cuts_channel, number)
            self._close_segment(cuts_channel, number)

    def on_connection_lost(self, *, is_holder: bool) -> None:
        """Discard messages without a number, unless no other worker counts them."""
        with self._lock:
            if not is_holder:
                self._open.clear()

    def _run(self) -> None:
        while not self._stop.wait(WRITE_SECONDS):
            self._write()
        self._write()

    def _close_segment(self, cuts_channel: str, number: int) -> None:
        if not self._open:
            return
        self._segments.append(RejectedSegment(cuts_channel, number, self._open))
        self._open = Counter()
        if len(self._segments) > MAX_SEGMENTS:
            oldest = self._segments.pop(0)
            if self._is_holder:  # PostgreSQL does not answer
                self._segments[0] = replace(self._segments[0], messages=self._segments[0].messages + oldest.messages)

    def _write(self) -> None:
        with self._lock:
            rejects, self._waiting = self._waiting, []
            segments = list(self._segments) if self._is_holder else []
        if not rejects and not segments:
            return
        try:
            with self._ledger.connect() as connection:
                record_message_rejects(connection, rejects, MAX_ROWS_PER_REASON)
                for _, of_key_space in groupby(segments, key=attrgetter("cuts_channel")):
                    count_rejected_messages(connection, list(of_key_space))
        except ViewerPipelineError as error:
            log.warning(event("rejected_messages_not_recorded", examples=len(rejects), reason=error))
            with self._lock:
                self._waiting = rejects + self._waiting
            return
        written = set(map(id, segments))
        with self._lock:
            self._segments = [segment for segment in self._segments if id(segment) not in written]
        for reason, number in sum((segment.messages for segment in segments), Counter[str]()).items():
            log.warning(event("messages_rejected", messages=number, reason=reason, example=self._last_subjects[reason]))
