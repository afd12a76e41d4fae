"""Commands of this program as a person can type them, for messages: after `make run` it is not on the PATH."""

from __future__ import annotations

import shlex
import shutil
import sys
from functools import cache
from pathlib import Path

PROGRAM = "viewer-pipeline"


def command_to_type(arguments: str) -> str:
    """Return the line that runs the program with these arguments, typed where this process was started."""
    return f"{_program()} {arguments}"


@cache
def _program() -> str:
    """Return its name if the PATH leads to it, else its path, relative if it is below the working directory."""
    script, on_path = Path(sys.executable).with_name(PROGRAM), shutil.which(PROGRAM)
    if not script.exists():
        return f"{shlex.quote(sys.executable)} -m viewer_pipeline.cli"
    if on_path is not None and script.samefile(on_path):
        return PROGRAM
    directory = Path.cwd()
    return shlex.quote(str(script.relative_to(directory) if script.is_relative_to(directory) else script))
