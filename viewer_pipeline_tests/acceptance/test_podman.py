"""The image built with Buildah and run with Podman, by itself and with docker-compose.yaml (`make image-test`).

PostgreSQL and Redis of the compose file are made from Debian's packages under the same names.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
import requests

from viewer_pipeline.stack.ports import find_free_port
from viewer_pipeline_tests.support.containers import ROOT, files_of, not_ignored, read_compose
from viewer_pipeline_tests.support.podman import Podman, base_image, reason_not_to_run
from viewer_pipeline_tests.support.podman_compose import CHECK_TIMEOUT, START_SECONDS, PodmanProject
from viewer_pipeline_tests.support.waiting import ENOUGH, wait_until
from viewer_pipeline_tests.support.world import PREFIX

REQUESTED = "VIEWER_TEST_IMAGE" in os.environ
REASON = reason_not_to_run() if REQUESTED else "takes minutes: make image-test runs it"
COMPOSE_REASON = reason_not_to_run("podman-compose") if REQUESTED else REASON
pytestmark = [pytest.mark.timeout(2400), pytest.mark.skipif(REASON is not None, reason=str(REASON))]
IMAGE = "localhost/viewer-pipeline"
ROLES = ("code-server", "daemon", "webserver", "worker")
MAX_MEGABYTES = 450
# What every role may do: printed by a process in its container.
PROBE = """
import json, os, pathlib
def writable(path):
    try:
        pathlib.Path(path, "probe").write_text("x")
    except OSError:
        return False
    pathlib.Path(path, "probe").unlink()
    return True
