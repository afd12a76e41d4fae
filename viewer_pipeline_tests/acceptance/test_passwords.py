"""Passwords appear nowhere: every command, with URLs that fail in every way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner

from viewer_pipeline.cli.main import main
from viewer_pipeline.stack.ports import find_free_port
from viewer_pipeline_tests.support.waiting import ENOUGH, wait_until

SECRET = "Geheim7Wort"  # its halves too: an error may cite a part of a URL
PARTS = ("Geheim", "7Wort")


def database_urls(real: str) -> dict[str, str]:
    """Return URLs that fail: name -> URL."""
    parts = urlsplit(real)
    where = f"{parts.hostname}:{parts.port}"
    return {
        "unreachable": f"postgresql://viewer:{SECRET}@127.0.0.1:{find_free_port()}/viewer",
        "no such host": f"postgresql://viewer:{SECRET}@no.such.host.invalid/viewer",
        "wrong password": f"postgresql://viewer:{SECRET}@{where}{parts.path}",
        "no such database": real.replace(parts.path, "/nothing_here") + f"?password={SECRET}",
        "unknown parameter": f"postgresql://viewer:{SECRET}@{where}/viewer?no_such_token={SECRET}&schema=public",
        "several hosts": f"postgresql://viewer:{SECRET}@{where},127.0.0.1:{find_free_port()}/viewer",
        "no such socket": f"postgresql://viewer:{SECRET}@%2Fno%2Fsuch/viewer?sslpassword={SECRET}",
        "socket in a parameter": f"postgresql:///viewer?host=/no/such&user=viewer&password={SECRET}",
        "password of a key": real + f"?sslmode=require&sslcert=/no/such&sslkey=/no/such&sslpassword={SECRET}",
        "ampersand in it": f"postgresql://{where}/viewer?user=viewer&password=Geheim&7Wort",
        "ampersand and equals in it": f"postgresql://{where}/viewer?user=viewer&password=Geheim&7Wort=",
        "bad parameter": f"postgresql://viewer:{SECRET}@{where}/viewer?pgbouncer=yes",
        "pgbouncer": f"postgresql://viewer:{SECRET}@{where}/viewer?pgbouncer=true",
        "hidden in a parameter": f"postgresql://{where}/viewer?user=viewer&password={SECRET}",
        "slash in it": f"postgresql://viewer:Geheim/7Wort@{where}/viewer",
        "question mark in it": f"postgresql://viewer:Geheim?7Wort@{where}/viewer",
        "at sign in it": f"postgresql://viewer:Geheim@7Wort@{where}/viewer",
        "percent in it": f"postgresql://viewer:Geheim%7Wort@{where}/viewer",
        "no scheme": f"viewer:{SECRET}@{where}/viewer",
        "bad port": f"postgresql://viewer:{SECRET}@127.0.0.1:port/viewer",
    }


def redis_urls(real: str) -> dict[str, str]:
    """Return URLs that fail: name -> URL."""
    where = urlsplit(real).netloc
    return {
        "unreachable": f"redis://:{SECRET}@127.0.0.1:{find_free_port()}/0",
        "no such host": f"redis://user:{SECRET}@no.such.host.invalid:6379/0",
        "refused": f"redis://user:{SECRET}@{where}/0",
        "no such socket": f"unix://user:{SECRET}@/no/such/socket",
        "unknown parameter": f"redis://user:{SECRET}@{where}/0?no_such_parameter=1",
        "no TLS there": f"rediss://user:{SECRET}@{where}/0?socket_timeout=0.3&ssl_password={SECRET}",
        "no such key": f"rediss://{where}/0?ssl_certfile=/no/such&ssl_keyfile=/no/such&ssl_password={SECRET}",
        "TLS without TLS": f"redis://{where}/0?ssl_password={SECRET}",
        "slash in it": f"redis://user:Geheim/7Wort@{where}/0",
        "bad scheme": f"reddis://user:{SECRET}@{where}/0",
    }


DATABASE_KINDS = tuple(database_urls("postgresql://a:b@h:1/d"))
REDIS_KINDS = tuple(redis_urls("redis://h:1/0"))
COMMANDS = (["status"], ["migrate"], ["flush"], ["send", "v"])


def environment(home: Path, database_url: str, redis_url: str) -> dict[str, str]:
    """Return what a shell hands over."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    return {
        **kept,
        "HOME": str(home),
        "VIEWER_HOME": str(home / "viewer"),
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "HEALTH_CHECK_PORT": str(find_free_port()),
        "LOG_LEVEL": "debug",
    }


def assert_clean(text: str) -> None:
    """No part of the password is in it."""
    assert [part for part in PARTS if part in text] == [], text


@pytest.fixture
def run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., None]:
    """Return a function that runs every command with a pair of URLs, in this process."""

    def run_all(database_url: str, redis_url: str) -> None:
        for words in COMMANDS:
            with patch.dict(os.environ, environment(tmp_path, database_url, redis_url)):
                result = CliRunner().invoke(main, words)
            text = capfd.readouterr()
            assert_clean(result.output + text.out + text.err)
            assert result.exception is None or isinstance(result.exception, SystemExit)

    return run_all


@pytest.mark.parametrize("kind", DATABASE_KINDS)
def test_commands_with_a_database_url(run: Callable[..., None], database_url: str, redis_url: str, kind: str) -> None:
    """`send` needs no PostgreSQL; the others report the error."""
    run(database_urls(database_url)[kind], redis_url)


@pytest.mark.parametrize("kind", REDIS_KINDS)
def test_commands_with_a_redis_url(run: Callable[..., None], database_url: str, redis_url: str, kind: str) -> None:
    """`migrate` needs no Redis; the others report the error."""
    run(database_url, redis_urls(redis_url)[kind])


@pytest.mark.parametrize("redis_kind", ["unreachable", "refused"])
@pytest.mark.parametrize("database_kind", ["unreachable", "wrong password"])
def test_a_worker(tmp_path: Path, database_url: str, redis_url: str, redis_kind: str, database_kind: str) -> None:
    """It tries for ever, logs at level debug, is asked for its health and its metrics, and stops."""
    urls = database_urls(database_url)[database_kind], redis_urls(redis_url)[redis_kind]
    variables = environment(tmp_path, *urls)
    log = tmp_path / "worker.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "viewer_pipeline.cli", "worker"], env=variables, cwd=tmp_path, stderr=output
        )
    try:
        wait_until(lambda: "not_listening" in log.read_text() or process.poll() is not None, 60, "it tries")
        for path in ("/", "/health", "/metrics", "/ping", "/other"):
            try:
                with urllib.request.urlopen(
                    f"http://127.0.0.1:{variables['HEALTH_CHECK_PORT']}{path}", timeout=ENOUGH
                ) as a:
                    body = a.read().decode()
            except urllib.error.HTTPError as error:
                body = error.read().decode()
            assert_clean(body)
        process.send_signal(signal.SIGTERM)
        assert process.wait(ENOUGH) == 0
    finally:
        process.kill()
        process.wait()
    assert_clean(log.read_text())
    assert "Traceback" not in log.read_text()
