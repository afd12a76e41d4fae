"""The command line, from outside: exit status, stdout, stderr, and what it leaves in both servers."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import click
import psycopg
import pytest
import redis
from click.testing import CliRunner

from viewer_pipeline.cli.main import main
from viewer_pipeline.flush.verify import CHECKS
from viewer_pipeline.home_lock_and_server_urls import SERVERS_FILE, lock_home_directory
from viewer_pipeline.stack.ports import LOOPBACK, find_free_port
from viewer_pipeline_tests.support.proxy import Proxy
from viewer_pipeline_tests.support.servers import Postgres, copy_database
from viewer_pipeline_tests.support.waiting import ENOUGH, seconds_of_fastest
from viewer_pipeline_tests.support.warm import run
from viewer_pipeline_tests.support.world import PREFIX, World

Environment = dict[str, str]

FULL = 2**63 - 1  # a total that takes no more views: they are parked

# Exercised with --json in this file, or in one of their own. `bench all` is the others together.
JSON_COMMANDS = frozenset(
    [
        "acknowledge",
        "adopt",
        "backfill",
        "baseline",
        "demo",
        "doctor",
        "flush",
        "grants",
        "held",
        "migrate",
        "parked",
        "reconcile",
        "retire",
        "send",
        "soak",
        "status",
        "streams",
    ]
) | {f"bench {name}" for name in ("flush", "changed", "messages", "target", "reconcile", "runs", "scale", "all")}


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    """What a shell hands over, with no server in it."""
    variables = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    return {**variables, "HOME": str(tmp_path), "VIEWER_HOME": str(tmp_path / "viewer")}


@pytest.fixture
def online(environment: Environment, database_url: str, redis_url: str) -> Environment:
    """The same with both servers, and a port that no other test uses."""
    port = str(find_free_port())
    return {**environment, "DATABASE_URL": database_url, "REDIS_URL": redis_url, "HEALTH_CHECK_PORT": port}


def json_of(done: subprocess.CompletedProcess[str], status: int = 0) -> Any:
    """Return the one JSON object on stdout."""
    assert (done.returncode, done.stdout.count("\n")) == (status, 1), done.stderr
    result = json.loads(done.stdout)
    assert isinstance(result, dict)
    return result


def error_of(done: subprocess.CompletedProcess[str], status: int) -> str:
    """Return the one sentence on stderr of a command that failed."""
    assert (done.returncode, done.stdout) == (status, ""), done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ")
    return done.stderr


def usage_error_of(done: subprocess.CompletedProcess[str]) -> str:
    """Return what is wrong with the words of a command, as click reports it below the usage."""
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.startswith("Usage: ")
    return done.stderr.partition("\nError: ")[2].rstrip()


def commands(group: click.Group, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command with the words that lead to it."""
    for name, command in group.commands.items():
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)


COMMANDS = {"": main, **{" ".join(path): command for path, command in commands(main)}}


@pytest.mark.parametrize("words", COMMANDS)
def test_help_of_every_command(words: str) -> None:
    """It has the description of the command."""
    result = CliRunner().invoke(main, [*words.split(), "--help"])
    text = COMMANDS[words].help
    assert result.exit_code == 0
    assert text
    assert " ".join(text.split()) in " ".join(result.output.split())


