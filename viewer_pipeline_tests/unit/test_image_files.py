"""Rules for Dockerfile, .dockerignore, docker-compose.yaml and the lock of the image; and their linters."""

from __future__ import annotations

import importlib.metadata
import json
import re
import shutil
import subprocess
import sysconfig
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from viewer_pipeline.code_server.fork_server import MAX_DIRECTORY_BYTES
from viewer_pipeline.settings import Settings
from viewer_pipeline.stack.dagster_command_lines import CODE_SERVER_PORT, UI_PORT
from viewer_pipeline_tests.support.containers import (
    ROOT,
    fill_in,
    not_ignored,
    of,
    read_compose,
    read_dockerfile,
    seconds,
)

COMPOSE: dict[str, Any] = read_compose(POSTGRES_PASSWORD="secret")
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"] == "viewer-pipeline"}
STAGES = read_dockerfile((ROOT / "Dockerfile").read_text(encoding="utf-8"))
LAST = STAGES[-1]


def pins(lock: str) -> list[tuple[Requirement, frozenset[str]]]:
    """Return the requirements of a lock with their hashes; a name may occur several times with different markers."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / lock).read_text(encoding="utf-8"), flags=re.MULTILINE)
    requirements = []
    for entry in re.sub(r"\\\n", "", text).splitlines():
        requirement, *hashes = entry.split("--hash=")
        requirements.append((Requirement(requirement.strip()), frozenset(value.strip() for value in hashes)))
    return requirements


def dependencies(names: list[str]) -> set[str]:
    """Return these packages and their dependencies on this platform, according to the installed metadata."""
    packages, queue = set[str](), [Requirement(name) for name in names]
    while queue:
        requirement = queue.pop()
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        key = name + "".join(sorted(f"[{extra}]" for extra in requirement.extras))
        if key in packages:
            continue
        packages |= {key, name}
        for text in importlib.metadata.requires(name) or []:
            dependency = Requirement(text)
            extras = ["", *requirement.extras]
            if dependency.marker is None or any(dependency.marker.evaluate({"extra": extra}) for extra in extras):
                dependency.marker = None
                queue.append(dependency)
    return {name for name in packages if "[" not in name}


def test_image_lock_is_part_of_the_lock() -> None:
    """It has the versions and hashes that the tests use. (If not: make lock)."""
    complete = {(pin.name, str(pin.specifier)): hashes for pin, hashes in pins("requirements.lock")}
    image = {(pin.name, str(pin.specifier)): hashes for pin, hashes in pins("requirements.image.lock")}
    assert {pin for pin, hashes in image.items() if complete.get(pin) != hashes or not hashes} == set()


def test_image_contains_runtime_dependencies_only() -> None:
    """No servers and no test tools; the packages that build ours are removed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    locked = [requirement for requirement, _ in pins("requirements.image.lock")]
    installed = {pin.name for pin in locked if pin.marker is None or pin.marker.evaluate()}
    runtime, builders = dependencies(project["dependencies"]), dependencies(project["optional-dependencies"]["image"])
    assert sorted(installed) == sorted(runtime | builders)
    (removed,) = re.findall(r"pip uninstall --yes (.*)", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    assert set(removed.split()) >= builders - runtime | {"pip"}


def test_locks_name_no_index() -> None:
    """The user who installs chooses the index."""
    for lock in ("requirements.lock", "requirements.image.lock", "requirements.machines.lock"):
        assert not re.search(
            r"^\s*(--?(extra-)?index|-i\b|--find)|://", (ROOT / lock).read_text(encoding="utf-8"), re.MULTILINE
        )


def test_image_is_built_in_two_stages() -> None:
    """Both use the same slim base with a version; only the environment is copied to the second."""
    (base,) = re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    assert re.fullmatch(r"python:3\.\d+-slim-\w+", base)
    assert [stage[0].text.split()[0] for stage in STAGES] == ["${PYTHON_IMAGE}"] * 2
    assert [step.text for step in of(LAST, "COPY")] == ["--from=build /opt/viewer-pipeline /opt/viewer-pipeline"]
    installs = [step.text for stage in STAGES for step in of(stage, "RUN") if "pip install" in step.text]
    assert len(installs) == 2
    assert all("--require-hashes" in command or "--no-build-isolation" in command for command in installs)
    assert all("--no-deps" in command for command in installs)


def test_image_runs_as_an_unprivileged_user() -> None:
    """A fixed numeric id, which Kubernetes can tell from root; the user is created with the same id."""
    (user,) = of(LAST, "USER")
    assert user.text == "10001:10001"
    (useradd,) = [step.text for step in of(LAST, "RUN") if "useradd" in step.text]
    assert "--uid 10001" in useradd
    assert "--gid 10001" in useradd
    names = [step.name for step in LAST]
    assert names.index("USER") > max(index for index, name in enumerate(names) if name in ("RUN", "COPY"))


def test_image_connects_to_the_code_server_directly() -> None:
    """Whatever http_proxy is: gRPC reads grpc_proxy first, and an empty one means none. No service sets another."""
    assert "grpc_proxy=" in [word for step in of(LAST, "ENV") for word in step.words()]
    assert not [service for service in OURS.values() if "grpc_proxy" in service["environment"]]


def test_image_forwards_signals() -> None:
    """No shell runs between the container engine and the process."""
    assert [step.words() for step in of(LAST, "ENTRYPOINT")] == [["tini", "--", "viewer-pipeline"]]
    assert [step.words() for step in of(LAST, "CMD")] == [["worker"]]
    assert [step.text for step in of(LAST, "STOPSIGNAL")] == ["SIGTERM"]


def test_image_has_a_health_check() -> None:
    """It runs our own command, in exec form."""
    (check,) = of(LAST, "HEALTHCHECK")
    options, _, command = check.text.partition(" CMD ")
    assert json.loads(command) == ["viewer-pipeline", "healthcheck"]
    assert {"--interval=30s", "--timeout=10s"} <= set(options.split())


def test_hadolint_reports_nothing() -> None:
    """The linter of Dockerfiles accepts ours."""
    wheel = shutil.which("hadolint", path=f"{sysconfig.get_path('scripts')}:{sysconfig.get_path('purelib')}/bin")
    hadolint = wheel or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed: it has no wheel for this platform")
    result = subprocess.run([hadolint, "--no-color", ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_build_context_contains_nothing_private() -> None:
    """Only the code, its pages and what builds it; no settings with passwords, no Git history, no data."""
    paths = [
        ".env", ".git/config", ".viewer/postgres.password", "env.example", "viewer_pipeline_tests/conftest.py",
        "docs/images/run.png", ".venv/bin/python", "viewer_pipeline/__pycache__/cli.cpython-311.pyc",
        "requirements.lock", "viewer_pipeline/cli/main.py", "viewer_pipeline/flush/ledger.sql", "pyproject.toml",
        "requirements.image.lock", "docs/how-to/clones.md",
    ]  # fmt: skip
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8")
    assert not_ignored(ignore, paths) == paths[-5:]
    copied = {path for step in of(STAGES[0], "COPY") for path in step.words()[:-1]}
    assert {path.split("/")[0] for path in not_ignored(ignore, [f"{name}/x" for name in copied])} == copied


def test_compose_file_is_valid() -> None:
    """It matches the Compose specification, and every dependency exists."""
    compose_spec = pytest.importorskip("compose_spec", reason="compose-spec has no wheel for this platform")
    text = json.dumps(COMPOSE).replace("host-gateway", "127.0.0.1")  # Docker's own word for an address
    compose_spec.PyCompose.from_json(text).validate()
    for service in SERVICES.values():
        assert service.get("depends_on", {}).keys() <= SERVICES.keys()


def test_compose_runs_all_roles() -> None:
    """Each has a memory limit, a restart policy, a health check, and least privileges."""
    assert [service["command"][0] for service in OURS.values()] == [
        "migrate",
        "code-server",
        "daemon",
        "webserver",
        "worker",
    ]
    for name, service in OURS.items():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["environment"] == OURS["worker"]["environment"]
        if name != "migrate":
            assert service["healthcheck"]["test"][:4] == ["CMD", "viewer-pipeline", "healthcheck", name]
    assert {name: service["restart"] for name, service in SERVICES.items()} == {
        **dict.fromkeys(SERVICES, "unless-stopped"),
        "migrate": "no",
    }
    assert all("mem_limit" in service and "healthcheck" in service for service in SERVICES.values())


def test_compose_can_fork_runs() -> None:
    """DAGSTER_HOME is in a directory that is writable, and short enough for the socket of the fork server."""
    for service in OURS.values():
        home = service["environment"]["DAGSTER_HOME"]
        assert home.startswith(tuple(f"{mount.partition(':')[0]}/" for mount in service["tmpfs"]))
        assert len(home) <= MAX_DIRECTORY_BYTES
        assert f"DAGSTER_HOME={home}" in [word for step in of(LAST, "ENV") for word in step.words()]


def test_compose_starts_in_order() -> None:
    """Servers, schema, code server, then the others; the worker is stopped before the code server."""
    needs = {
        name: {other: dependency["condition"] for other, dependency in service["depends_on"].items()}
        for name, service in OURS.items()
    }
    optional = {
        (name, other)
        for name, service in OURS.items()
        for other, dependency in service["depends_on"].items()
        if not dependency.get("required", True)
    }
    healthy, done = "service_healthy", "service_completed_successfully"
    servers = {"migrate": done, "postgres": healthy, "redis": healthy}
    assert needs == {
        "migrate": {"postgres": healthy, "redis": healthy},
        "code-server": servers,
        "daemon": {"code-server": healthy},
        "webserver": {"code-server": healthy},
        "worker": {**servers, "code-server": "service_started"},
    }
    assert optional == {(name, other) for name in OURS for other in needs[name].keys() & {"postgres", "redis"}}


def test_compose_publishes_ports_to_this_machine_only() -> None:
    """The UI has no login; Redis and PostgreSQL are not published."""
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert sorted(ports) == ["127.0.0.1:3000:3000", "127.0.0.1:3003:3003"]
    assert f":{UI_PORT}" in ports[0] + ports[1]
    arguments = [argument for service in OURS.values() for argument in service["command"]]
    assert str(CODE_SERVER_PORT) in arguments


def test_compose_persists_counters() -> None:
    """Redis keeps them on disk and does not evict them; each server has a volume."""
    command = SERVICES["redis"]["command"]
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert (options["--appendonly"], options["--maxmemory-policy"]) == ("yes", "noeviction")
    assert SERVICES["redis"]["volumes"] == ["redis:/data"]
    assert SERVICES["postgres"]["volumes"] == ["postgres:/var/lib/postgresql"]
    assert COMPOSE["volumes"].keys() == {"postgres", "redis", "reports"}


def test_compose_contains_no_password() -> None:
    """The password is a variable, for the server and for libpq; the other variables are settings."""
    text = (ROOT / "docker-compose.yaml").read_text(encoding="utf-8")
    assert text.count("${POSTGRES_PASSWORD:-}") == text.count("${POSTGRES_PASSWORD") == 2
    assert SERVICES["postgres"]["environment"]["POSTGRES_PASSWORD"] == "secret"
    assert OURS["worker"]["environment"]["PGPASSWORD"] == "secret"
    assert OURS["worker"]["environment"].keys() - {"PGPASSWORD"} <= {name.upper() for name in Settings.model_fields}


@pytest.mark.parametrize(("profiles", "servers"), [("postgres,redis", 2), ("postgres", 1), ("redis", 1), ("", 0)])
def test_compose_runs_the_servers_of_the_profiles(profiles: str, servers: int) -> None:
    """Each of both servers, or none; our roles in any case, and without a server that they wait for."""
    services = read_compose(POSTGRES_PASSWORD="secret", COMPOSE_PROFILES=profiles)["services"]
    bundled = services.keys() - OURS.keys()
    assert (bundled, len(bundled)) == (set(filter(None, profiles.split(","))), servers)
    assert services.keys() >= OURS.keys()
    for service in services.values():
        needed = {
            other for other, dependency in service.get("depends_on", {}).items() if dependency.get("required", True)
        }
        assert needed <= services.keys()


def test_compose_has_a_profile_with_celery_workers() -> None:
    """Two workers under names of their own, each with a check of it, and a broker; otherwise like the other roles."""
    profiles = "postgres,redis,celery"
    compose = read_compose(
        POSTGRES_PASSWORD="secret", COMPOSE_PROFILES=profiles, IMAGE_LOCK="requirements.machines.lock"
    )
    compose_spec = pytest.importorskip("compose_spec", reason="compose-spec has no wheel for this platform")
    compose_spec.PyCompose.from_json(json.dumps(compose).replace("host-gateway", "127.0.0.1")).validate()
    services = compose["services"]
    assert services.keys() - SERVICES.keys() == {"celery-1", "celery-2", "celery-broker"}
    for name in ("celery-1", "celery-2"):
        service = services[name]
        assert service["command"][:3] == ["-A", "viewer_pipeline.celery_worker", "worker"]
        assert service["command"][-1] == service["healthcheck"]["test"][-1] == f"flush@{name}"
        assert (service["image"], service["environment"]) == ("viewer-pipeline", OURS["worker"]["environment"])
        assert service["build"]["args"]["LOCK"] == "requirements.machines.lock"
        assert service["depends_on"].keys() <= services.keys()
    page = (ROOT / "docs/how-to/celery.md").read_text(encoding="utf-8")
    assert f"COMPOSE_PROFILES={profiles}\nCELERY_BROKER_URL=redis://celery-broker:6379/0" in page
    assert (ROOT / "requirements.machines.lock").exists()


def test_compose_uses_your_own_servers() -> None:
    """The URLs of .env, also together with a bundled server; without them, those of the bundled servers."""
    own = {"DATABASE_URL": "postgresql://me:x@db.example/streamix", "REDIS_URL": "rediss://cache.example:6380/1"}
    compose = read_compose(ROOT, COMPOSE_PROFILES="", **own)
    environment = compose["services"]["worker"]["environment"]
    assert {name: environment[name] for name in own} == own
    assert environment["PGPASSWORD"] == ""
    bundled = OURS["worker"]["environment"]
    assert bundled["DATABASE_URL"] == "postgresql://viewer@postgres:5432/viewer"
    assert bundled["REDIS_URL"] == "redis://redis:6379/0"


def test_compose_requires_a_choice_of_servers() -> None:
    """Without COMPOSE_PROFILES Compose stops with a message; an empty value is a choice."""
    text = (ROOT / "docker-compose.yaml").read_text(encoding="utf-8")
    variable = re.search(r"\$\{COMPOSE_PROFILES\?[^}]*\}", text)
    assert variable is not None
    with pytest.raises(
        ValueError, match=r"variable COMPOSE_PROFILES is missing a value: set it in \.env to postgres,redis"
    ):
        fill_in(variable[0], {})
    assert fill_in(variable[0], {"COMPOSE_PROFILES": ""}) == ""
    assert all("viewer-pipeline.profiles" in service["labels"] for service in OURS.values())


def test_compose_gives_the_worker_time_to_stop() -> None:
    """Its grace period is longer than SHUTDOWN_TIMEOUT_MS."""
    limit_ms: int = Settings.model_fields["shutdown_timeout_ms"].default
    assert seconds(OURS["worker"]["stop_grace_period"]) * 1000 > limit_ms


def test_pages_named_in_comments_exist() -> None:
    """Dockerfile and docker-compose.yaml name pages of the documentation."""
    for name in ("Dockerfile", "docker-compose.yaml"):
        named = re.findall(r"docs/[\w/.-]+\.md", (ROOT / name).read_text(encoding="utf-8"))
        assert [path for path in named if not Path(ROOT, path).exists()] == []