lines = pathlib.Path("/proc/1/status").read_text().splitlines()
status = dict(line.split(":\\t", 1) for line in lines if ":\\t" in line)
limits = ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory.max")
print(json.dumps({
    "ids": [os.getuid(), os.getgid()],
    "writable": [path for path in ("/", "/opt/viewer-pipeline", "/var/lib/viewer-pipeline", "/tmp") if writable(path)],
    "capabilities": int(status["CapEff"], 16) | int(status["CapBnd"], 16),
    "no_new_privileges": status["NoNewPrivs"].strip(),
    "memory": next(int(pathlib.Path(limit).read_text()) for limit in limits if pathlib.Path(limit).exists()),
}))
"""
TOTALS = "SELECT vod_id, view_count FROM viewer.vod_view_counts"
UNITS = {"m": 2**20, "g": 2**30}


@pytest.fixture(scope="module")
def podman() -> Podman:
    """Podman with the image of this checkout."""
    podman = Podman()
    podman.make_base_image()
    podman.build(IMAGE, ROOT)
    return podman


def test_image_is_small_and_complete(podman: Podman, add_to_summary: Callable[[str], None]) -> None:
    """At most 450 MB; what is removed from the packages is not needed by pandas, NumPy or any module of ours."""
    size, base = podman.megabytes(IMAGE), podman.megabytes(base_image())
    add_to_summary(f"image: {size:.0f} MB, of which the base is {base:.0f} MB")
    assert size <= MAX_MEGABYTES
    extras = (
        "viewer_pipeline.celery_worker.celery",
        "viewer_pipeline.orchestration.celery.launcher",
        "viewer_pipeline.orchestration.trace_export",
    )
    program = (
        "import pkgutil, importlib, pandas.testing, numpy.testing, viewer_pipeline as ours\n"
        "names = [module.name for module in pkgutil.walk_packages(ours.__path__, 'viewer_pipeline.')]\n"
        "scripts = ('viewer_pipeline.migrations.', 'viewer_pipeline.cli.__main__')\n"
        f"print(len([importlib.import_module(name) for name in names if not name.startswith(scripts + {extras})]))"
    )
    options = ("--rm", "--network=none", "--read-only", "--tmpfs=/tmp", "--entrypoint=python")
    assert int(podman.podman("run", *options, IMAGE, "-W", "ignore", "-c", program)) > 200
    label = podman.podman("run", "--rm", "--network=none", IMAGE, "--version")
    assert label.startswith("viewer-pipeline")


def test_every_role_runs_read_only(podman: Podman, database_url: str, redis_url: str, client: redis.Redis) -> None:
    """As user 10001 and without capabilities; views are persisted, and each role stops on SIGTERM with status 0."""
    services = read_compose(DATABASE_URL=database_url, REDIS_URL=redis_url)["services"]
    ports = {name: str(find_free_port()) for name in ("4000", "3000", "3003")}
    names = {role: f"{role}-{os.getpid()}" for role in ROLES}
    try:
        for role, name in names.items():
            service = services[role]
            environment = {**service["environment"], "BATCH_INTERVAL_MS": "5000", "HEALTH_CHECK_PORT": ports["3003"]}
            options = [
                *(f"--tmpfs={mount}" for mount in service["tmpfs"]),
                *(f"--env={key}={value}" for key, value in environment.items()),
                *(f"--cap-drop={capability}" for capability in service["cap_drop"]),
                *(f"--security-opt={option}" for option in service["security_opt"]),
                f"--health-cmd={' '.join(with_ports(service['healthcheck']['test'][1:], ports))}",
                f"--health-timeout={CHECK_TIMEOUT}",
                f"--memory={service['mem_limit']}",
            ]
            command = with_ports([word.replace("code-server:", "127.0.0.1:") for word in service["command"]], ports)
            podman.podman(
                "run", "--detach", "--read-only", "--network=host", f"--name={name}", *options, IMAGE, *command
            )
            wait_until(lambda name=name: is_healthy(podman, name), START_SECONDS, f"{role} is healthy")  # type: ignore[misc] # the name of this turn
            assert_least_privileges(probe(podman, name), service["mem_limit"], "/tmp")
        client.incrby(PREFIX + "vod_1", 2)
        assert client.publish("view_count_updates", '{"vodId":"vod_2","count":1}') == 1

        def totals() -> dict[str, int]:
            with psycopg.connect(database_url) as connection:
                return dict(connection.execute("SELECT vod_id, view_count FROM viewer.vod_view_counts").fetchall())

        wait_until(lambda: totals() == {"vod_1": 2, "vod_2": 1}, 300, "the views are persisted")
        client.incrby(PREFIX + "vod_1", 5)
        statuses = {}
        for role in reversed(ROLES):
            podman.podman("stop", "--time=60", names[role])
            statuses[role] = podman.inspect(names[role])["State"]["ExitCode"]
        assert statuses == dict.fromkeys(ROLES, 0)
        assert totals() == {"vod_1": 7, "vod_2": 1}
    finally:
        for name in names.values():
            podman.podman("rm", "--force", "--ignore", "--time=0", name)


def with_ports(words: list[str], ports: dict[str, str]) -> list[str]:
    """Replace the ports of the compose file."""
    for port, used in ports.items():
        words = [word.replace(port, used) for word in words]
    return words


def is_healthy(podman: Podman, container: str) -> bool:
    """Whether a health check passes. Raises AssertionError if the container has ended."""
    assert podman.pid(container), podman.log(container)
    return podman.is_healthy(container)


def probe(podman: Podman, container: str) -> dict[str, Any]:
    """Return what a process in the container may do."""
    abilities: dict[str, Any] = json.loads(podman.podman("exec", container, "python", "-c", PROBE))
    return abilities


def assert_least_privileges(abilities: dict[str, Any], limit: str, *writable: str) -> None:
    """The image's user, no capabilities, nothing writable but these directories, and the memory of the compose file."""
    assert abilities == {
        "ids": [10001, 10001],
        "writable": list(writable),
        "capabilities": 0,
        "no_new_privileges": "1",
        "memory": int(limit[:-1]) * UNITS[limit[-1]],
    }


