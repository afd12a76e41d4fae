"""VIEWER_HOME: locked by one `up` at a time; other commands find the URLs and ports of its servers here."""

from __future__ import annotations

import fcntl
import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from viewer_pipeline.errors import EmbeddedServerError

LOCK_FILE, SERVERS_FILE = "lock", "servers.json"
LOCK_SECONDS = 2.0  # other commands hold the lock for an instant, to test it


def lock_home_directory(home: Path) -> IO[str]:
    """Lock this directory until the returned file is closed. Raises EmbeddedServerError if another process holds it."""
    handle = (home / LOCK_FILE).open("a+")
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError:
            if time.monotonic() > deadline:
                handle.seek(0)
                holder = handle.read()
                handle.close()
                message = f"VIEWER_HOME={home} is in use by process {holder}; stop it, or set VIEWER_HOME"
                raise EmbeddedServerError(message) from None
        time.sleep(0.05)
    handle.truncate(0)
    handle.write(str(os.getpid()))
    handle.flush()
    return handle


def is_home_directory_locked(home: Path) -> bool:
    """Whether an `up` runs, or starts, in this directory."""
    try:
        with (home / LOCK_FILE).open() as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # there is no such directory
        pass
    return False


def read_settings_of_running_up(home: Path) -> dict[str, Any]:
    """Return the settings that a running `up` has chosen itself in this directory: URLs and ports of its servers."""
    if is_home_directory_locked(home):
        with suppress(OSError, json.JSONDecodeError):  # `up` is still starting
            return dict(json.loads((home / SERVERS_FILE).read_text()))
    return {}
