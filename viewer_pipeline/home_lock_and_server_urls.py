"""VIEWER_HOME: locked by one `up` at a time; other commands find the URLs and ports of its servers here."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from viewer_pipeline.command_to_type import command_to_type
from viewer_pipeline.errors import HomeInUse, SettingsError, UpRunsDagster

LOCK_FILE, SERVERS_FILE = "lock", "servers.json"
# In SERVERS_FILE: process -> (host, port); until all were started; Unix time of the start; name -> value, as text, of
# the settings of `up`.
ADDRESSES, STARTING, STARTED_AT, SETTINGS = "addresses", "is_starting", "started_at", "settings"
SERVER_LOGS = {"database_url": "postgres.log", "redis_url": "redis.log"}  # of embedded servers, by their setting
LOCK_SECONDS = 2.0  # other commands hold the lock for an instant, to test it


def make_directory(path: Path, setting: str) -> None:
    """Create a directory that a setting names, unless it exists. Raises SettingsError if it cannot be written."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        reason = "" if os.access(path, os.W_OK | os.X_OK) else os.strerror(errno.EACCES)
    except OSError as error:
        reason = os.strerror(errno.ENOTDIR) if isinstance(error, FileExistsError) else str(error.strerror)
    if reason:
        message = f"{setting}: the directory {path} cannot be written: {reason}"
        raise SettingsError(message, f"name one with {setting} that this user can write")


def lock_home_directory(home: Path) -> IO[str]:
    """Lock this directory until the returned file is closed. Raises HomeInUse if another process holds it."""
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
                message = f"VIEWER_HOME={home} is in use by process {holder}"
                raise HomeInUse(message, "stop it, or choose another directory with VIEWER_HOME") from None
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


def require_no_up_in_home_directory(home: Path) -> None:
    """Check that no `up` runs here: a process of Dagster would replace its workspace file and fail its runs.

    Raises UpRunsDagster.
    """
    if is_home_directory_locked(home):
        worker = f"for an additional worker, run `{command_to_type('worker')}`"
        raise UpRunsDagster(
            f"it runs for VIEWER_HOME={home.absolute()}",
            f"stop it, or choose another directory with VIEWER_HOME; {worker}",
        )


def read_settings_of_running_up(home: Path) -> dict[str, Any]:
    """Return what a running `up` has written into this directory for other commands; nothing before it did.

    By their names, the settings that it has chosen itself: URLs and ports of its servers. And ADDRESSES, STARTING,
    STARTED_AT, SETTINGS.
    """
    if is_home_directory_locked(home):
        with suppress(OSError, json.JSONDecodeError):  # `up` is still starting
            return dict(json.loads((home / SERVERS_FILE).read_text()))
    return {}


def is_up_starting(home: Path) -> bool:
    """Whether an `up` runs in this directory that has not started all its processes yet."""
    return is_home_directory_locked(home) and bool(read_settings_of_running_up(home).get(STARTING, True))


def seconds_since_start_of_up(home: Path) -> float:
    """Return the age of the `up` that runs in this directory; infinite where none runs."""
    return time.time() - float(read_settings_of_running_up(home).get(STARTED_AT, "-inf"))


def remedy_of_embedded_server(home: Path, setting: str, url: str | None) -> str:
    """Return what to do if the server with this URL fails, and is one of the running `up`; empty if it is another.

    `setting`: of the URL, one of SERVER_LOGS.
    """
    if url is None or read_settings_of_running_up(home).get(setting) != url:
        return ""
    log = home.absolute() / SERVER_LOGS[setting]
    hangs = "if it hangs, check whether its process is stopped or waits for a disk, or end it"
    return f"none if it ended: `up` restarts it within a minute; {hangs}; its log is {log}"
