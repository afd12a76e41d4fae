"""Completion in shells, by the lines of docs/how-to/shell-completion.md."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "shell-completion.md"
LINES = dict(re.findall(r"^\| (\w+)[^|]* \| `(.*)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
PROGRAM = Path(sys.executable).with_name("viewer-pipeline")
STARTS = {"bash": "_viewer_pipeline_completion() {", "zsh": "#compdef viewer-pipeline", "fish": "function _viewer"}


def run(*command: str, **variables: str) -> str:
    """Run a command with the program on the PATH; return what it prints."""
    path = f"{PROGRAM.parent}{os.pathsep}{os.environ['PATH']}"
    environment = {"PATH": path, "HOME": "/nonexistent", **variables}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def completions(before: str, typed: str) -> list[str]:
    """Return what bash offers for `typed` behind the words `before`."""
    words = f"viewer-pipeline {before}".split()
    script = f"""{LINES["bash"]}
        COMP_WORDS=({" ".join(words)} "{typed}"); COMP_CWORD={len(words)}
        complete -p viewer-pipeline >/dev/null && _viewer_pipeline_completion viewer-pipeline
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    return run("bash", "--norc", "-c", script).split()


def test_the_page_names_three_shells() -> None:
    """With the variable that the program reads."""
    assert list(LINES) == ["bash", "zsh", "fish"]
    for shell, line in LINES.items():
        assert f"_VIEWER_PIPELINE_COMPLETE={shell}_source viewer-pipeline" in line


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes() -> None:
    """Commands, values of arguments, options of a command, and values of options."""
    assert completions("", "st") == ["status", "streams"]
    assert completions("bench", "f") == ["flush"]
    assert completions("healthcheck", "w") == ["worker", "webserver"]
    assert completions("send", "--co") == ["--count"]
    assert completions("flush --mode", "") == ["sweep", "changed"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_program_prints_a_script(shell: str) -> None:
    """For each shell, without a server and without settings."""
    assert run(str(PROGRAM), _VIEWER_PIPELINE_COMPLETE=f"{shell}_source").startswith(STARTS[shell])


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_shell_takes_the_line(shell: str) -> None:
    """Where it is installed."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    prepare = "autoload -U compinit && compinit -D;" if shell == "zsh" else ""
    line = LINES[shell].replace("\\|", "|")
    assert run(shell, "-c", f"{prepare} {line} && echo taken") == "taken\n"