def test_help_from_outside(environment: Environment) -> None:
    """Without any setting, and even with bad ones."""
    command = [sys.executable, "-m", "viewer_pipeline.cli", "--help"]
    variables = {**environment, "BATCH_SIZE": "many"}
    done = subprocess.run(command, env=variables, cwd=environment["HOME"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Carry view counts from Redis to PostgreSQL" in done.stdout


def test_every_command_with_json_is_exercised() -> None:
    """A new command that reports is to be tested as well."""
    with_json = {words for words, command in COMMANDS.items() if "as_json" in {p.name for p in command.params}}
    assert with_json == JSON_COMMANDS


@pytest.mark.parametrize(
    ("words", "variable"),
    [
        ("migrate", "DATABASE_URL"),
        ("worker", "DATABASE_URL"),
        ("flush", "DATABASE_URL"),
        ("status", "DATABASE_URL"),
        ("send a", "REDIS_URL"),
    ],
)
def test_a_missing_setting_is_named(environment: Environment, words: str, variable: str) -> None:
    """Where neither a URL is set nor `up` runs: exit status 2, the directory, what to start and what to set."""
    message = error_of(run(environment, *words.split()), 2)
    assert f"nothing runs for VIEWER_HOME={environment['VIEWER_HOME']}, and {variable} is not set" in message
    assert f"remedy: start `viewer-pipeline up` for this VIEWER_HOME, or set {variable}=" in message


BAD = {
    "DATABASE_URL": "mysql://me:hidden@somewhere/views",
    "REDIS_URL": "http://me:hidden@somewhere/0",
    "BATCH_SIZE": "many",
    "BATCH_INTERVAL_MS": "0",
    "FLUSH_MAX_COUNTERS": "-1",
    "PUBSUB_MODE": "loudly",
    "SWEEP_CRON": "* * * *",
    "LOG_LEVEL": "chatty",
}


@pytest.mark.parametrize("command", ["status", "up", "demo"])
def test_bad_settings_are_named_with_their_values(environment: Environment, command: str) -> None:
    """All of them at once, before anything is started; exit status 2, and no password."""
    message = error_of(run({**environment, **BAD}, command), 2)
    assert [name for name in BAD if f"{name}=" not in message] == []
    assert [value for name, value in BAD.items() if value not in message and not name.endswith("_URL")] == []
    assert "hidden" not in message
    assert not Path(environment["VIEWER_HOME"]).exists()


@pytest.mark.parametrize("command", ["worker", "doctor", "up"])
def test_a_value_from_a_file_with_windows_line_endings(online: Environment, command: str) -> None:
    """Before, it was taken literally: nothing was received, and all checks were healthy."""
    message = error_of(run({**online, "PUBSUB_CHANNEL": "view_count_updates\r"}, command), 2)
    assert message == (
        "error: Settings are not usable: PUBSUB_CHANNEL='view_count_updates\\r': expected no carriage return (U+000D);"
        " the file it comes from probably has Windows line endings\n"
    )


def test_a_misspelled_setting_is_reported(environment: Environment) -> None:
    """On stderr, in one line, with the setting that was meant and without the value; the command is not refused."""
    done = run({**environment, "TARGET_TABEL": "hidden"}, "grants")
    assert (done.returncode, done.stderr) == (
        0,
        "unknown_setting variable=TARGET_TABEL found_in=environment probably_meant=TARGET_TABLE\n",
    )


def test_the_file_dot_env_is_read(environment: Environment) -> None:
    """Settings may stand in `.env` of the working directory; the environment comes first."""
    (Path(environment["HOME"]) / ".env").write_text("BATCH_SIZE=few\nLOG_LEVEL=chatty\n")
    message = error_of(run({**environment, "BATCH_SIZE": "many"}, "status"), 2)
    assert "BATCH_SIZE='many'" in message
    assert "LOG_LEVEL='chatty'" in message


def test_send_to_a_redis_that_hangs(online: Environment) -> None:
    """It ends after seconds, and sends nothing twice."""
    with Proxy.of(online["REDIS_URL"], 0) as proxy:
        proxy.blackhole()
        done = run({**online, "REDIS_URL": proxy.url(online["REDIS_URL"])}, "send", "a")
    message = error_of(done, 1)
    assert "Redis does not answer: " in message
    assert "the server is connected and does not answer" in message


END_SECONDS = 15.0  # before, these commands took 25 s and more


@pytest.mark.parametrize(("words", "status"), [("retire vod:", 1), ("migrate", 0)])
def test_commands_do_not_wait_for_a_redis_that_hangs(online: Environment, words: str, status: int) -> None:
    """They end after seconds. `migrate` succeeds: worker and code server run it before a start, also without Redis."""
    with Proxy.of(online["REDIS_URL"], 0) as proxy:
        proxy.blackhole()
        environment = {**online, "REDIS_URL": proxy.url(online["REDIS_URL"])}

        def hangs() -> None:
            done = run(environment, *words.split())
            assert done.returncode == status
            assert "the server is connected and does not answer" in done.stderr

        assert seconds_of_fastest(hangs, END_SECONDS) < END_SECONDS


@pytest.mark.parametrize(
    ("words", "url", "log"),
    [("send a", "redis_url", "redis.log"), ("parked", "database_url", "postgres.log")],
)
def test_an_embedded_server_that_is_down(environment: Environment, words: str, url: str, log: str) -> None:
    """The remedy names its log; that of a server of the user does not."""
    home = Path(environment["VIEWER_HOME"])
    home.mkdir()
    scheme = {"redis_url": "redis", "database_url": "postgresql"}
    urls = {name: f"{scheme[name]}://{LOOPBACK}:{find_free_port()}/0" for name in scheme}
    (home / SERVERS_FILE).write_text(json.dumps(urls))
    with lock_home_directory(home):
        message = error_of(run(environment, *words.split()), 1)
        assert (
            "remedy: none if it ended: `up` restarts it within a minute; if it hangs, check whether its process is"
            f" stopped or waits for a disk, or end it; its log is {home / log}"
        ) in message
        assert str(home) not in error_of(run({**environment, url.upper(): urls[url] + "1"}, *words.split()), 1)


@pytest.mark.parametrize("variable", ["DATABASE_URL", "REDIS_URL"])
def test_a_url_with_a_bad_port_is_a_bad_setting(online: Environment, variable: str) -> None:
    """It can never work: exit status 2 with the variable's name."""
    scheme = online[variable].partition(":")[0]
    done = run({**online, variable: f"{scheme}://me:hidden@{LOOPBACK}:no-number/0"}, "status")
    message = error_of(done, 2)
    assert variable in message
    assert "hidden" not in message


UNREACHABLE = [
    ("migrate", "DATABASE_URL"),
    ("backfill 2026-11-28", "DATABASE_URL"),
    ("flush", "DATABASE_URL"),
    ("send a", "REDIS_URL"),
    ("flush", "REDIS_URL"),
]


@pytest.mark.parametrize(("words", "variable"), UNREACHABLE)
def test_an_unreachable_server_is_one_sentence(online: Environment, words: str, variable: str) -> None:
    """Exit status 1 and which server it was; no traceback, no password."""
    scheme, port = online[variable].partition(":")[0], find_free_port()
    message = error_of(run({**online, variable: f"{scheme}://me:hidden@{LOOPBACK}:{port}/0"}, *words.split()), 1)
    assert f"{scheme}://me:***@{LOOPBACK}:{port}/0" in message
    assert "hidden" not in message


def test_a_wrong_password_is_one_sentence(online: Environment) -> None:
    """Exit status 1; neither the wrong password nor the good one is shown."""
    good = online["DATABASE_URL"].split("@")[0].rpartition(":")[2]
    message = error_of(run({**online, "DATABASE_URL": online["DATABASE_URL"].replace(good, "hidden")}, "flush"), 1)
    assert "wrong password, or there is no role" in message
    assert "password authentication failed" in message
    assert message.splitlines()[1].startswith("remedy: correct user and password in the URL")
    assert good not in message
    assert "hidden" not in message


def drop_schemas(database_url: str) -> None:
    """Undo all migrations."""
    with psycopg.connect(database_url) as connection:
        connection.execute("DROP SCHEMA viewer, dagster CASCADE")


def test_a_database_without_our_schema_names_the_command_to_run(online: Environment) -> None:
    """Exit status 1 and the command to run."""
    drop_schemas(online["DATABASE_URL"])
    assert "run `viewer-pipeline migrate`" in error_of(run(online, "flush"), 1)
    status = json_of(run(online, "status", "--json"), 1)
    assert "viewer-pipeline migrate`" in status["errors"]["postgres"]["remedy"]


def test_migrate(online: Environment) -> None:
    """From nothing to the newest revision; the second time there is nothing to do."""
    drop_schemas(online["DATABASE_URL"])
    first = json_of(run(online, "migrate", "--json"))
    assert first["before"] is None
    again = run(online, "migrate")
    assert (again.returncode, again.stdout) == (0, f"schema viewer is at revision {first['after']} already\n")


@pytest.mark.parametrize(
    ("mode", "options", "how"),
    [
        ("increment", ["--how", "publish"], "publish"),
        ("increment", ["--how", "incr"], "incr"),
        ("announce", ["--how", "both"], "both"),
        ("increment", [], "publish"),
        ("announce", [], "both"),
    ],
)
def test_send(online: Environment, client: redis.Redis, mode: str, options: list[str], how: str) -> None:
    """A message, a counter or both, as requested; by default as PUBSUB_MODE makes producers do."""
    published, counted = how != "incr", how != "publish"
    with client.pubsub() as listener:  # type: ignore[no-untyped-call]
        listener.subscribe("view_count_updates")
        assert listener.get_message(timeout=ENOUGH)["type"] == "subscribe"
        sent = json_of(run({**online, "PUBSUB_MODE": mode}, "send", "vod 1", "--count", "3", *options, "--json"))
        published_message = listener.get_message(timeout=5 if published else 0)
    assert sent == {"vod_id": "vod 1", "count": 3, "how": how, "subscribers": int(published)}
    assert client.get(PREFIX + "vod 1") == (b"3" if counted else None)
    received = published_message and json.loads(published_message["data"])
    assert received == ({"vodId": "vod 1", "count": 3} if published else None)


@pytest.mark.parametrize(
    ("how", "received"),
    [
        ("both", "received by 0 subscribers; the next sweep reads the counter"),
        (
            "publish",
            "received by 0 subscribers; with PUBSUB_MODE=announce a message counts no views: use --how both",
        ),
    ],
)
def test_send_prints_its_result(online: Environment, client: redis.Redis, how: str, received: str) -> None:
    """One line, with the number of subscribers that received it, and what becomes of the views."""
    done = run({**online, "PUBSUB_MODE": "announce"}, "send", "vod_123", "--how", how)
    assert done.stdout == f"sent 1 view of vod_123 by {how}, {received}\n"
    assert client.get(PREFIX + "vod_123") == (b"1" if how == "both" else None)


def test_send_that_nobody_receives(online: Environment, client: redis.Redis) -> None:
    """The views are lost, and the command fails."""
    message = error_of(run(online, "send", "a\x1b", "--count", "2"), 1)
    assert message == (
        "error: Nobody received the message: no worker is subscribed to view_count_updates, and Redis keeps no"
        " messages: 2 views of a\\x1b are lost\n"
        "remedy: start `viewer-pipeline worker` or `viewer-pipeline up`; then send again\n"
    )
    assert client.keys() == []


def test_send_refuses_to_count_twice(online: Environment, client: redis.Redis) -> None:
    """With PUBSUB_MODE=increment, a message and a counter are two views."""
    message = usage_error_of(run(online, "send", "a", "--how", "both"))
    assert message.startswith("Invalid value for '--how': with PUBSUB_MODE=increment each view would count twice")
    message = usage_error_of(run(online, "send", "a", "--count", "1000001"))
    assert message.startswith("Invalid value for '--count': 1000001 is more than a message can carry, which is 1000000")
    assert client.keys() == []


def test_send_escapes_what_a_terminal_obeys(online: Environment, client: redis.Redis) -> None:
    """An id with control characters is sent as it is and printed with escapes."""
    done = run(online, "send", "\x1b[31m\n\u202ea", "--how", "incr")
    assert done.stdout == "sent 1 view of \\x1b[31m\\n\\u202ea by incr\n"
    assert client.get(PREFIX + "\x1b[31m\n\u202ea") == b"1"


@pytest.mark.parametrize(("vod_id", "reason"), [("", "empty id"), ("x" * 256, "id longer than 255 characters")])
def test_send_refuses_a_bad_id(online: Environment, client: redis.Redis, vod_id: str, reason: str) -> None:
    """Exit status 2, the reason, and nothing in Redis."""
    message = usage_error_of(run(online, "send", vod_id, "--how", "incr"))
    assert message == f"Invalid value for 'VOD_ID': {reason}"
    assert client.keys() == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["send"], "Missing argument 'VOD_ID'"),
        (["send", "a", "--count", "0"], "Invalid value for '--count': 0 is not in the range"),
        (["send", "a", "--count", "x"], "Invalid value for '--count': 'x' is not a valid number."),
        (["send", "a", "--cuont", "1"], "No such option '--cuont'. (Did you mean"),
        (["stauts"], "No such command 'stauts'. (Did you mean one of: 'status', 'streams'?)"),
        (["retire", ""], "Invalid value for 'PREFIX': empty"),
        (["backfill", "yesterday"], "Invalid value for 'FIRST': 'yesterday': expected a day as 2026-11-28"),
        (["baseline", "--csv", "missing.csv"], "Invalid value for '--csv': File 'missing.csv' does not exist."),
        (["acknowledge", "everything"], "Invalid value for 'KIND': 'everything' is not one of"),
        (["healthcheck", "sensor"], "Invalid value for 'ROLE': 'sensor' is not one of"),
        (["webserver", "--code-server", "host"], "Invalid value for '--code-server': 'host': expected HOST:PORT"),
        (["webserver", "--port", "70000"], "Invalid value for '--port': 70000 is not in the range"),
        (["flush", "--vod-id", ""], "Invalid value for '--vod-id': empty id"),
        (["status", "--watch", "often"], "Invalid value for '--watch': 'often' is not a valid number."),
        (["demo", "--time-limit", "-1"], "Invalid value for '--time-limit': -1.0 is not in the range"),
    ],
)
def test_wrong_usage(environment: Environment, words: list[str], expected: str) -> None:
    """Exit status 2, and the name of the argument or option; without a server."""
    assert usage_error_of(run(environment, *words)).startswith(expected)


