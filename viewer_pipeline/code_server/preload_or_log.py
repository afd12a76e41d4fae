"""Imports what a run needs, in a fork server that Python starts. An error is left to the run, which reports it."""

import logging

from viewer_pipeline.code_server.process_lifetime import begin_fork_server
from viewer_pipeline.logs import event

try:
    import viewer_pipeline.code_server.preload  # noqa: F401 - for what it imports
except Exception:
    logging.getLogger("viewer_pipeline.code_server").exception(event("preload_failed"))
begin_fork_server()
