"""Which process this is, on which machine: a message may be read on another one."""

from __future__ import annotations

import os
import socket


def name_this_process() -> str:
    """Return `process 17 on host`."""
    return f"process {os.getpid()} on {socket.gethostname()}"