def rows(online: Environment, query: str) -> list[tuple[Any, ...]]:
    """Run a query."""
    with psycopg.connect(online["DATABASE_URL"]) as connection:
        return connection.execute(query).fetchall()


STATUS_KEYS = {"status", "timestamp", "errors", "incidents", "stall_reasons", "checks"}  # covered by test_status.py


def counts(status: dict[str, Any]) -> dict[str, Any]:
    """Return the numbers of `status`, without the results of checks."""
    assert set(status) > STATUS_KEYS
    return {name: value for name, value in status.items() if name not in STATUS_KEYS}


def test_flush_and_status(online: Environment, client: redis.Redis) -> None:
    """Pending views are persisted, parked or rejected; both commands report how many, and Dagster has the run."""
    with psycopg.connect(online["DATABASE_URL"]) as connection:
        connection.execute(f"INSERT INTO viewer.vod_view_counts VALUES ('full', {FULL}, 0, 0, now())")
    client.mset({PREFIX + "a": 5, PREFIX + "b": 7, PREFIX + "full": 10, PREFIX + "bad": "abc"})
    client.zadd("viewer:changed", {"a": 1, "b": 1})

    before = counts(json_of(run(online, "status", "--json")))
    assert before.pop("oldest_pending_seconds") > 1_700_000_000  # announced in 1970
    assert before == {
        "up_is_starting": False,
        "pending_views": 12,
        "pending_vods": 2,
        "pending_vods_read": 2,
        "sweep_position": None,
        "marker": None,
        "last_flush": 0,
        "settled": True,
        "vods": 1,
        "persisted": FULL,
        "parked_vods": 0,
        "parked": 0,
        "rejected": 0,
        "rejected_by_reason": {},
        "held_vods": 0,
        "held_views": 0,
        "flushes": [],
    }

    flushed = json_of(run(online, "flush", "--json"))
    stats = flushed["stats"]
    counted = {name: stats[name] for name in ("mode", "counters", "views", "flushes", "batches", "rejected", "drift")}
    assert counted == {
        "mode": "sweep", "counters": 3, "views": 22, "flushes": 1, "batches": 1, "rejected": 1, "drift": 0
    }  # fmt: skip
    assert (flushed["success"], flushed["status"]) == (True, "healthy")
    assert flushed["timestamp"].endswith("Z")
    assert {name: check["status"] for name, check in flushed["checks"].items()} == dict.fromkeys(CHECKS, "healthy")
    assert set(flushed["checks"]["no_drift"]) == {"status", "message", "remedy", "details"}
    history = rows(online, "SELECT run_id, pipeline_name, status FROM dagster.runs")
    assert history == [(flushed["run_id"], "flush_views", "SUCCESS")]

    after = counts(json_of(run(online, "status", "--json")))
    (flush,) = after.pop("flushes")
    marker = after["marker"]
    assert marker.pop("hold") == ""
    assert (len(marker.pop("epoch")), len(marker.pop("flush_id")), marker.pop("missing_flushes")) == (32, 36, [0, 0])
    assert marker.pop("ledger").count("/") == marker.pop("timeline").count("/") - 1 == 2
    assert after == {
        "up_is_starting": False,
        "pending_views": 0,
        "pending_vods": 0,
        "pending_vods_read": 0,
        "oldest_pending_seconds": None,
        "sweep_position": None,
        "marker": {"seq": 1, "batch": 1, "of": 1},
        "last_flush": 1,
        "settled": True,
        "vods": 3,
        "persisted": FULL + 12,
        "parked_vods": 1,
        "parked": 10,
        "rejected": 1,
        "rejected_by_reason": {"value is not an integer": 1},
        "held_vods": 0,
        "held_views": 0,
    }
    assert (flush["seq"], flush["mode"], flush["counters"], flush["views"]) == (1, "sweep", 3, 22)
    assert flush["run_id"] == flushed["run_id"]
    assert client.keys(PREFIX + "*") == [(PREFIX + "bad").encode()]
    people = run(online, "status")
    assert people.returncode == 0
    assert f"persisted  {FULL + 12} views of 3 VODs" in people.stdout
    assert "parked     10 views of 1 VOD" in people.stdout
    assert "rejected   1 counter (value is not an integer)" in people.stdout


