"""renovate.json finds what the repository pins: the locks, the actions, the base image of a release."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
CONFIG: dict[str, Any] = json.loads((ROOT / "renovate.json").read_text(encoding="utf-8"))
# Options of `uv pip compile` that Renovate 44 accepts in a lock. An option with a value must have it after =.
KNOWN = {"--universal", "--generate-hashes", "--no-strip-extras", "--all-extras"}
WITH_VALUE = {"--python-version", "--extra", "--constraints", "--output-file"}
LOCKS = ("requirements.lock", "requirements.image.lock", "requirements.machines.lock")


def matches(pattern: str, path: str) -> bool:
    """Return if a pattern of Renovate, a regular expression between slashes, matches a path."""
    assert pattern[0] == pattern[-1] == "/"
    return re.search(pattern[1:-1], path) is not None


def test_locks_are_renewed() -> None:
    """Those that are installed; the versions of tools/peers are those that were measured."""
    (pattern,) = CONFIG["pip-compile"]["managerFilePatterns"]
    matching = {path.name for path in ROOT.iterdir() if matches(pattern, path.name)}
    assert matching == set(LOCKS)
    assert not matches(pattern, "tools/peers/requirements.txt")
    assert CONFIG["lockFileMaintenance"]["enabled"] is True


@pytest.mark.parametrize("lock", LOCKS)
def test_locks_name_the_command_of_make_lock(lock: str) -> None:
    """Renovate runs it; it refuses a lock with another option."""
    _, line = (ROOT / lock).read_text(encoding="utf-8").splitlines()[:2]
    command = line.removeprefix("#    ")
    assert command != line
    options = [word for word in shlex.split(command) if word.startswith("-")]
    assert {option.partition("=")[0] for option in options} <= KNOWN | WITH_VALUE
    assert all(("=" in option) == (option.partition("=")[0] in WITH_VALUE) for option in options)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (compile_,) = re.findall(r"^COMPILE = (.*)$", makefile, re.MULTILINE)
    (arguments,) = re.findall(
        rf"^\t\$\(BIN\)/\$\(COMPILE\) (.*--output-file={re.escape(lock)})$", makefile, re.MULTILINE
    )
    run = [word for word in shlex.split(f"{compile_} {arguments}") if word not in {"--quiet", "--upgrade"}]
    assert shlex.split(command) == run


def test_managers_have_files() -> None:
    """Each enabled manager has a file in this repository."""
    files = {
        "pip-compile": "requirements.lock",
        "github-actions": ".github/workflows/release.yml",
        "dockerfile": "Dockerfile",
        "docker-compose": "docker-compose.yaml",
        "devcontainer": ".devcontainer/devcontainer.json",
        "custom.regex": ".github/workflows/release.yml",
    }
    assert CONFIG["enabledManagers"] == list(files)
    assert [file for file in files.values() if not (ROOT / file).exists()] == []


def test_base_image_gets_its_digest() -> None:
    """The expression matches the line in the workflow once, with and without a digest."""
    (manager,) = CONFIG["customManagers"]
    (pattern,), (text,) = manager["managerFilePatterns"], manager["matchStrings"]
    assert matches(pattern, ".github/workflows/release.yml")
    expression = re.compile(text.replace("(?<", "(?P<"))
    workflow = (ROOT / ".github/workflows/release.yml").read_text(encoding="utf-8")
    (line,) = expression.finditer(workflow)
    image = f"PYTHON_IMAGE: {line['depName']}:{line['currentValue']}"
    digest = "sha256:" + "0123456789abcdef" * 4
    (pinned,) = expression.finditer(f"{workflow[: line.start()]}{image}@{digest}\n{workflow[line.end() :]}")
    assert (pinned["depName"], pinned["currentValue"], pinned["currentDigest"]) == (
        "python",
        line["currentValue"],
        digest,
    )
    rules = [rule for rule in CONFIG["packageRules"] if rule.get("matchManagers") == ["custom.regex"]]
    assert [rule["pinDigests"] for rule in rules] == [True]


def test_python_is_the_oldest_that_is_supported() -> None:
    """A lock for a newer one would lack packages."""
    assert f"--python-version={CONFIG['constraints']['python']}" in (ROOT / "Makefile").read_text(encoding="utf-8")
