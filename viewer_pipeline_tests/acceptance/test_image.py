"""Dockerfile and docker-compose.yaml without Docker: the same files, commands, order, environment and user.

`make image-test` builds from scratch, from the lock, and runs every role, which takes minutes. `make test` uses the
packages of the environment, and runs `migrate` only.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from viewer_pipeline.code_server.process_lifetime import FORK_SERVER_NAME
from viewer_pipeline.stack.ports import find_free_port
from viewer_pipeline.stack.postgres_server import NAME, PostgresServer
from viewer_pipeline_tests.support.containers import (
    ROOT,
    Composed,
    Image,
    of,
    read_compose,
    read_dockerfile,
    site_packages,
)
from viewer_pipeline_tests.support.processes import name
from viewer_pipeline_tests.support.waiting import processes_with, wait_until
from viewer_pipeline_tests.support.world import PREFIX

BASE_PYTHON: str = sys._base_executable  # type: ignore[attr-defined]
FROM_SCRATCH = "VIEWER_TEST_IMAGE" in os.environ
pytestmark = pytest.mark.timeout(1800 if FROM_SCRATCH else 600)
ROLES = ("worker", "code-server", "daemon", "webserver")
VIEWS = {"vod_1": 1, "vod_2": 2, "late": 3}


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    """The image, in a directory that its user can enter."""
    stages = read_dockerfile((ROOT / "Dockerfile").read_text(encoding="utf-8"))
    (user,) = of(stages[-1], "USER")
    uid, gid = map(int, user.text.split(":"))
    owner = (uid, gid) if os.geteuid() == 0 else None
    python = _interpreter(owner)
    if python is None:
        owner, python = None, BASE_PYTHON
    base = Path(tempfile.mkdtemp(prefix="viewer-image-"))
    try:
        base.chmod(0o755)
        image = Image(base, python, stages, owner)
        image.build(afresh=FROM_SCRATCH)
        yield image
    finally:
        shutil.rmtree(base)


def _interpreter(owner: tuple[int, int] | None) -> str | None:
    """Return a Python of this version that the image's user can run, with its packages: ours may be below /root."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    account: dict[str, Any] = {} if owner is None else {"user": owner[0], "group": owner[1], "extra_groups": []}
    imports = (
        "import ensurepip"
        if FROM_SCRATCH
        else f"import sys; sys.path.append({site_packages()!r}); import dagster_postgres, redis"
    )
    for python in filter(None, (BASE_PYTHON, shutil.which(version, path="/usr/local/bin:/usr/bin"))):
        with contextlib.suppress(PermissionError):
            result = subprocess.run(
                [python, "-c", imports], cwd="/", env={}, capture_output=True, check=False, **account
            )
            if result.returncode == 0:
                return python
    return None