def test_held_views_are_reported_and_counted(online: Environment, client: redis.Redis) -> None:
    """Redis was emptied: what came in since is held, and counted by the command (docs/how-to/held-views.md)."""
    client.set(PREFIX + "a", 5)
    assert run(online, "flush").returncode == 0
    client.flushall()
    client.set(PREFIX + "a", 3)
    client.set(PREFIX + "b", 2)
    stats = json_of(run(online, "flush", "--json"))["stats"]
    assert (stats["views"], stats["held"], stats["flushes"]) == (2, 3, 2)
    report = json_of(run(online, "held", "--json"))
    assert (report["decision"], report["vods"], report["views"], len(report["epochs"])) == (None, 1, 3, 1)
    assert "held       3 views of 1 VOD may have been counted before" in run(online, "status").stdout
    assert json_of(run(online, "held", "count", "--json"))["decided"] == {"vods": 1, "views": 3}
    assert rows(online, "SELECT vod_id, view_count FROM viewer.vod_view_counts ORDER BY 1") == [("a", 8), ("b", 2)]
    assert run(online, "held").stdout == "held: 0 views of 0 VODs\n"


def test_the_number_of_streams_is_changed(online: Environment, client: redis.Redis) -> None:
    """FLUSH_STREAMS alone changes nothing: runs are refused until `streams apply`."""
    client.mset({f"{PREFIX}{number}": 1 for number in range(30)})
    assert run(online, "flush", "--vod-id", "7").returncode == 0
    three = online | {"FLUSH_STREAMS": "3"}
    refused = run(three, "flush")
    assert refused.returncode == 1
    assert "FLUSH_STREAMS=3: `" in run(three, "streams").stdout
    report = json_of(run(three, "streams", "apply", "--json"))
    assert (report["flush_streams"], report["changing"]) == (3, False)
    assert [(row["stream"], row["part"]) for row in report["streams"]] == [(1, "1of3"), (2, "2of3"), (3, "3of3")]
    stats = json_of(run(three, "flush", "--json"))["stats"]
    assert (stats["views"], stats["flushes"]) == (29, 3)
    assert "│ 3of3 │" in run(three, "streams").stdout
    assert rows(three, "SELECT count(*), sum(view_count) FROM viewer.vod_view_counts") == [(30, 30)]
    assert client.keys(PREFIX + "*") == []


