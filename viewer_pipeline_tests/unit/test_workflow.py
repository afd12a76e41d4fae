"""The workflow, the hooks and the forms of GitHub agree with the repository."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
GITHUB = ROOT / ".github"
WORKFLOW: dict[Any, Any] = yaml.safe_load((GITHUB / "workflows" / "ci.yml").read_text(encoding="utf-8"))
JOBS: dict[str, dict[str, Any]] = WORKFLOW["jobs"]
STEPS = [step for job in JOBS.values() for step in job["steps"]]
VERBS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
OTHERS = r"docker compose (up|exec) .+|sudo apt-get update && sudo apt-get install --yes [a-z- ]+"  # not of make


def test_the_workflow_tests_every_supported_version() -> None:
    """Python 3.11 to 3.13, PostgreSQL 14 to 18, Redis 6.2 to 8, a Valkey; each at least once."""
    tried = JOBS["servers"]["strategy"]["matrix"]["include"]
    assert {pair["postgres"] for pair in tried} == {"14", "15", "16", "17", "18"}
    redis = {pair["redis"] for pair in tried}
    assert {"redis:6.2", "redis:7.0", "redis:7.2", "redis:7.4", "redis:8"} <= redis
    assert any(image.startswith("valkey/") for image in redis)
    pythons = {"3.11", "3.12", "3.13"}
    assert {pair["python"] for pair in tried} == set(JOBS["embedded"]["strategy"]["matrix"]["python"]) == pythons


def test_the_workflow_connects_to_its_services() -> None:
    """The ports of both URLs are those of the services; there is one Redis for each parallel test."""
    services, named = JOBS["servers"]["services"], JOBS["servers"]["env"]
    ports = {name: service["ports"][0].partition(":")[0] for name, service in services.items()}
    assert re.findall(r":(\d+)/", named["TEST_DATABASE_URL"]) == [ports.pop("postgres")]
    assert re.findall(r":(\d+)/", named["TEST_REDIS_URL"]) == list(ports.values())


@pytest.mark.parametrize("command", [step["run"] for step in STEPS if "run" in step])
def test_every_step_is_a_target_of_the_makefile(command: str) -> None:
    """Except steps that install servers or need Docker."""
    assert re.fullmatch(rf"make [a-z-]+|{OTHERS}", command)
    assert set(re.findall(r"make ([a-z-]+)", command)) <= VERBS


def test_the_workflow_runs_every_check() -> None:
    """Lint, tests, the package installed by itself, the pages, the UI, the image."""
    commands = {step["run"] for step in STEPS if "run" in step}
    assert {"make lint", "make test", "make demo", "make package-test", "make docs", "make browser"} <= commands
    assert any(command.startswith("docker compose up --build") for command in commands)


def test_actions_are_pinned_and_read_only() -> None:
    """To a major version; no job may write to the repository."""
    used = [step["uses"] for step in STEPS if "uses" in step]
    assert [action for action in used if not re.fullmatch(r"actions/[a-z-]+@v\d+", action)] == []
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert [name for name, job in JOBS.items() if "permissions" in job or "timeout-minutes" not in job] == []


def test_hooks_are_the_linters_of_the_makefile() -> None:
    """From .venv, so that their versions are those of the lock; none is downloaded."""
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert [repo["repo"] for repo in config["repos"]] == ["local"]
    hooks = {hook["id"]: hook["entry"].split() for hook in config["repos"][0]["hooks"]}
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").partition("\nlint:")[2].partition("\n\n")[0]
    linters = {line.split()[0] for line in recipe.splitlines() if line.startswith("\t$(BIN)/")}
    named = {entry[0].replace(".venv/bin", "$(BIN)") for entry in hooks.values()}
    assert linters <= named
    missing = [
        word for entry in hooks.values() for word in entry if word.endswith(".py") and not (ROOT / word).exists()
    ]
    assert missing == []


@pytest.mark.parametrize("form", ["bug", "feature"])
def test_forms_are_valid(form: str) -> None:
    """As GitHub requires: a name, a description, fields with ids and labels, a required field."""
    content = yaml.safe_load((GITHUB / "ISSUE_TEMPLATE" / f"{form}.yml").read_text(encoding="utf-8"))
    assert set(content) == {"name", "description", "labels", "body"}
    fields = [field for field in content["body"] if field["type"] != "markdown"]
    ids = [field["id"] for field in fields]
    assert len(set(ids)) == len(ids)
    assert all(field["attributes"]["label"] for field in fields)
    assert any(field.get("validations", {}).get("required") for field in fields)


def test_the_oldest_python_is_the_one_that_the_package_requires() -> None:
    """Both must change together."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    versions = JOBS["embedded"]["strategy"]["matrix"]["python"]
    assert project["requires-python"] == ">=" + min(versions, key=lambda version: int(version.partition(".")[2]))
