"""The end of a process of Dagster that cannot start, for its log: one line and a remedy in place of a traceback."""

import sys
from typing import NoReturn

from viewer_pipeline.errors import ViewerPipelineError


def exit_with_error(error: ViewerPipelineError) -> NoReturn:
    """End this process with status 1."""
    sys.exit(f"error: {error}\nremedy: {error.remedy}" if error.remedy else f"error: {error}")