def test_flush_with_nothing_to_do(online: Environment, client: redis.Redis) -> None:
    """A run for a VOD without views succeeds, and writes nothing; the views of others stay where they are."""
    client.set(PREFIX + "a", 5)
    done = run(online, "flush", "--vod-id", "unknown\x1b", "--vod-id", "another")
    assert (done.returncode, done.stderr) == (
        0,
        "VODs without a counter in Redis and a total in PostgreSQL: another, unknown\\x1b\n",
    )
    assert "0 views of 0 counters in 0 flushes, 0 rejected" in done.stdout
    assert client.get(PREFIX + "a") == b"5"
    assert rows(online, "SELECT seq FROM viewer.flush") == []
    assert rows(online, "SELECT status FROM dagster.runs") == [("SUCCESS",)]


@pytest.mark.parametrize(
    ("words", "stat"),
    [
        ("changed --counters 10 --others 100", "counters"),
        ("messages --messages 5000", "messages"),
        ("target --counters 20 --rows 50", "counters"),
    ],
)
def test_bench(environment: Environment, words: str, stat: str) -> None:
    """On servers of its own, which need no setting; with the requested size."""
    stats = json_of(run(environment, "bench", *words.split(), "--runs", "1", "--json"))
    assert stats[stat] == int(words.split()[2])


