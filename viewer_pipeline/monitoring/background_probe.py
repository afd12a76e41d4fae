"""A question to a server that may never answer: asked on a thread of its own, awaited for as long as one likes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from viewer_pipeline.errors import ViewerPipelineError
from viewer_pipeline.logs import event
from viewer_pipeline.redaction import without_password

log = logging.getLogger("viewer_pipeline.question")

REUSED_SECONDS = 0.5  # an answer younger than this serves again: bounds what a flood of requests costs the servers

T = TypeVar("T")


@dataclass(frozen=True)
class Answer(Generic[T]):
    """What came back: a value, or None and why there is none, in words without a password."""

    value: T | None
    why_none: str = ""


class Question(Generic[T]):
    """At most one call of `find` is under way, however often it is asked: a server that hangs piles nothing up.

    A call that hangs is not cut off from here. It ends when its server goes on, when the connection breaks, or when its
    client gives up (postgres_client.ANSWER_SECONDS, probes.REDIS_SECONDS). The next call makes its own way there.
    """

    def __init__(self, name: str, find: Callable[[], T]) -> None:
        self.name = name
        self._find = find
        self._changed = threading.Condition()
        self._asked: float | None = None  # since when a call is under way
        self._answer: Answer[T] = Answer(None, "not asked yet")
        self._answered = float("-inf")
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=f"question {name}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """End the thread, once the call that is under way ends."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def ask(self) -> None:
        """Begin a call, unless one is under way or the last answer still serves."""
        with self._changed:
            now = time.monotonic()
            if self._asked is None and now - self._answered >= REUSED_SECONDS:
                self._asked = now
                self._changed.notify_all()

    def answer(self, seconds: float) -> Answer[T]:
        """Return the answer, or say that there is none once the call that is under way has had so long.

        A call that has had it before is not awaited again, so a server that hangs makes one request wait, not all.
        """
        with self._changed:
            if self._asked is not None:
                self._changed.wait_for(lambda: self._asked is None, max(0.0, self._asked + seconds - time.monotonic()))
            if self._asked is None:
                return self._answer
            return Answer(None, f"no answer for {time.monotonic() - self._asked:.1f} s")

    def _run(self) -> None:
        while self._await_question():
            answer = self._call()
            with self._changed:
                self._answer, self._answered, self._asked = answer, time.monotonic(), None
                self._changed.notify_all()

    def _await_question(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._asked is not None)
            return not self._closed

    def _call(self) -> Answer[T]:
        try:
            return Answer(self._find())
        except ViewerPipelineError as error:
            return Answer(None, without_password(str(error)))
        except Exception as error:  # a fault of ours must not silence the check, nor show its insides to the world
            log.exception(event("a question failed", name=self.name))
            return Answer(None, f"could not be found out ({type(error).__name__}); see the worker's log")


def ask_all(questions: list[Question[T]], seconds: float) -> list[Answer[T]]:
    """Ask them side by side, and wait at most so long for all together."""
    for question in questions:
        question.ask()
    return [question.answer(seconds) for question in questions]
