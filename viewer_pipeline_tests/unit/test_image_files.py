"""Dockerfile, .dockerignore, docker-compose.yaml and the image's lock keep their rules, and linters accept them."""

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

from viewer_pipeline.settings import Settings
from viewer_pipeline.stack.dagster_processes import CODE_SERVER_PORT, UI_PORT
from viewer_pipeline_tests.support.containers import ROOT, not_ignored, of, read_compose, read_dockerfile, seconds

COMPOSE: dict[str, Any] = read_compose(POSTGRES_PASSWORD="secret")
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = {name: one for name, one in SERVICES.items() if one["image"] == "viewer-pipeline"}
STAGES = read_dockerfile((ROOT / "Dockerfile").read_text(encoding="utf-8"))
LAST = STAGES[-1]


def pins(lock: str) -> list[tuple[Requirement, frozenset[str]]]:
    """Return what a lock pins: requirements with their markers, of one name several with markers apart; and hashes."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / lock).read_text(encoding="utf-8"), flags=re.MULTILINE)
    found = []
    for entry in re.sub(r"\\\n", "", text).splitlines():
        said, *hashes = entry.split("--hash=")
        found.append((Requirement(said.strip()), frozenset(one.strip() for one in hashes)))
    return found


def needed(names: list[str]) -> set[str]:
    """Return these packages and all that they need here, by what is installed."""
    found, left = set[str](), [Requirement(name) for name in names]
    while left:
        requirement = left.pop()
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        key = name + "".join(sorted(f"[{extra}]" for extra in requirement.extras))
        if key in found:
            continue
        found |= {key, name}
        for said in importlib.metadata.requires(name) or []:
            one = Requirement(said)
            extras = ["", *requirement.extras]
            if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in extras):
                one.marker = None
                left.append(one)
    return {name for name in found if "[" not in name}


def test_the_lock_of_the_image_is_the_lock() -> None:
    """The same versions and hashes as the tests run on. (Else: make lock)."""
    whole = {(one.name, str(one.specifier)): hashes for one, hashes in pins("requirements.lock")}
    image = {(one.name, str(one.specifier)): hashes for one, hashes in pins("requirements.image.lock")}
    assert {pin for pin, hashes in image.items() if whole.get(pin) != hashes or not hashes} == set()


def test_the_image_gets_what_the_package_needs_and_no_more() -> None:
    """No servers, no test tools; what builds the package is removed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    locked = [one for one, _ in pins("requirements.image.lock")]
    here = {one.name for one in locked if one.marker is None or one.marker.evaluate()}
    runtime, builders = needed(project["dependencies"]), needed(project["optional-dependencies"]["image"])
    assert sorted(here) == sorted(runtime | builders)
    (removed,) = re.findall(r"pip uninstall --yes (.*)", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    assert set(removed.split()) >= builders - runtime | {"pip"}


def test_locks_name_no_index() -> None:
    """Where packages come from is the business of whoever installs."""
    for lock in ("requirements.lock", "requirements.image.lock"):
        assert not re.search(
            r"^\s*(--?(extra-)?index|-i\b|--find)|://", (ROOT / lock).read_text(encoding="utf-8"), re.MULTILINE
        )


def test_the_image_is_built_in_two_stages_on_one_named_base() -> None:
    """A slim one with a version, the same for both; what is copied over is the environment alone."""
    (base,) = re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    assert re.fullmatch(r"python:3\.\d+-slim-\w+", base)
    assert [stage[0].text.split()[0] for stage in STAGES] == ["${PYTHON_IMAGE}"] * 2
    assert [one.text for one in of(LAST, "COPY")] == ["--from=build /opt/viewer-pipeline /opt/viewer-pipeline"]
    installs = [one.text for stage in STAGES for one in of(stage, "RUN") if "pip install" in one.text]
    assert len(installs) == 2
    assert all("--require-hashes" in said or "--no-build-isolation" in said for said in installs)
    assert all("--no-deps" in said for said in installs)


def test_the_image_runs_as_nobody_in_particular() -> None:
    """A fixed number, which Kubernetes can see is not root; the user is made with the same."""
    (user,) = of(LAST, "USER")
    assert user.text == "10001:10001"
    (made,) = [one.text for one in of(LAST, "RUN") if "useradd" in one.text]
    assert "--uid 10001" in made
    assert "--gid 10001" in made
    names = [one.name for one in LAST]
    assert names.index("USER") > max(index for index, name in enumerate(names) if name in ("RUN", "COPY"))


def test_signals_arrive() -> None:
    """No shell between the engine and the process."""
    assert [one.words() for one in of(LAST, "ENTRYPOINT")] == [["tini", "--", "viewer-pipeline"]]
    assert [one.words() for one in of(LAST, "CMD")] == [["worker"]]
    assert [one.text for one in of(LAST, "STOPSIGNAL")] == ["SIGTERM"]


def test_the_image_asks_health() -> None:
    """By our own command, in exec form."""
    (check,) = of(LAST, "HEALTHCHECK")
    options, _, command = check.text.partition(" CMD ")
    assert json.loads(command) == ["viewer-pipeline", "healthcheck"]
    assert {"--interval=30s", "--timeout=10s"} <= set(options.split())


def test_hadolint() -> None:
    """It has nothing to say."""
    found = shutil.which("hadolint", path=f"{sysconfig.get_path('scripts')}:{sysconfig.get_path('purelib')}/bin")
    hadolint = found or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed: it has no wheel for this platform")
    done = subprocess.run([hadolint, "--no-color", ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_nothing_private_gets_into_the_build() -> None:
    """Code and what builds it; no settings with passwords, no history, no data."""
    paths = [
        ".env", ".git/config", ".viewer/postgres.password", "env.example", "viewer_pipeline_tests/conftest.py",
        "docs/health.md", ".venv/bin/python", "viewer_pipeline/__pycache__/cli.cpython-311.pyc", "requirements.lock",
        "viewer_pipeline/cli/main.py", "viewer_pipeline/flush/ledger.sql", "pyproject.toml",
        "requirements.image.lock",
    ]  # fmt: skip
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8")
    assert not_ignored(ignore, paths) == paths[-4:]
    copied = {word for one in of(STAGES[0], "COPY") for word in one.words()[:-1]}
    assert {path.split("/")[0] for path in not_ignored(ignore, [f"{name}/x" for name in copied])} == copied


def test_compose_is_a_compose_file() -> None:
    """As the compose specification has it, and every reference leads somewhere."""
    compose_spec = pytest.importorskip("compose_spec", reason="compose-spec has no wheel for this platform")
    compose_spec.PyCompose.from_json(json.dumps(COMPOSE)).validate()
    for service in SERVICES.values():
        assert service.get("depends_on", {}).keys() <= SERVICES.keys()


def test_compose_has_every_role_of_the_image() -> None:
    """Each with memory, restarts, a health check, and nothing that it may do or write beyond its work."""
    assert [one["command"][0] for one in OURS.values()] == ["migrate", "code-server", "daemon", "webserver", "worker"]
    for name, one in OURS.items():
        assert one["read_only"] is True
        assert one["cap_drop"] == ["ALL"]
        assert one["security_opt"] == ["no-new-privileges:true"]
        assert one["environment"] == OURS["worker"]["environment"]
        if name != "migrate":
            assert one["healthcheck"]["test"][:4] == ["CMD", "viewer-pipeline", "healthcheck", name]
    assert {name: one["restart"] for name, one in SERVICES.items()} == {
        **dict.fromkeys(SERVICES, "unless-stopped"),
        "migrate": "no",
    }
    assert all("mem_limit" in one and ("healthcheck" in one) for one in SERVICES.values())


def test_compose_waits_for_what_is_needed() -> None:
    """PostgreSQL and Redis answer, the schema is made, the code server serves; and the worker is stopped before it."""
    needs = {name: {other: n["condition"] for other, n in one["depends_on"].items()} for name, one in OURS.items()}
    healthy, done = "service_healthy", "service_completed_successfully"
    servers = {"migrate": done, "postgres": healthy, "redis": healthy}
    assert needs == {
        "migrate": {"postgres": healthy, "redis": healthy},
        "code-server": servers,
        "daemon": {"code-server": healthy},
        "webserver": {"code-server": healthy},
        "worker": {**servers, "code-server": "service_started"},
    }


def test_compose_is_open_to_this_machine_alone() -> None:
    """The UI has no login, Redis and PostgreSQL are for the containers."""
    ports = [port for one in SERVICES.values() for port in one.get("ports", [])]
    assert sorted(ports) == ["127.0.0.1:3000:3000", "127.0.0.1:3003:3003"]
    assert f":{UI_PORT}" in ports[0] + ports[1]
    words = [word for one in OURS.values() for word in one["command"]]
    assert str(CODE_SERVER_PORT) in words


def test_compose_keeps_counters() -> None:
    """On disk, and never evicted; each server on a volume of its own."""
    command = SERVICES["redis"]["command"]
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert (options["--appendonly"], options["--maxmemory-policy"]) == ("yes", "noeviction")
    assert SERVICES["redis"]["volumes"] == ["redis:/data"]
    assert SERVICES["postgres"]["volumes"] == ["postgres:/var/lib/postgresql"]
    assert COMPOSE["volumes"].keys() == {"postgres", "redis", "reports"}


def test_compose_knows_no_password() -> None:
    """It is asked for, and what else is set is a setting."""
    text = (ROOT / "docker-compose.yaml").read_text(encoding="utf-8")
    assert text.count("${POSTGRES_PASSWORD:?") == text.count("POSTGRES_PASSWORD:?") == 2
    assert OURS["worker"]["environment"].keys() <= {name.upper() for name in Settings.model_fields}


def test_compose_gives_time_to_stop() -> None:
    """The worker's grace is longer than what it takes at most."""
    limit_ms: int = Settings.model_fields["shutdown_timeout_ms"].default
    assert seconds(OURS["worker"]["stop_grace_period"]) * 1000 > limit_ms


def test_every_path_of_the_files_is_there() -> None:
    """What comments name."""
    for name in ("Dockerfile", "docker-compose.yaml"):
        named = re.findall(r"docs/[\w/.-]+\.md", (ROOT / name).read_text(encoding="utf-8"))
        assert [path for path in named if not Path(ROOT, path).exists()] == []