def test_acknowledge(online: Environment, world: World) -> None:
    """An incident is shown until it is closed; some kinds, or all."""
    world.send("a", 5)
    world.flush()
    world.client.flushall()
    assert run(online, "flush").returncode == 0
    assert "Redis was emptied or replaced" in run(online, "status").stdout
    assert json_of(run(online, "acknowledge", "drift", "--json")) == {"acknowledged": 0}
    assert json_of(run(online, "acknowledge", "--json")) == {"acknowledged": 1}
    assert run(online, "acknowledge").stdout == "no incident was open\n"
    assert "Redis was emptied" not in run(online, "status").stdout


def test_backfill(online: Environment, world: World) -> None:
    """Days are rolled up in one run, which is in Dagster's history; days outside the history are refused."""
    world.send("a", 5)
    world.flush()
    today = datetime.now(UTC).date()
    yesterday = today - timedelta(days=1)
    message = usage_error_of(run(online, "backfill", f"{yesterday}"))
    assert f"expected days from {today} to {today} (UTC); HISTORY_START sets another first day" in message
    online = {**online, "HISTORY_START": f"{yesterday}"}
    result = json_of(run(online, "backfill", f"{yesterday}", "--json"))
    assert (result["success"], result["status"]) == (True, "healthy")
    assert set(result["checks"]) == {"daily_equals_ledger", "closed_days_are_complete"}
    assert {day: stats["views"] for day, stats in result["stats"].items()} == {f"{yesterday}": 0, f"{today}": 5}
    done = run(online, "backfill", f"{today}", f"{today}")
    assert (done.returncode, done.stdout) == (0, f"{today}: 5 views of 1 VOD\n")
    triggers = "SELECT value FROM dagster.run_tags WHERE key = 'viewer/trigger' ORDER BY id"
    assert rows(online, triggers)[1] == (f"command line: backfill of {today}",)
    expected = f"expected days from {yesterday} to {today} (UTC); HISTORY_START sets another first day"
    for words, reason in (
        (["2025-12-31", f"{today}"], f"Invalid value for 'FIRST': 2025-12-31: {expected}"),
        ([f"{today}", f"{yesterday}"], f"Invalid value for 'LAST': {yesterday}: not before FIRST; {expected}"),
    ):
        assert usage_error_of(run(online, "backfill", *words)) == reason


