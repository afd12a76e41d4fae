"""Results as JSON and as tables."""

from __future__ import annotations

from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from tools.peers.peers import Peer
from tools.peers.scenarios.differences import Differences
from tools.peers.scenarios.faults import DeletedVod
from tools.peers.scenarios.latency import Delays, SeenByOthers
from tools.peers.scenarios.throughput import Throughput

WIDTH = 150


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


def new_result(peer: Peer, versions: dict[str, str]) -> PeerResult:
    """Return a result without measurements."""
    return PeerResult(peer.name, peer.title, {name: versions[name] for name in peer.packages if name in versions})


def print_tables(results: list[PeerResult]) -> None:
    """Print one row for each program in each table."""
    console = Console(width=WIDTH)
    console.print(_speed_table(results))
    console.print(_fault_table(results))
    for result in results:
        for scenario, reason in result.failures.items():
            console.print(f"{result.title}, {scenario}: {reason}")


def _speed_table(results: list[PeerResult]) -> Table:
    table = Table(
        "", "per second", "CPU s per 100,000: program", "with servers", "peak MB",
        "Redis stall ms", "sent to persisted s: p50", "p95", "lowest sum", "highest sum",
        title="counters (of a stream: entries) per second, and what others notice",
    )  # fmt: skip
    for result in results:
        speed, delays, seen = result.throughput, result.delays, result.seen_by_others
        table.add_row(
            _label(result),
            *((f"{speed.per_second:,.0f}", f"{speed.program_cpu_seconds:.2f}", f"{speed.all_cpu_seconds:.2f}",
               f"{speed.peak_mb:.0f}") if speed else ("", "", "", "")),
            f"{seen.redis_stall_ms:.1f}" if seen else "",
            *((f"{delays.p50:.2f}", f"{delays.p95:.2f}") if delays else ("", "")),
            _share(seen.lowest_sum if seen else None),
            _share(seen.highest_sum if seen else None),
        )  # fmt: skip
    return table


def _fault_table(results: list[PeerResult]) -> Table:
    table = Table(
        "", "killed: sent", "lost", "doubled", "Redis fell back: lost", "doubled",
        "replies lost: sent", "lost", "doubled", "VOD deleted: others lost", "its own lost",
        title="views lost and doubled",
    )  # fmt: skip
    for result in results:
        deleted = result.deleted_vod
        table.add_row(
            _label(result),
            *_differences(result.kills),
            *_differences(result.redis_fallback)[1:],
            *_differences(result.lost_replies),
            f"{deleted.others.lost:,}" if deleted else "",
            f"{deleted.lost_of_deleted:,}" if deleted else "",
        )
    return table


def _label(result: PeerResult) -> str:
    return " ".join([result.title, *result.versions.values()])


def _differences(differences: Differences | None) -> list[str]:
    if differences is None:
        return ["", "", ""]
    pending = f" and {differences.pending:,} not persisted" if differences.pending else ""
    return [f"{differences.sent:,}", f"{differences.lost:,}{pending}", f"{differences.doubled:,}"]


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
