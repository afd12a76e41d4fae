"""The workflows, the hooks and the forms of GitHub agree with the repository."""

from __future__ import annotations

import re
import subprocess
import sysconfig
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
GITHUB = ROOT / ".github"
FILES = sorted((GITHUB / "workflows").glob("*.yml"))
WORKFLOWS: dict[str, dict[Any, Any]] = {file.stem: yaml.safe_load(file.read_text(encoding="utf-8")) for file in FILES}
JOBS: dict[str, dict[str, Any]] = WORKFLOWS["ci"]["jobs"]
RELEASE: dict[str, dict[str, Any]] = WORKFLOWS["release"]["jobs"]
STEPS = [step for workflow in WORKFLOWS.values() for job in workflow["jobs"].values() for step in job["steps"]]
VERBS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
OTHERS = (  # not of make
    r"docker compose (up|exec) .+|sudo apt-get update && sudo apt-get install --yes [a-z- ]+"
    r"|gh release create \"\$GITHUB_REF_NAME\" --draft .+"
)


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
    """Except steps that install servers, or need Docker or GitHub."""
    assert re.fullmatch(rf"make [a-z-]+( TAG=\"\$GITHUB_REF_NAME\")?|{OTHERS}", command)
    assert set(re.findall(r"make ([a-z-]+)", command)) <= VERBS


def test_the_workflow_runs_every_check() -> None:
    """Lint, tests, the files of a release, the pages, the UI, the image."""
    commands = {step["run"] for job in JOBS.values() for step in job["steps"] if "run" in step}
    assert {"make lint", "make test", "make demo", "make release-check", "make docs", "make browser"} <= commands
    assert any(command.startswith("docker compose up --build") for command in commands)


def test_actions_are_pinned_to_commits() -> None:
    """With the version as a comment, which Renovate renews with the commit."""
    lines = [
        line.strip() for file in FILES for line in file.read_text(encoding="utf-8").splitlines() if "uses:" in line
    ]
    pinned = r"- uses: (actions|pypa)/[a-z-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+"
    assert [line for line in lines if not re.fullmatch(pinned, line)] == []
    assert len(lines) == len([step for step in STEPS if "uses" in step])
    versions = {tuple(line.split(" ", 2)[2].split("@")) for line in lines}
    assert len(versions) == len({action for action, _ in versions}), versions


def test_jobs_have_least_permissions() -> None:
    """CI only reads. Of a release, jobs that may write run nothing of the repository."""
    assert WORKFLOWS["ci"]["permissions"] == {"contents": "read"}
    assert [name for name, job in JOBS.items() if "permissions" in job or "timeout-minutes" not in job] == []
    assert WORKFLOWS["release"]["permissions"] == {}
    assert {name: job["permissions"] for name, job in RELEASE.items()} == {
        "distributions": {"contents": "read"},
        "image": {"contents": "read"},
        "attest": {"id-token": "write", "attestations": "write"},
        "draft": {"contents": "write"},
        "pypi": {"id-token": "write"},
    }
    for job in RELEASE.values():
        used = {step["uses"].partition("@")[0] for step in job["steps"] if "uses" in step}
        assert ("actions/checkout" in used) == (job["permissions"] == {"contents": "read"})
        assert "timeout-minutes" in job
    assert all(step["with"]["persist-credentials"] is False for step in STEPS if "/checkout@" in step.get("uses", ""))


def test_a_release_begins_with_a_tag() -> None:
    """And with nothing else; its version is compared with the tag."""
    assert WORKFLOWS["release"][True] == {"push": {"tags": ["v*"]}}  # YAML reads the key `on` as true
    assert RELEASE["distributions"]["steps"][2]["run"] == 'make release-check TAG="$GITHUB_REF_NAME"'


def test_a_release_publishes_what_was_checked() -> None:
    """The jobs that write need both checks and take their files. PyPI gets wheel and sdist only, if configured."""
    writing = {name: job for name, job in RELEASE.items() if name not in {"distributions", "image"}}
    assert all(job["needs"] == ["distributions", "image"] for job in writing.values())
    assert all(job["steps"][0]["uses"].startswith("actions/download-artifact@") for job in writing.values())
    uploads = {
        step["with"]["name"]: step["with"]
        for step in RELEASE["distributions"]["steps"]
        if step.get("uses", "").startswith("actions/upload-artifact@")
    }
    assert uploads["distributions"]["path"].split() == ["dist/*.whl", "dist/*.tar.gz"]
    assert all(upload["if-no-files-found"] == "error" for upload in uploads.values())
    assert RELEASE["pypi"]["steps"][0]["with"] == {"name": "distributions", "path": "dist"}
    assert RELEASE["pypi"]["if"] == "vars.PYPI_ENVIRONMENT != ''"
    assert RELEASE["pypi"]["environment"] == "${{ vars.PYPI_ENVIRONMENT }}"


