"""Which signals begin a stop, and which mean "at once"."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from signal import SIGALRM, SIGHUP, SIGINT, SIGTERM

import pytest

from viewer_pipeline import stop_signals
from viewer_pipeline.stop_signals import BURST_SECONDS, StopRequest, install_stop_signal_handlers

LATER = BURST_SECONDS + 1
REQUESTS = 1000


class Clock:
    """The clock that tells a burst from a second request."""

    def __init__(self) -> None:
        self.now = time.monotonic()

    def monotonic(self) -> float:
        """Return the time."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    """A clock that stands still; and the handlers of the test's own process, put back at the end."""
    before = {number: signal.getsignal(number) for number in (SIGHUP, SIGINT, SIGTERM)}
    clock = Clock()
    monkeypatch.setattr(stop_signals, "time", clock)
    monkeypatch.setattr(stop_signals, "limit_write_waits", lambda: None)
    yield clock
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("sent", "done"),
    [
        pytest.param([(SIGTERM, 0)], ["begin 15"], id="once"),
        pytest.param([(SIGTERM, 0), (SIGTERM, LATER)], ["begin 15", "at once 15"], id="asked twice"),
        pytest.param([(SIGINT, 0), (SIGTERM, LATER)], ["begin 2", "at once 15"], id="Ctrl-C, then kill"),
        pytest.param([(SIGTERM, 0), (SIGTERM, 0.1), (SIGINT, 0.1)], ["begin 15"], id="a burst"),
        pytest.param([(SIGHUP, 0), (SIGHUP, 0), (SIGHUP, LATER)], ["begin 1"], id="kernel and shell"),
        pytest.param([(SIGTERM, 0), (SIGHUP, LATER)], ["begin 15"], id="a terminal that is closed meanwhile"),
        pytest.param([(SIGHUP, 0), (SIGTERM, LATER)], ["begin 1"], id="the end of the session behind the terminal"),
        pytest.param(
            [(SIGHUP, 0), (SIGTERM, LATER), (SIGTERM, LATER)], ["begin 1", "at once 15"], id="asked twice after that"
        ),
    ],
)
def test_stop_signals_begin_a_stop_or_exit(clock: Clock, sent: list[tuple[int, float]], done: list[str]) -> None:
    """SIGHUP begins a stop and is no request; requests in a burst count as one."""
    calls: list[str] = []
    signal.signal(SIGHUP, signal.SIG_DFL)
    install_stop_signal_handlers(
        lambda number: calls.append(f"begin {number}"), lambda number: calls.append(f"at once {number}")
    )
    for number, seconds in sent:
        clock.now += seconds
        signal.raise_signal(number)
    assert calls == done


def test_ignored_sighup_stays_ignored(clock: Clock) -> None:
    """A SIGHUP that was ignored at the start, as under nohup, does nothing."""
    signal.signal(SIGHUP, signal.SIG_IGN)
    calls: list[int] = []
    install_stop_signal_handlers(calls.append, calls.append)
    signal.raise_signal(SIGHUP)
    clock.now += LATER
    signal.raise_signal(SIGHUP)
    assert calls == []
    signal.raise_signal(SIGTERM)
    assert calls == [SIGTERM]


def test_stop_request_wakes_a_wait_at_any_moment() -> None:
    """The handler runs on the thread that waits: with an Event, it would soon wait for itself for ever."""
    moments = random.Random(13)
    for _ in range(REQUESTS):
        request = StopRequest()
        with alarms(request):
            signal.setitimer(signal.ITIMER_REAL, moments.uniform(1e-5, 4e-4))
            while not request.wait(5e-5):
                pass
        assert request.is_set()
        assert request.wait(LATER)


@contextmanager
def alarms(request: StopRequest) -> Iterator[None]:
    """Let an alarm set a request."""
    before = signal.signal(SIGALRM, lambda _number, _frame: request.set())
    try:
        yield
    finally:
        signal.signal(SIGALRM, before)