def test_a_change_of_the_time_zone_is_a_backfill(online: Environment, world: World) -> None:
    """`status` names the command to run, which moves the views to the day there; with no valid zone nothing runs."""
    world.send("a", 5)
    world.flush()
    utc, zone = datetime.now(UTC).date(), ZoneInfo("Pacific/Kiritimati")
    assert run(online, "backfill", f"{utc}").returncode == 0
    there = {**online, "HISTORY_TIMEZONE": zone.key}
    (taken_at,) = rows(online, "SELECT taken_at FROM viewer.flush")[0]
    day = taken_at.astimezone(zone).date()
    check = json.loads(run(there, "status", "--json").stdout)["checks"]["history_timezone"]
    days = f"1 day from {utc} to {utc} in UTC, and HISTORY_TIMEZONE is {zone.key}"
    assert (check["status"], check["message"]) == ("degraded", f"days were rolled up in another time zone: {days}")
    assert check["remedy"].endswith(f"backfill {day}`, or set HISTORY_TIMEZONE=UTC again")
    assert json_of(run(there, "backfill", f"{day}", "--json"))["stats"][f"{day}"]["views"] == 5
    assert rows(online, "SELECT day, vod_id, views FROM viewer.daily_views") == [(day, "a", 5)]
    check = json.loads(run(there, "status", "--json").stdout)["checks"]["history_timezone"]
    assert (check["status"], check["message"]) == ("healthy", f"days are those of {zone.key}")
    assert run(online, "backfill", f"{utc}").returncode == 0
    assert rows(online, "SELECT day, vod_id, views FROM viewer.daily_views") == [(utc, "a", 5)]
    wrong = run({**online, "HISTORY_TIMEZONE": "Europe/Berln"}, "status")
    assert wrong.returncode == 2
    expected = "HISTORY_TIMEZONE='Europe/Berln': expected the IANA name of a time zone, such as Europe/Berlin"
    assert expected in wrong.stderr


