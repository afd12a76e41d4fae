"""A question that hangs, fails, or is asked too often."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from viewer_pipeline.errors import RedisUnavailable
from viewer_pipeline.monitoring import background_probe as question
from viewer_pipeline.monitoring.background_probe import Answer, Question
from viewer_pipeline.monitoring.checks import Check, Checks, Result, Results, State, worst
from viewer_pipeline_tests.support.waiting import wait_until


@contextmanager
def asked(find: Callable[[], int]) -> Iterator[Question[int]]:
    """A question whose thread runs."""
    one = Question("test", find)
    one.start()
    try:
        yield one
    finally:
        one.close()


def ask(one: Question[int], seconds: float) -> Answer[int]:
    """Ask and wait."""
    one.ask()
    return one.answer(seconds)


def test_a_hanging_call_is_never_piled_up() -> None:
    """Asked three times, called once; the silence is told with its length; the answer comes when the server goes on."""
    calls: list[int] = []
    go_on = threading.Event()

    def find() -> int:
        calls.append(1)
        go_on.wait(30)
        return 7

    with asked(find) as one:
        for _ in range(3):
            assert ask(one, 0.1).why_none.startswith("no answer for ")
        assert len(calls) == 1
        go_on.set()
        assert one.answer(30) == Answer(7)


def test_silence_is_awaited_once() -> None:
    """Whoever asks while a call has had its time already is told at once."""
    go_on = threading.Event()
    with asked(lambda: int(go_on.wait(60))) as one:
        assert ask(one, 2).why_none.startswith("no answer for ")
        for _ in range(100):  # would take minutes otherwise
            assert ask(one, 2).why_none.startswith("no answer for ")
        go_on.set()


def test_a_young_answer_serves_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked at once again, nobody is called; later, somebody is."""
    calls = iter(range(10))
    with asked(lambda: next(calls)) as one:
        monkeypatch.setattr(question, "REUSED_SECONDS", 3600)
        assert [ask(one, 30), ask(one, 30)] == [Answer(0), Answer(0)]
        monkeypatch.setattr(question, "REUSED_SECONDS", 0)
        assert ask(one, 30) == Answer(1)


def test_errors_are_told_without_password(caplog: pytest.LogCaptureFixture) -> None:
    """Ours in their words, a fault of the program by its type only; its insides go to the log."""

    def unreachable() -> int:
        raise RedisUnavailable("redis://me:hid:den@host:1/0: refused")

    def faulty() -> int:
        raise KeyError("hidden")

    with asked(unreachable) as one:
        assert ask(one, 30) == Answer(None, "Redis does not answer: redis://me:***@host:1/0: refused")
    with asked(faulty) as one:
        assert ask(one, 30) == Answer(None, "could not be found out (KeyError); see the worker's log")
    assert "hidden" in caplog.text


def test_close_ends_the_thread() -> None:
    """It does not outlive the server it belongs to."""
    with asked(lambda: 1) as one:
        assert one._thread.is_alive()
    wait_until(lambda: not one._thread.is_alive(), 30, "the thread ended")


def test_checks_side_by_side_each_with_its_limit() -> None:
    """What hangs is unhealthy under all its names after its own limit; the others are what they are."""
    go_on = threading.Event()

    def hangs() -> Results:
        go_on.wait(30)
        return {}

    both = Checks([Check(("a", "b"), hangs, seconds=0.1), Check(("c",), lambda: {"c": Result("degraded", "so so")})])
    both.start()
    found = both.results()
    go_on.set()
    both.close()
    assert {name: result.state for name, result in found.items()} == {
        "a": "unhealthy",
        "b": "unhealthy",
        "c": "degraded",
    }
    assert found["a"].said.startswith("no answer for ")
    assert found["c"].said == "so so"


@pytest.mark.parametrize(
    ("states", "whole"),
    [([], "healthy"), (["healthy"], "healthy"), (["healthy", "degraded"], "degraded"),
     (["unhealthy", "degraded"], "unhealthy")],
)  # fmt: skip
def test_worst(states: list[State], whole: State) -> None:
    """The whole is as bad as its worst part."""
    results = {str(number): Result(state, "") for number, state in enumerate(states)}
    assert worst(results) == whole
