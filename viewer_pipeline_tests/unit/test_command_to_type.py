"""Commands in messages run when they are typed, whatever the PATH and the working directory are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from viewer_pipeline.command_to_type import _program

CODE = "from viewer_pipeline.command_to_type import command_to_type; print(command_to_type('--version'))"
SCRIPTS = Path(sys.executable).parent
SYSTEM = os.pathsep.join(("/usr/bin", "/bin"))


def shell(command: list[str], directory: Path, path: str) -> str:
    """Run a command in a directory with this PATH, and return its stdout."""
    done = subprocess.run(command, env={"PATH": path}, cwd=directory, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def command_that_runs(directory: Path, path: str = SYSTEM) -> str:
    """Return the command that a process prints there, after it was typed into a shell there."""
    command = shell([sys.executable, "-c", CODE], directory, path)
    assert shell(["sh", "-c", command], directory, path).startswith("viewer-pipeline, version ")
    return command


def test_program_on_the_path(tmp_path: Path) -> None:
    """Its name alone, also if the PATH leads to it through a link, as pipx makes it."""
    (tmp_path / "viewer-pipeline").symlink_to(SCRIPTS / "viewer-pipeline")
    for directory in (SCRIPTS, tmp_path):
        assert command_that_runs(tmp_path, f"{directory}{os.pathsep}{SYSTEM}") == "viewer-pipeline --version"


def test_program_that_is_not_on_the_path(tmp_path: Path) -> None:
    """Its path, relative in the checkout, where `make run` leaves the shell."""
    assert command_that_runs(SCRIPTS.parents[1]) == f"{SCRIPTS.parent.name}/{SCRIPTS.name}/viewer-pipeline --version"
    assert command_that_runs(tmp_path) == f"{SCRIPTS}/viewer-pipeline --version"


def test_another_program_of_that_name(tmp_path: Path) -> None:
    """Another installation on the PATH may be another version."""
    other = tmp_path / "viewer-pipeline"
    other.write_text("#!/bin/sh\nexit 1\n")
    other.chmod(0o700)
    assert command_that_runs(tmp_path, f"{tmp_path}{os.pathsep}{SYSTEM}") == f"{SCRIPTS}/viewer-pipeline --version"


def test_installation_without_the_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A module of this Python; a path with blanks is quoted."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "a b" / "python"))
    assert _program.__wrapped__() == f"'{tmp_path}/a b/python' -m viewer_pipeline.cli"