@contextmanager
def compose_project(podman: Podman, directory: Path, profiles: str, **settings: str) -> Iterator[PodmanProject]:
    """The services of these profiles, not started; on ports of this machine that are free."""
    podman.make_server_images()
    settings = {
        "COMPOSE_PROFILES": profiles,
        "POSTGRES_PASSWORD": "p@ss:w/rd",  # libpq gets it by itself: no character needs an escape
        "BATCH_INTERVAL_MS": "5000",
        **settings,
    }
    ports = {"3000": find_free_port(), "3003": find_free_port()}
    project = PodmanProject(podman, directory, settings, ports, name=f"viewer-{os.getpid()}")
    try:
        yield project
    finally:
        project.end()


@pytest.fixture
def project(podman: Podman, tmp_path: Path) -> Iterator[PodmanProject]:
    """The services with both servers."""
    with compose_project(podman, tmp_path, "postgres,redis") as project:
        yield project


@pytest.fixture
def celery_project(podman: Podman, tmp_path: Path) -> Iterator[PodmanProject]:
    """The same with Celery workers and two streams, from an image with their extra."""
    machines = {"IMAGE_LOCK": "requirements.machines.lock", "CELERY_BROKER_URL": "redis://celery-broker:6379/0"}
    podman.build(IMAGE, ROOT, f"--build-arg=LOCK={machines['IMAGE_LOCK']}")
    try:
        with compose_project(podman, tmp_path, "postgres,redis,celery", **machines, FLUSH_STREAMS="2") as project:
            yield project
    finally:
        podman.build(IMAGE, ROOT)  # from the cache


def wait_until_healthy(port: int) -> None:
    """Wait until all checks of /health are healthy. Raises AssertionError with those that are not."""
    unhealthy = dict[str, str]()

    def is_healthy() -> bool:
        checks = requests.get(f"http://127.0.0.1:{port}/health", timeout=ENOUGH).json()["checks"]
        unhealthy.clear()
        unhealthy.update({name: str(each["message"]) for name, each in checks.items() if each["status"] != "healthy"})
        return not unhealthy

    try:
        wait_until(is_healthy, 120, "/health is healthy")
    except AssertionError as error:
        error.add_note(str(unhealthy))
        raise


@pytest.mark.skipif(COMPOSE_REASON is not None, reason=str(COMPOSE_REASON))
def test_compose_keeps_every_view(
    podman: Podman, project: PodmanProject, tmp_path: Path, add_to_summary: Callable[[str], None]
) -> None:
    """Through the kill of each container, an upgrade and a stop, each view counts once."""
    sent = dict[str, int]()

    def send(vod: str, views: int = 1) -> None:
        """Count as a producer does that has Redis' reply."""
        project.execute("redis", "redis-cli", "INCRBY", PREFIX + vod, str(views))
        sent[vod] = sent.get(vod, 0) + views

    def wait_for_views(when: str) -> None:
        wait_until(lambda: project.numbers(TOTALS) == sent, 300, f"{when}: the totals are {sent}")

    project.up(*project.order())
    for role in ROLES:
        project.wait_for(role)
        limit = project.compose["services"][role]["mem_limit"]
        assert_least_privileges(probe(podman, project.container(role)), limit, "/var/lib/viewer-pipeline", "/tmp")
    wait_until_healthy(project.ports["3003"])
    assert requests.get(f"http://127.0.0.1:{project.ports['3000']}/server_info", timeout=ENOUGH).status_code == 200
    send("vod_1", 3)
    project.execute("worker", "viewer-pipeline", "send", "vod_2")  # a message that carries a view
    sent["vod_2"] = 1
    wait_for_views("after the start")

    # A process that needs more memory than the limit of its container is killed; the role continues.
    worker, pid = project.container("worker"), podman.pid(project.container("worker"))
    assert podman.execute("podman", "exec", worker, "python", "-c", "b'x' * 2**30", check=False).returncode == 137
    assert podman.pid(worker) == pid

    for service in ("redis", "postgres", *ROLES):
        container = project.container(service)
        before = podman.pid(container)
        send("vod_1")
        send(f"before_{service}", 2)
        podman.kill(container)
        wait_until(lambda: podman.pid(container) not in (0, before), 120, f"{service} is restarted")  # noqa: B023 - of this turn
        project.wait_for(service)
        send("vod_1")
        wait_for_views(f"after the kill of {service}")

    # The upgrade of docs/operations.md: another version of the code in the same containers.
    send("vod_1")
    build_version(podman, tmp_path / "context", "99.0.0")
    assert project.stop(*ROLES) == dict.fromkeys(ROLES, 0)
    send("during_upgrade", 4)
    project.remove(*ROLES, "migrate")
    project.up("migrate", *ROLES)
    for role in ROLES:
        project.wait_for(role)
        assert "99.0.0" in project.execute(role, "viewer-pipeline", "--version")
    send("vod_1")
    wait_for_views("after the upgrade")

    # A stop: the worker flushes what is pending. The volumes keep the totals.
    send("last", 6)
    assert project.stop(*ROLES) == dict.fromkeys(ROLES, 0)
    assert project.numbers(TOTALS) == sent
    assert project.stop("postgres", "redis") == {"redis": 0, "postgres": 0}
    project.remove("postgres", "redis")
    project.up("postgres", "redis")
    project.wait_for("postgres")
    project.wait_for("redis")
    assert project.numbers(TOTALS) == sent
    assert project.execute("redis", "redis-cli", "EXISTS", *(PREFIX + vod for vod in sent)) == "0"
    add_to_summary(f"compose: {sum(sent.values())} views counted once through 6 kills, an upgrade and a stop")


