"""CPU time and memory of the processes that descend from one, read from /proc (Linux)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
PARENT, USER_TIME, CHILD_SYSTEM_TIME = 1, 11, 14  # fields of /proc/PID/stat after the name; four times, in a row


@dataclass(frozen=True)
class ProcessStat:
    """The parent of a process, and its CPU time with that of its ended children."""

    parent: int
    cpu_seconds: float


def parse_stat(text: str) -> ProcessStat:
    """Parse /proc/PID/stat. The name, in parentheses, may contain blanks and parentheses."""
    fields = text.rpartition(")")[2].split()
    ticks = sum(int(field) for field in fields[USER_TIME : CHILD_SYSTEM_TIME + 1])
    return ProcessStat(int(fields[PARENT]), ticks / os.sysconf("SC_CLK_TCK"))


def read_descendants(root: int) -> dict[int, ProcessStat]:
    """Return the living descendants of a process by process id, without the process itself."""
    stats = {}
    for path in PROC.glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            stats[int(path.parent.name)] = parse_stat(path.read_text())
    return {pid: stats[pid] for pid in find_descendants(stats, root)}


def find_descendants(stats: Mapping[int, ProcessStat], root: int) -> Iterator[int]:
    """Yield the children of a process, their children, and so on."""
    for pid, stat in stats.items():
        if stat.parent == root:
            yield pid
            yield from find_descendants(stats, pid)


def sum_cpu_seconds(root: int) -> float:
    """Return the CPU time of all descendants: of the living ones, and of those that ended before their parent."""
    return sum(stat.cpu_seconds for stat in read_descendants(root).values())


def sum_pss_mb(pids: Iterable[int]) -> float:
    """Return the proportional set size of processes in MB; 0 for one that has ended."""
    return sum(_read_pss_kb(pid) for pid in pids) / 1024


def find_by_command(pids: Iterable[int], words: str) -> list[int]:
    """Return the processes whose command line contains these words, without their reapers."""
    lines = {pid: _read_command_line(pid) for pid in pids}
    return [pid for pid, line in lines.items() if words in line and "reaper.py" not in line]


def _read_pss_kb(pid: int) -> int:
    with suppress(OSError):
        for line in (PROC / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return 0


def _read_command_line(pid: int) -> str:
    with suppress(OSError):
        return (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""
