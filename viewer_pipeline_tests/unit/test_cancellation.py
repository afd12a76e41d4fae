"""A signal during a statement is handled between two statements, once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from viewer_pipeline.errors import PostgresUnavailable
from viewer_pipeline.stores.cancellation_between_statements import (
    SIGNALS,
    cancel_between_statements,
    raise_if_canceled,
)


class Canceled(BaseException):
    """Raised by the signal handler, as Dagster's does."""


@pytest.fixture(autouse=True)
def _handlers_that_raise() -> Iterator[None]:
    def cancel(*_: object) -> None:
        raise Canceled

    before = {number: signal.signal(number, cancel) for number in SIGNALS}
    yield
    handlers = {number: signal.signal(number, handler) for number, handler in before.items()}
    assert set(handlers.values()) == {cancel}, "the handlers are restored"


@pytest.mark.parametrize("number", SIGNALS)
def test_signal_during_a_statement(number: signal.Signals) -> None:
    """The statement ends, the next one does not begin."""
    ended = []

    @cancel_between_statements()
    def run() -> None:
        raise_if_canceled()
        signal.raise_signal(number)
        ended.append("statement")
        raise_if_canceled()
        ended.append("next statement")

    with pytest.raises(Canceled):
        run()
    assert ended == ["statement"]


def test_rollback_and_cleanup_are_not_canceled() -> None:
    """One signal is raised once; a second one at once."""
    ended = []

    @cancel_between_statements()
    def run() -> None:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(Canceled):
            raise_if_canceled()
        raise_if_canceled()
        ended.append("cleanup")
        signal.raise_signal(signal.SIGINT)
        ended.append("second signal")

    with pytest.raises(Canceled):
        run()
    assert ended == ["cleanup"]


def test_signal_after_the_last_statement() -> None:
    """It is raised at the end."""
    with pytest.raises(Canceled), cancel_between_statements():
        signal.raise_signal(signal.SIGTERM)


def test_signal_and_error_of_the_same_statement() -> None:
    """The cancellation wins: the error would be retried."""

    @cancel_between_statements()
    def run() -> None:
        signal.raise_signal(signal.SIGINT)
        raise PostgresUnavailable("gone")

    with pytest.raises(Canceled):
        run()


def test_other_threads_are_not_canceled() -> None:
    """What a thread of the run has begun, it completes."""
    completed = []

    @cancel_between_statements()
    def of_thread() -> None:
        raise_if_canceled()
        completed.append("statement of a thread")

    @cancel_between_statements()
    def run() -> None:
        signal.raise_signal(signal.SIGINT)
        with ThreadPoolExecutor(1) as thread:
            thread.submit(of_thread).result()

    with pytest.raises(Canceled):
        run()
    assert completed == ["statement of a thread"]
