"""Cancellation of a run between two statements: a statement under way, and the COMMIT after it, is never abandoned."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

SIGNALS = (signal.SIGINT, signal.SIGTERM)

# Threads that a run starts begin with the default: their work is completed.
_handle_pending_signal: ContextVar[Callable[[], None]] = ContextVar("handle_pending_signal", default=lambda: None)


def raise_if_canceled() -> None:
    """Call before each statement: raises what the signal handlers raise if one of SIGNALS came in the context below."""
    _handle_pending_signal.get()()


@contextmanager
def cancel_between_statements() -> Iterator[None]:
    """Delay the handlers of SIGNALS to the next call of `raise_if_canceled`, or to the end of this context.

    A second signal after that is handled at once. Has no effect on other threads than the main one, where Python
    handles signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pending = list[int]()
    handlers = {number: signal.getsignal(number) for number in SIGNALS}

    def restore_handlers() -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)

    def handle_pending_signal() -> None:
        if pending:
            number = pending[0]
            restore_handlers()
            pending.clear()
            signal.raise_signal(number)

    for number in SIGNALS:
        signal.signal(number, lambda received, _frame: pending.append(received))
    token = _handle_pending_signal.set(handle_pending_signal)
    try:
        yield
    finally:
        _handle_pending_signal.reset(token)
        restore_handlers()
        handle_pending_signal()
