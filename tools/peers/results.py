"""Results of all programs, and their tables: on the terminal, and for docs/why-not.md."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as TerminalTable

from tools.peers.peers import Peer
from tools.peers.scenarios.differences import Differences
from tools.peers.scenarios.faults import DeletedVod
from tools.peers.scenarios.latency import Delays, SeenByOthers
from tools.peers.scenarios.throughput import Throughput

WIDTH = 150
SPEED = ["", "per second", "CPU s per 100,000: program", "with servers", "peak MB", "longest PING ms",
         "sent to persisted s: p50", "p95", "lowest sum", "highest sum"]  # fmt: skip
FAULTS = ["", "killed: sent", "lost", "doubled", "Redis fell back: lost", "doubled", "replies lost: lost", "doubled",
          "a VOD deleted: others lost", "its own lost"]  # fmt: skip


@dataclass
class PeerResult:
    """What was measured of one program; None: not measured, or it failed for the reason in `failures`."""

    name: str
    title: str
    versions: dict[str, str]
    throughput: Throughput | None = None
    delays: Delays | None = None
    seen_by_others: SeenByOthers | None = None
    kills: Differences | None = None
    redis_fallback: Differences | None = None
    lost_replies: Differences | None = None
    deleted_vod: DeletedVod | None = None
    failures: dict[str, str] = field(default_factory=dict)  # by scenario

    @classmethod
    def of(cls, peer: Peer, versions: dict[str, str]) -> PeerResult:
        """Return a result without measurements. `versions` may name more packages than the program uses."""
        return cls(peer.name, peer.title, {name: versions[name] for name in peer.packages if name in versions})

    @classmethod
    def parse(cls, values: dict[str, Any]) -> PeerResult:
        """Parse a result that was written as JSON."""
        result = cls(**values)
        result.throughput = Throughput(**values["throughput"]) if values["throughput"] else None
        result.delays = Delays(**values["delays"]) if values["delays"] else None
        result.seen_by_others = SeenByOthers(**values["seen_by_others"]) if values["seen_by_others"] else None
        for name in ("kills", "redis_fallback", "lost_replies"):
            setattr(result, name, Differences(**values[name]) if values[name] else None)
        if deleted := values["deleted_vod"]:
            result.deleted_vod = DeletedVod(Differences(**deleted["others"]), deleted["lost_of_deleted"])
        return result

    @property
    def label(self) -> str:
        """Its title and the versions of its packages."""
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return f"{self.title} ({versions})" if versions else self.title

    @property
    def is_exact(self) -> bool:
        """Whether nothing that was measured was lost or doubled, and everything could be measured."""
        deleted = self.deleted_vod
        differences = [self.kills, self.redis_fallback, self.lost_replies, deleted.others if deleted else None]
        return (
            not self.failures
            and all(measured.is_exact for measured in differences if measured)
            and not (deleted and deleted.lost_of_deleted)
        )


def write_json(results: Iterable[PeerResult]) -> str:
    """Return the results as JSON."""
    return json.dumps([asdict(result) for result in results])


def read_results(files: Iterable[Path]) -> list[PeerResult]:
    """Read results that were written as JSON; of one program in several files, whatever was measured last."""
    merged: dict[str, PeerResult] = {}
    for file in files:
        for values in json.loads(file.read_text()):
            result = PeerResult.parse(values)
            before = merged.setdefault(result.name, result)
            vars(before).update({name: value for name, value in vars(result).items() if value})
    for result in merged.values():
        result.failures = {name: reason for name, reason in result.failures.items() if getattr(result, name) is None}
    return list(merged.values())


def print_tables(results: list[PeerResult]) -> None:
    """Print both tables on the terminal, then why something could not be measured."""
    console = Console(width=WIDTH)
    for title, headers, rows in _tables(results):
        table = TerminalTable(*headers, title=title)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    for result in results:
        for scenario, reason in result.failures.items():
            console.print(f"{result.title}, {scenario}: {reason}", markup=False)


def print_markdown(results: list[PeerResult]) -> None:
    """Print both tables as Markdown."""
    for _, headers, rows in _tables(results):
        for cells in [headers, ["---"] * len(headers), *rows]:
            print("| " + " | ".join(cells) + " |")
        print()


def _tables(results: list[PeerResult]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Return title, headers and rows of each table."""
    return [
        ("counters (of a stream: entries), and what others notice", SPEED, [_speed_row(result) for result in results]),
        ("views lost and doubled", FAULTS, [_fault_row(result) for result in results]),
    ]


def _speed_row(result: PeerResult) -> list[str]:
    speed, delays, seen = result.throughput, result.delays, result.seen_by_others
    return [
        result.label,
        _rate(speed),
        f"{speed.program_cpu_seconds:.2f}" if speed else "",
        f"{speed.all_cpu_seconds:.2f}" if speed else "",
        f"{speed.peak_mb:.0f}" if speed else "",
        f"{seen.redis_stall_ms:.0f}" if seen else "",
        f"{delays.p50:.2f}" if delays else "",
        f"{delays.p95:.2f}" if delays else "",
        f"{seen.lowest_sum:.2f}" if seen and seen.lowest_sum is not None else "",
        f"{seen.highest_sum:.2f}" if seen and seen.highest_sum is not None else "",
    ]


def _rate(speed: Throughput | None) -> str:
    if speed is None:
        return ""
    without = speed.per_second_without_verification
    return f"{speed.per_second:,.0f}" + (f"; {without:,.0f} without verification" if without else "")


def _fault_row(result: PeerResult) -> list[str]:
    deleted = result.deleted_vod
    return [
        result.label,
        f"{result.kills.sent:,}" if result.kills else "",
        *_lost_and_doubled(result.kills),
        *_lost_and_doubled(result.redis_fallback),
        *_lost_and_doubled(result.lost_replies),
        f"{deleted.others.lost:,}" if deleted else "",
        f"{deleted.lost_of_deleted:,}" if deleted else "",
    ]


def _lost_and_doubled(differences: Differences | None) -> list[str]:
    if differences is None:
        return ["", ""]
    pending = f" and {differences.pending:,} not persisted" if differences.pending else ""
    return [f"{differences.lost:,}{pending}", f"{differences.doubled:,}"]