@pytest.mark.skipif(COMPOSE_REASON is not None, reason=str(COMPOSE_REASON))
def test_compose_with_celery_workers(
    podman: Podman, celery_project: PodmanProject, add_to_summary: Callable[[str], None]
) -> None:
    """Workers flush both parts of the VODs. One of two is killed, and started again: each view counts once."""
    project, sent = celery_project, dict[str, int]()
    by_stream = "SELECT viewer.stream_of(seq), count(*) FROM viewer.flush GROUP BY 1"

    def send(name: str) -> None:
        for number in range(20):
            vod = f"{name}_{number}"
            project.execute("redis", "redis-cli", "INCRBY", PREFIX + vod, "2")
            project.execute(
                "redis", "redis-cli", "PUBLISH", "view_count_updates", json.dumps({"vodId": vod, "count": 1})
            )
            sent[vod] = 3

    project.up(*project.order())
    for service in ("celery-broker", "celery-1", "celery-2", *ROLES):
        project.wait_for(service)
    for service in ("celery-1", "celery-2"):
        limit = project.compose["services"][service]["mem_limit"]
        assert_least_privileges(probe(podman, project.container(service)), limit, "/var/lib/viewer-pipeline", "/tmp")
    wait_until_healthy(project.ports["3003"])
    send("before")
    wait_until(lambda: project.numbers(TOTALS) == sent, 300, "the views are persisted")
    assert set(project.numbers(by_stream)) == {"1", "2"}
    executed = [podman.log(project.container(service)).count("counters_read") for service in ("celery-1", "celery-2")]
    assert sum(executed) > 0
    send("meanwhile")
    killed = project.container("celery-1")
    before = podman.pid(killed)
    podman.kill(killed)
    wait_until(lambda: project.numbers(TOTALS) == sent, 300, "the views are persisted without one of them")
    wait_until(lambda: podman.pid(killed) not in (0, before), 120, "it is started again")
    project.wait_for("celery-1")
    wait_until_healthy(project.ports["3003"])
    services = ("celery-1", "celery-2", *ROLES)
    assert project.stop(*services) == dict.fromkeys(services, 0)
    add_to_summary(f"compose with Celery: {sum(sent.values())} views of two streams counted once, one worker killed")


def build_version(podman: Podman, context: Path, version: str) -> None:
    """Build the image of this checkout with another version of the package."""
    for path in [*not_ignored((ROOT / ".dockerignore").read_text(encoding="utf-8"), files_of(ROOT)), "Dockerfile"]:
        (context / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, context / path)
    project = context / "pyproject.toml"
    project.write_text(project.read_text().replace('\nversion = "', f'\nversion = "{version}"\n# '))
    podman.build(IMAGE, context)