def test_a_release_names_the_base_of_its_image() -> None:
    """It is that of the Dockerfile, whose digest only a release has; the image is not built a second time."""
    (base,) = re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    assert WORKFLOWS["release"]["env"]["PYTHON_IMAGE"].partition("@")[0] == base
    commands = [step["run"] for step in RELEASE["image"]["steps"] if "run" in step]
    assert commands[0] == "make release-image"
    tried = [step["run"] for step in JOBS["image"]["steps"] if "run" in step]
    assert commands[1:] == [command.replace(" --build ", " --no-build ") for command in tried]
    assert RELEASE["image"]["env"] == JOBS["image"]["env"]


@pytest.mark.parametrize(
    ("image", "status"),
    [("python:3.11@sha256:" + "0" * 64, 0), ("python:3.11", 2), ("", 2), ("python:3.11@sha256:" + "0" * 63, 2)],
)
def test_an_image_without_a_digest_is_refused(tmp_path: Path, image: str, status: int) -> None:
    """Before anything is built; with a digest, it is given to docker."""
    docker = tmp_path / "docker"
    docker.write_text('#!/bin/sh\necho "docker $* $PYTHON_IMAGE"\n')
    docker.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "PYTHON_IMAGE": image}
    command = ["make", "--no-print-directory", "release-image"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert (f"PYTHON_IMAGE={image}: no digest" in done.stderr) == (status != 0)
    assert (f"docker build --pull --build-arg PYTHON_IMAGE --tag viewer-pipeline . {image}\n" in done.stdout) == (
        status == 0
    )


def run(program: str, *arguments: str | Path) -> str:
    """Run a program of this environment; return its output, or an empty text if it found nothing wrong."""
    command = [Path(sysconfig.get_path("scripts")) / program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("github-workflows", FILES),
        ("github-issue-forms", [GITHUB / "ISSUE_TEMPLATE" / f"{form}.yml" for form in ("bug", "feature")]),
        ("github-issue-config", [GITHUB / "ISSUE_TEMPLATE" / "config.yml"]),
        ("renovate", [ROOT / "renovate.json"]),
    ],
)
def test_files_match_their_schemas(schema: str, files: list[Path]) -> None:
    """As GitHub and Renovate publish them."""
    assert run("check-jsonschema", "--builtin-schema", f"vendor.{schema}", *files) == ""


def test_a_misspelled_key_is_detected(tmp_path: Path) -> None:
    """The test above can fail."""
    text = (GITHUB / "workflows" / "release.yml").read_text(encoding="utf-8")
    assert text.count("    needs:") == 3
    file = tmp_path / "release.yml"
    file.write_text(text.replace("    needs:", "    need:"), encoding="utf-8")
    assert "need" in run("check-jsonschema", "--builtin-schema", "vendor.github-workflows", file)


def test_workflows_are_secure() -> None:
    """As far as zizmor knows: pinned actions, permissions, templates in scripts, kept credentials, poisoned caches."""
    assert run("zizmor", "--offline", "--no-progress", "--quiet", GITHUB) == ""


def test_an_insecure_workflow_is_detected(tmp_path: Path) -> None:
    """The test above can fail."""
    text = (GITHUB / "workflows" / "release.yml").read_text(encoding="utf-8")
    for number, (old, new, audit) in enumerate(
        [
            (re.findall(r"actions/checkout@\w+", text)[0], "actions/checkout@v7", "unpinned-uses"),
            ("with: {persist-credentials: false}", "with: {fetch-depth: 1}", "artipacked"),
            ('TAG="$GITHUB_REF_NAME"', 'TAG="${{ github.ref_name }}"', "template-injection"),
        ]
    ):
        file = tmp_path / str(number) / ".github" / "workflows" / "release.yml"
        file.parent.mkdir(parents=True)
        assert old in text
        file.write_text(text.replace(old, new), encoding="utf-8")
        assert audit in run("zizmor", "--offline", "--no-progress", "--quiet", "--color=never", file), audit


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
