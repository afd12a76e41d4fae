"""Commands as `up` prints them: for its VIEWER_HOME, also in a terminal that does not set it."""

from __future__ import annotations

import shlex

from viewer_pipeline.command_to_type import command_to_type
from viewer_pipeline.settings import Settings


def command_with_home(settings: Settings, arguments: str) -> str:
    """Return the line that runs the program with these arguments, and VIEWER_HOME in front unless it is the default."""
    command = command_to_type(arguments)
    if "viewer_home" in settings.model_fields_set:
        return f"VIEWER_HOME={shlex.quote(str(settings.viewer_home))} {command}"
    return command
