"""`viewer-pipeline status` from outside: with a server down, in a terminal of 80 columns, and `--watch`."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import IO

import pytest
import redis

from viewer_pipeline.cli import status_watch
from viewer_pipeline.cli.status_watch import CLEAR_BELOW, ENTER, HOME, LEAVE, watch_status
from viewer_pipeline.settings import load_settings
from viewer_pipeline.stack.ports import LOOPBACK, find_free_port
from viewer_pipeline.stack.redis_server import RedisServer
from viewer_pipeline_tests.acceptance.test_cli import Environment, environment, json_of, online
from viewer_pipeline_tests.support.proxy import Proxy
from viewer_pipeline_tests.support.terminal import Terminal
from viewer_pipeline_tests.support.waiting import ENOUGH, wait_until
from viewer_pipeline_tests.support.warm import run
from viewer_pipeline_tests.support.world import World

__all__ = ["environment", "online"]

STATUS = [sys.executable, "-m", "viewer_pipeline.cli", "status"]
PERSISTED = "persisted  5 views of 1 VOD\n"


@pytest.fixture
def flushed(online: Environment, world: World) -> Environment:
    """Five views are persisted, and three are pending."""
    world.send("a", 5)
    world.flush()
    world.send("b", 3, announce=True)
    return online


def without_redis(environment: Environment) -> Environment:
    """The same with a Redis that is down."""
    return {**environment, "REDIS_URL": f"redis://:s3cret@{LOOPBACK}:{find_free_port()}/0"}


def test_pending_views(flushed: Environment) -> None:
    """Of announced VODs, with the age of the oldest announcement; every line fits."""
    done = run(flushed, "status")
    assert done.returncode == 0
    assert "pending    3 views of 1 announced VOD, the oldest announced " in done.stdout
    assert PERSISTED in done.stdout
    assert [line for line in done.stdout.splitlines() if len(line) > 80] == []


def test_pending_views_are_a_lower_bound(flushed: Environment, world: World) -> None:
    """Beyond 5000 announced VODs, which are as many as one reading sums up."""
    world.client.zadd("viewer:changed", {f"more{number:05}": 2 for number in range(9000)})
    done = run(flushed, "status")
    assert "pending    at least 3 views of 9001 announced VODs (5000 were read), the" in done.stdout
    assert json_of(run(flushed, "status", "--json"))["pending_vods_read"] == 5000


def test_status_without_redis(flushed: Environment) -> None:
    """What PostgreSQL holds is shown, with the error of Redis; exit status 1, and no password."""
    done = run(without_redis(flushed), "status")
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith(
        "status     unhealthy: Redis cannot be read\nRedis      Redis does not answer: redis://:***@"
    )
    assert PERSISTED in done.stdout
    assert "     1   sweep   " in done.stdout
    assert "pending" not in done.stdout
    assert "s3cret" not in done.stdout
    status = json_of(run(without_redis(flushed), "status", "--json"), 1)
    assert (list(status["errors"]), status["status"], status["persisted"]) == (["redis"], "unhealthy", 5)
    assert "pending_views" not in status


def test_status_without_postgres(flushed: Environment) -> None:
    """What Redis holds is shown, with the error of PostgreSQL."""
    down = {**flushed, "DATABASE_URL": f"postgresql://me:s3cret@{LOOPBACK}:{find_free_port()}/x"}
    done = run(down, "status")
    assert (done.returncode, done.stderr) == (1, "")
    assert "\nPostgreSQL PostgreSQL is unavailable: " in done.stdout
    assert "pending    3 views of 1 announced VOD" in done.stdout
    assert "subscriber no worker listens" in done.stdout
    assert "s3cret" not in done.stdout
    status = json_of(run(down, "status", "--json"), 1)
    assert (list(status["errors"]), status["pending_views"]) == (["postgres"], 3)


@pytest.mark.parametrize(("variable", "other"), [("REDIS_URL", PERSISTED), ("DATABASE_URL", "pending    3 views")])
def test_status_of_a_server_that_hangs(flushed: Environment, variable: str, other: str) -> None:
    """It accepts connections and never replies: reported as an error, and the other server is shown."""
    with Proxy.of(flushed[variable], 0) as proxy:
        proxy.blackhole()
        done = run({**flushed, variable: proxy.url(flushed[variable])}, "status")
    assert done.returncode == 1
    assert other in done.stdout


def test_status_without_both(flushed: Environment) -> None:
    """Two errors, and nothing that is not known."""
    done = run({**without_redis(flushed), "DATABASE_URL": f"postgresql://{LOOPBACK}:{find_free_port()}/x"}, "status")
    assert done.returncode == 1
    assert [line[:11].strip() for line in done.stdout.splitlines() if line[:11].strip()] == [
        "status",
        "Redis",
        "PostgreSQL",
    ]


@contextmanager
def watching(environment: Environment, *options: str, prefix: tuple[str, ...] = ()) -> Iterator[subprocess.Popen[str]]:
    """Run `status --watch`; its output is read by the caller."""
    command = [*prefix, *STATUS, "--watch", *options]
    with subprocess.Popen(
        command, env=environment, cwd=environment["HOME"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read_until(stream: IO[str] | None, text: str) -> None:
    """Read lines until one contains a text. Fails at the end of the stream."""
    assert stream is not None
    assert any(text in line for line in stream), f"{text} was not printed"


def test_watch_prints_blocks_into_a_pipe(flushed: Environment, world: World) -> None:
    """One after another, without control characters; Ctrl-C ends it with exit status 0."""
    with watching(flushed, "1") as process:
        read_until(process.stdout, ", every 1 s")
        read_until(process.stdout, "pending    3 views of 1 announced VOD")
        world.send("b", 4, announce=True)
        read_until(process.stdout, "pending    7 views of 1 announced VOD")
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate()
    assert (process.returncode, errors) == (0, "")
    assert "\x1b" not in rest


def test_watch_as_json(flushed: Environment) -> None:
    """One object a line."""
    with watching(flushed, "1", "--json") as process:
        assert process.stdout is not None
        states = [json.loads(process.stdout.readline()) for _ in range(2)]
    assert [state["pending_views"] for state in states] == [3, 3]


def test_watch_with_a_closed_pipe(flushed: Environment) -> None:
    """As in `status --watch | head -1`: it ends without a message."""
    with watching(flushed, "1") as process:
        read_until(process.stdout, "every 1 s")
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
        process.wait(ENOUGH)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, 128 + signal.SIGTERM)])
def test_watch_in_a_terminal(flushed: Environment, tmp_path: Path, number: int, status: int) -> None:
    """Each status is drawn over the one before; in the end the terminal is as it was, with the last status."""
    log = tmp_path / "terminal.log"
    with Terminal(log) as terminal:
        process = subprocess.Popen(
            [*terminal.prefix, *STATUS, "--watch", "1"], env={**flushed, "COLUMNS": "80", "LINES": "40"}, cwd=tmp_path
        )
        wait_until(lambda: log.read_text(errors="replace").count(CLEAR_BELOW) > 1, 60, "two were drawn")
        process.send_signal(number)
        assert process.wait(ENOUGH) == status
        wait_until(lambda: LEAVE in log.read_text(errors="replace"), 60, "the terminal is left")
        wait_until(lambda: PERSISTED in log.read_text(errors="replace").rpartition(LEAVE)[2], 60, "the last status")
    drawn = log.read_text().partition(ENTER)[2].rpartition(LEAVE)[0]
    assert drawn.count(HOME) == drawn.count(CLEAR_BELOW) > 1
    assert "\x1b[2J" not in drawn
    assert PERSISTED.rstrip() in drawn


def test_watch_in_a_small_terminal(flushed: Environment, tmp_path: Path) -> None:
    """No line is wrapped and nothing scrolls: what does not fit is left out."""
    log = tmp_path / "terminal.log"
    with Terminal(log) as terminal:
        process = subprocess.Popen(
            [*terminal.prefix, *STATUS, "--watch", "1"], env={**flushed, "COLUMNS": "40", "LINES": "6"}, cwd=tmp_path
        )
        wait_until(lambda: CLEAR_BELOW in log.read_text(errors="replace"), 60, "one was drawn")
        process.send_signal(signal.SIGINT)
        assert process.wait(ENOUGH) == 0
    drawn = log.read_text().partition(HOME)[2].partition(CLEAR_BELOW)[0].replace("\x1b[K", "").split("\n")
    assert len(drawn) == 6
    assert max(map(len, drawn)) <= 40
    assert drawn[-1].startswith("… (the window is too small")


def test_watch_survives_a_restart(flushed: Environment, servers_home: Path) -> None:
    """Of Redis: its error is shown meanwhile, and then its values again."""
    server = RedisServer(servers_home)
    server.start()
    try:
        with redis.Redis.from_url(server.url) as client:
            client.mset({"vod:views:c": 9})
            client.zadd("viewer:changed", {"c": 1})
        with watching({**flushed, "REDIS_URL": server.url}, "1") as process:
            read_until(process.stdout, "pending    9 views")
            server.stop()
            read_until(process.stdout, "Redis      Redis does not answer")
            read_until(process.stdout, PERSISTED.rstrip())
            server.start()
            read_until(process.stdout, "pending    9 views")
    finally:
        server.stop()


def test_watch_without_a_server(environment: Environment) -> None:
    """Nothing runs: it ends at once, with what to start."""
    done = run(environment, "status", "--watch")
    assert (done.returncode, done.stdout) == (2, "")
    assert "nothing runs for VIEWER_HOME=" in done.stderr


def test_watch_without_a_server_any_more(
    flushed: Environment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As when `up` is stopped: what to start is shown in place of the status, and then the status again."""
    for name in ("DATABASE_URL", "REDIS_URL", "VIEWER_HOME"):
        monkeypatch.setenv(name, flushed[name])
    monkeypatch.setenv("COLUMNS", "80")
    settings, pauses = load_settings(), iter(("stop", "start", "end"))

    def pause(_seconds: float) -> None:
        match next(pauses):
            case "stop":
                monkeypatch.delenv("DATABASE_URL")
            case "start":
                monkeypatch.setenv("DATABASE_URL", flushed["DATABASE_URL"])
            case _:
                raise KeyboardInterrupt

    monkeypatch.setattr(status_watch, "time", SimpleNamespace(monotonic=time.monotonic, sleep=pause))
    monkeypatch.setattr(status_watch, "install_stop_signal_handlers", lambda *_: None)  # those of pytest stay
    watch_status(settings, 1, as_json=False)
    output = capsys.readouterr().out
    assert [line[:9] for line in output.splitlines() if line[:9] in ("persisted", "error: No", "remedy: s")] == [
        "persisted", "error: No", "remedy: s", "persisted"
    ]  # fmt: skip
    assert [line for line in output.splitlines() if len(line) > 80 and " " in line] == []