def test_settings_that_were_exported_once(online: Environment, world: World) -> None:
    """`status` names them when they are missing, until the change is confirmed."""
    exported = {**online, "TOTALS_CHANNEL": "totals", "REDIS_WAIT_AOF": "0"}
    world.send("a", 5)
    assert run(exported, "flush").returncode == 0
    check = json.loads(run(online, "status", "--json").stdout)["checks"]["lost_settings"]
    assert check["status"] == "degraded"
    assert check["message"] == "TOTALS_CHANNEL is view_count_totals, and was totals before"
    assert "put TOTALS_CHANNEL=totals into `.env`" in check["remedy"]
    assert json.loads(run(exported, "status", "--json").stdout)["checks"]["lost_settings"]["status"] == "healthy"
    wrong = run(online, "acknowledge", "--settings", "drift")
    assert usage_error_of(wrong) == "--settings closes no incident, so it takes no KIND"
    confirmed = run(online, "acknowledge", "--settings")
    assert confirmed.stdout == "removed from the recorded settings: TOTALS_CHANNEL=totals\n"
    assert json_of(run(online, "acknowledge", "--settings", "--json")) == {"removed": {}}
    assert json.loads(run(online, "status", "--json").stdout)["checks"]["lost_settings"]["status"] == "healthy"


def test_a_database_that_does_not_own_the_counters(
    online: Environment, world: World, postgres_server: Postgres
) -> None:
    """Flush, worker and `up` refuse with exit status 2 before anything is read; `adopt` gives it the counters."""
    world.send("a", 3)
    world.flush()
    name = "copy_" + os.urandom(6).hex()
    with psycopg.connect(postgres_server.url_of_database("postgres"), autocommit=True) as connection:
        copy_database(connection, name, world.stores.ledger.url.rpartition("/")[2].partition("?")[0])
        try:
            copy = {**online, "DATABASE_URL": postgres_server.url_of_database(name)}
            world.send("a", 4)
            for words in ("flush", "worker --no-last-flush"):
                assert "viewer-pipeline adopt" in error_of(run(copy, *words.split()), 2)
            refused = run(copy, "up")
            assert (refused.returncode, "viewer-pipeline adopt" in refused.stderr) == (2, True)
            assert world.counters() == {"a": 4}
            assert "omit `--from-here`" in error_of(run(copy, "adopt", "--from-here"), 1)
            assert run(copy, "adopt", "--from-here", "--settle-newer").returncode == 2
            done = json_of(run(copy, "adopt", "--json"))
            assert (done["prefix"], done["changed"], done["from_here"], done["flush"]) == ("vod:views:", True, False, 1)
            assert "already" in run(copy, "adopt").stdout
            assert json_of(run(copy, "flush", "--json"))["stats"]["views"] == 4
            assert "viewer-pipeline adopt" in error_of(run(online, "flush"), 2)
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_a_prefix_that_overlaps_another(online: Environment, world: World, client: redis.Redis) -> None:
    """It is refused with both names, until the other is retired."""
    client.hset("viewer:pipelines", "vod:", "id/1/2 db:5432/other")
    refused = error_of(run(online, "flush"), 2)
    assert "COUNTER_PREFIX='vod:views:'" in refused
    assert "'vod:' of the pipeline of db:5432/other" in refused
    world.send("a", 1)
    assert "vod:views:a" in error_of(run(online, "retire", "vod:"), 1)
    client.delete("vod:views:a")
    assert json_of(run(online, "retire", "vod:", "--json")) == {"prefix": "vod:", "retired": True}
    assert "no pipeline with the prefix 'vod:'" in run(online, "retire", "vod:").stdout
    client.set("vod:views:a", 1)
    assert json_of(run(online, "flush", "--json"))["stats"]["views"] == 1
    client.set("vod:views:a", 1)
    assert "retired 'vod:views:'" in run(online, "retire", "vod:views:", "--keep-counters").stdout
    assert client.get("vod:views:a") == b"1"


@pytest.mark.parametrize("role", ["worker", "webserver"])
@pytest.mark.parametrize("body", [b"hello", b'{"ok": true}', b"[]"])
def test_healthcheck_of_another_program(online: Environment, role: str, body: bytes) -> None:
    """It is not taken for ours, whatever it responds."""

    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        done = run(online, "healthcheck", role, "--port", str(server.server_port))
        server.shutdown()
    assert done.returncode == 1
    assert f"Not healthy: 127.0.0.1:{server.server_port} responds, and is no {role}" in done.stderr
