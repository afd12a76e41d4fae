"""The devcontainer and `uv sync` give what `make` gives, and leave no file that Git would add."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

from viewer_pipeline.settings import Settings
from viewer_pipeline.stack.dagster_command_lines import UI_PORT

ROOT = Path(__file__).parents[2]
CONFIG: dict[str, Any] = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text(encoding="utf-8"))


def test_commands_are_targets_of_the_makefile() -> None:
    """So that they run without a container, too."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("$(READY)", ".venv/.ready")
    commands = [command for name, command in CONFIG.items() if name.endswith("Command")]
    assert [command.split()[0] for command in commands] == ["make"]
    assert all(f"\n{command.split()[1]}:" in makefile for command in commands)


def test_ports_are_those_of_the_ui_and_the_worker() -> None:
    """Each has a label."""
    assert CONFIG["forwardPorts"] == [UI_PORT, Settings.model_fields["health_check_port"].default]
    assert CONFIG["portsAttributes"].keys() == {str(port) for port in CONFIG["forwardPorts"]}


def test_python_is_the_oldest_that_is_supported() -> None:
    """That of requires-python, in the path of .venv where `make` creates it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (version,) = re.findall(r"python:(3\.\d+)-", CONFIG["image"])
    assert project["requires-python"] == f">={version}"
    settings = CONFIG["customizations"]["vscode"]["settings"]
    assert settings["python.defaultInterpreterPath"] == "${containerWorkspaceFolder}/.venv/bin/python"


def test_uv_sync_installs_what_make_installs() -> None:
    """All extras: they are in the group that uv installs by default."""
    content = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (requirement,) = content["dependency-groups"]["dev"]
    extras = re.fullmatch(r"viewer-pipeline\[([a-z0-9,]+)\]", requirement)
    assert extras is not None
    assert set(extras[1].split(",")) == content["project"]["optional-dependencies"].keys()


def test_files_of_tools_are_ignored() -> None:
    """Those of `uv sync`, of `make`, of `make release-check` and of tests."""
    names = ["uv.lock", ".venv/bin/python", "dist/notes.md", "site/index.html", ".pytest_cache/x", ".viewer/x", ".env"]
    command = ["git", "check-ignore", "--no-index", *names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.split() == names