@pytest.fixture
def empty_database(postgres_server: PostgresServer) -> Iterator[str]:
    """An empty database, as on a new server."""
    name = "test_" + os.urandom(6).hex()
    with psycopg.connect(postgres_server.url_of_database("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        yield name
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def composed(image: Image, postgres_server: PostgresServer, empty_database: str, redis_url: str) -> Iterator[Composed]:
    """The services of our image, on PostgreSQL and Redis of the tests."""
    compose = read_compose(POSTGRES_PASSWORD=postgres_server.password)
    assert compose["services"]["postgres"]["environment"]["POSTGRES_USER"] == NAME
    ours = {name: service for name, service in compose["services"].items() if service["image"] == "viewer-pipeline"}
    ports = {port: str(find_free_port()) for port in ("4000", "3000", "3003")}
    addresses = {
        "postgres:5432/viewer": f"127.0.0.1:{postgres_server.port}/{empty_database}",
        "redis:6379": redis_url.partition("://")[2].partition("/")[0],
        "code-server:4000": f"127.0.0.1:{ports['4000']}",
        "0.0.0.0": "127.0.0.1",
        **ports,
    }
    services = Composed(image, ours, addresses, {"BATCH_INTERVAL_MS": "5000"})
    try:
        yield services
    finally:
        services.end()


def test_image_contains_the_package_and_migrates(
    composed: Composed, postgres_server: PostgresServer, empty_database: str
) -> None:
    """The files that .dockerignore lets through are the whole package and its pages, and `migrate` runs."""
    (built,) = composed.image.base.glob("opt/viewer-pipeline/lib/python3*/site-packages/viewer_pipeline")
    pages = {str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md")}
    assert package_files(built) == package_files(ROOT / "viewer_pipeline") | pages
    before = composed.image.code()
    composed.start("migrate")
    composed.wait_for("migrate", "service_completed_successfully")
    with psycopg.connect(postgres_server.url_of_database(empty_database)) as connection:
        assert connection.execute("SELECT count(*) FROM viewer.vod_view_counts").fetchone() == (0,)
    health = composed.check_health("worker")
    assert (health.returncode, health.stdout) == (1, "")
    assert health.stderr.startswith("error: Not healthy: http://127.0.0.1:")
    assert composed.image.code() == before


def package_files(package: Path) -> set[str]:
    """Return the names of a package's files, without byte code."""
    files = (path.relative_to(package) for path in package.rglob("*") if path.is_file())
    return {str(path) for path in files if path.suffix != ".pyc"}


@pytest.mark.skipif(not FROM_SCRATCH, reason="takes minutes: make image-test runs it")
def test_compose_runs_all_roles(
    composed: Composed,
    postgres_server: PostgresServer,
    empty_database: str,
    client: redis.Redis,
    add_to_summary: Callable[[str], None],
) -> None:
    """All roles start in order of their health checks, views are persisted, roles stop on SIGTERM with status 0."""
    before = composed.image.code()
    health = {role: composed.check_health(role) for role in ROLES}
    assert {role: check.returncode for role, check in health.items()} == dict.fromkeys(ROLES, 1), health
    assert not [check.stderr for check in health.values() if "Traceback" in check.stderr]

    composed.up()
    for role in ("worker", "webserver", "daemon"):
        composed.wait_for(role, "service_healthy")
    assert sys.platform != "linux" or FORK_SERVER_NAME in descendants(composed.running["code-server"].pid)
    add_to_summary(
        f"image: memory of {', '.join(f'{name} {memory(p.pid):.0f} MB' for name, p in composed.running.items())}"
    )
    assert client.publish("view_count_updates", '{"vodId":"vod_1","count":1}') == 1
    client.incrby(PREFIX + "vod_2", 2)

    def totals() -> dict[str, int]:
        with psycopg.connect(postgres_server.url_of_database(empty_database)) as connection:
            return dict(connection.execute("SELECT vod_id, view_count FROM viewer.vod_view_counts").fetchall())

    persisted = {vod: views for vod, views in VIEWS.items() if vod != "late"}
    wait_until(lambda: totals() == persisted, 300, "both views are persisted")
    assert {role: composed.check_health(role).returncode for role in ROLES} == dict.fromkeys(ROLES, 0)

    client.publish("view_count_updates", json.dumps({"vodId": "late", "count": 3}))
    stopped = {name: composed.stop(name) for name in reversed(composed.order()) if name in ROLES}
    assert stopped == dict.fromkeys(ROLES, 0), {name: composed.log(name).read_text()[-2000:] for name in ROLES}
    assert totals() == VIEWS
    assert composed.check_health("worker").returncode == 1
    assert composed.image.code() == before
    wait_until(lambda: not processes_with(composed.image.base), 10, "every process has ended")


def descendants(pid: int) -> list[str]:
    """Return the names of the descendants of a process."""
    children = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return [each for child in children for each in (name(child), *descendants(child))]


def memory(pid: int) -> float:
    """Return the resident memory of a process and its children in MB, with shared pages; 0 without /proc."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        (resident,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "VmRSS" in line]
    except (OSError, ValueError):
        return 0
    return int(resident.split()[1]) / 1024 + sum(memory(int(child)) for child in children)
