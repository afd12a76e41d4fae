"""Background probes that hang, fail, or are refreshed too often; and checks that run side by side."""

from __future__ import annotations

import threading
from typing import TypeVar

import pytest

from viewer_pipeline.checks import CheckResult, Status, worst_status
from viewer_pipeline.errors import RedisUnavailable
from viewer_pipeline.monitoring import bounded_probe
from viewer_pipeline.monitoring.bounded_probe import BoundedProbe, ProbeResult
from viewer_pipeline.monitoring.check_runner import CheckRunner, ProbedChecks
from viewer_pipeline_tests.support.check_results import by_name
from viewer_pipeline_tests.support.waiting import wait_until

T = TypeVar("T")


def refreshed(probe: BoundedProbe[T], seconds: float) -> ProbeResult[T]:
    """Refresh a probe and return its result."""
    probe.start_if_due()
    return probe.wait_for_result(seconds)


def test_probe_that_hangs_runs_once() -> None:
    """Three refreshes make one call; the error has its duration; the value comes when the server continues."""
    calls: list[int] = []
    server_continues = threading.Event()

    def read() -> int:
        calls.append(1)
        server_continues.wait(30)
        return 7

    probe = BoundedProbe("test", read)
    for _ in range(3):
        assert refreshed(probe, 0.1).error.startswith("no answer for ")
    assert len(calls) == 1
    server_continues.set()
    assert probe.wait_for_result(30) == ProbeResult(7)


def test_probe_that_hangs_is_waited_for_once() -> None:
    """A caller that comes after the time limit of the call gets the error at once."""
    server_continues = threading.Event()
    probe = BoundedProbe("test", lambda: server_continues.wait(60))
    for _ in range(100):  # would take minutes otherwise
        assert refreshed(probe, 2).error.startswith("no answer for ")
    server_continues.set()


def test_young_result_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within MIN_INTERVAL_SECONDS a refresh makes no call; later, it does."""
    calls = iter(range(10))
    probe = BoundedProbe("test", lambda: next(calls))
    monkeypatch.setattr(bounded_probe, "MIN_INTERVAL_SECONDS", 3600)
    assert [refreshed(probe, 30), refreshed(probe, 30)] == [ProbeResult(0), ProbeResult(0)]
    monkeypatch.setattr(bounded_probe, "MIN_INTERVAL_SECONDS", 0)
    assert refreshed(probe, 30) == ProbeResult(1)


def test_errors_have_no_password(caplog: pytest.LogCaptureFixture) -> None:
    """Errors of ours with their message; a bug by its type only, with its traceback in the log."""

    def unreachable() -> int:
        raise RedisUnavailable("redis://me:hid:den@host:1/0: refused")

    def faulty() -> int:
        raise KeyError("hidden")

    expected = ProbeResult[int](None, "Redis does not answer: redis://me:***@host:1/0: refused")
    assert refreshed(BoundedProbe("test", unreachable), 30) == expected
    expected = ProbeResult(None, "the probe failed (KeyError); see the log of this process")
    assert refreshed(BoundedProbe("test", faulty), 30) == expected
    assert "hidden" in caplog.text


def test_no_thread_waits_between_calls() -> None:
    """A call's thread ends with the call."""
    refreshed(BoundedProbe("waits for nothing", lambda: 1), 30)
    threads = [thread for thread in threading.enumerate() if thread.name == "probe waits for nothing"]
    wait_until(lambda: not any(thread.is_alive() for thread in threads), 30, "the thread ended")


def test_probe_without_a_thread_has_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that may not have more threads gets an error as the result, and tries again with the next call."""
    probe = BoundedProbe("test", lambda: "value")

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        probe.start_if_due()
        assert probe.wait_for_result(1) == ProbeResult(None, "the probe was not started: can't start new thread")
    probe.start_if_due()
    assert probe.wait_for_result(10) == ProbeResult("value")


def test_checks_run_side_by_side() -> None:
    """A probe that hangs makes its checks unhealthy after its own time limit; other checks have their results."""
    server_continues = threading.Event()

    def hangs() -> list[CheckResult]:
        server_continues.wait(30)
        return []

    checks = CheckRunner(
        [
            ProbedChecks(("a", "b"), hangs, seconds=0.1, remedy="start it"),
            ProbedChecks(("c",), lambda: [CheckResult("c", "degraded", "slow")], needs=("a",)),
        ]
    )
    results = by_name(checks.run_in_parallel())
    server_continues.set()
    assert {name: result.status for name, result in results.items()} == {
        "a": "unhealthy",
        "b": "unhealthy",
        "c": "degraded",
    }
    assert results["a"].message.startswith("no answer for ")
    assert results["b"].remedy == "start it"


def test_check_whose_precondition_failed_is_unknown() -> None:
    """Not if only another check failed; then it is unhealthy."""

    def refused() -> list[CheckResult]:
        raise RedisUnavailable("refused")

    checks = CheckRunner(
        [
            ProbedChecks(("redis",), lambda: [CheckResult("redis", "unhealthy", "a replica")], 30),
            ProbedChecks(("dependent",), refused, 30, needs=("redis",)),
            ProbedChecks(("independent",), refused, 30, needs=("postgres",)),
        ]
    )
    results = by_name(checks.run_in_parallel())
    assert (results["dependent"].status, results["independent"].status) == ("unknown", "unhealthy")
    assert results["dependent"].message == "not checked, because redis is unhealthy"


@pytest.mark.parametrize(
    ("statuses", "worst"),
    [
        ([], "healthy"),
        (["healthy"], "healthy"),
        (["healthy", "degraded"], "degraded"),
        (["unhealthy", "degraded"], "unhealthy"),
        (["unknown", "healthy"], "healthy"),
        (["unknown", "degraded"], "degraded"),
    ],
)
def test_worst_status(statuses: list[Status], worst: Status) -> None:
    """The whole is as bad as its worst check; unknown checks do not count."""
    assert worst_status(CheckResult("check", status, "") for status in statuses) == worst


def test_result_as_json_has_no_password() -> None:
    """Neither in the message nor in the remedy."""
    result = CheckResult(
        "redis", "unhealthy", "redis://me:s3cret@host:1 refused", {"a": 1}, "try postgres://you:pa55@x"
    )
    assert result.to_dict() == {
        "status": "unhealthy",
        "message": "redis://me:***@host:1 refused",
        "remedy": "try postgres://you:***@x",
        "details": {"a": 1},
    }
