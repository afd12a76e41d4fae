"""Which process listens on a TCP port. Linux only."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

LISTENING = "0A"  # in /proc/net/tcp


def describe_listener(port: int) -> str:
    """Return name and id of the process that listens on this port, as far as this user may see it. Linux only."""
    inodes = _listening_inodes(port)
    for process in Path("/proc").glob("[0-9]*") if inodes else ():
        with suppress(OSError):  # it has ended, or belongs to another user
            if any(str(descriptor.readlink()) in inodes for descriptor in (process / "fd").iterdir()):
                return f"{(process / 'comm').read_text().strip()} (process {process.name})"
    return "another process"


def _listening_inodes(port: int) -> set[str]:
    inodes = set[str]()
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in Path("/proc/net", table).read_text().splitlines()[1:]:
                _, local, _, state, *fields = line.split()
                if state == LISTENING and int(local.rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{fields[5]}]")
    return inodes
