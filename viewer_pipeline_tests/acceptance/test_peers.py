"""`make peers` without the libraries of other projects: it finds what is lost and doubled, and nothing in our flush."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tools.peers.__main__ import SCENARIOS, measure
from tools.peers.peers import OURS, PEERS, Peer
from tools.peers.plan import Plan
from tools.peers.results import print_markdown, print_tables, read_results, write_json
from tools.peers.scenarios.differences import Differences

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")

PEER = {peer.name: peer for peer in PEERS}
VODS = 300
ROOT = Path(__file__).parents[2]


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """A small plan that writes histories."""
    return Plan(
        Path(sys.executable), tmp_path, kills=3, vods=VODS, views_per_second=1_000, seconds_of_loss=5, stable_seconds=3
    )


def lost_and_doubled(history: Path) -> tuple[int, int]:
    """Return lost and doubled views as a program without our code decides them."""
    command = [sys.executable, "-m", "tools.judge", "--json", str(history)]
    result = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout)
    return sum(result["lost"].values()), sum(result["doubled"].values())


def assert_same_result(history: Path, differences: Differences | None) -> None:
    """Assert that it decides the same."""
    assert differences is not None
    assert lost_and_doubled(history) == (differences.lost, differences.doubled)


def test_our_flush_is_exact(plan: Plan, tmp_path: Path) -> None:
    """Under all faults; the views of a deleted VOD are kept until it is created again."""
    result = measure(PEER[OURS], plan, ["kills", "redis_fallback", "lost_replies", "deleted_vod"], {})
    assert result.failures == {}
    for differences in (result.kills, result.redis_fallback, result.lost_replies):
        assert differences is not None
        assert differences.is_exact
        assert differences.sent > VODS
    assert result.deleted_vod is not None
    assert result.deleted_vod.others.is_exact
    assert result.deleted_vod.lost_of_deleted == 0
    assert_same_result(tmp_path / f"{OURS}-kills.jsonl", result.kills)
    assert_same_result(tmp_path / f"{OURS}-redis-fallback.jsonl", result.redis_fallback)


def test_doubled_views_are_found(plan: Plan, tmp_path: Path) -> None:
    """A flusher without a ledger counts what an older copy of Redis has once more: two views of each VOD."""
    result = measure(PEER["rename_flusher"], replace(plan, stuck_seconds=10), ["redis_fallback"], {})
    differences = result.redis_fallback
    assert differences is not None, result.failures
    assert (differences.lost, differences.doubled, differences.pending) == (0, 2 * VODS, 0)
    assert_same_result(tmp_path / "rename_flusher-redis-fallback.jsonl", differences)


def test_lost_views_are_found(plan: Plan, tmp_path: Path) -> None:
    """Keys that are deleted after the transaction lose what was counted meanwhile; so does a VOD that is deleted."""
    result = measure(PEER["node_algorithm"], replace(plan, stuck_seconds=10), ["kills", "deleted_vod"], {})
    assert result.kills is not None, result.failures
    assert result.kills.lost > 0
    assert_same_result(tmp_path / "node_algorithm-kills.jsonl", result.kills)
    assert result.deleted_vod is not None
    assert (result.deleted_vod.others.lost, result.deleted_vod.lost_of_deleted) == (0, 1)


def test_speed_and_what_others_notice(plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All columns have values, also after they were written and read; the tables show them."""
    small = Plan(plan.python, counters=2_000, rounds=2, markers=2)
    result = measure(PEER["rename_flusher"], small, ["throughput", "seen_by_others", "delays"], {})
    assert result.failures == {}
    assert result.throughput is not None
    assert result.throughput.per_second > 0
    assert result.throughput.all_cpu_seconds >= result.throughput.program_cpu_seconds >= 0  # in hundredths
    assert result.throughput.peak_mb > 0
    assert result.seen_by_others is not None
    assert result.seen_by_others.lowest_sum is not None
    assert 0 <= result.seen_by_others.lowest_sum <= 1
    assert result.delays is not None
    assert 0 < result.delays.p50 <= result.delays.p95
    file = tmp_path / "results.json"
    file.write_text(write_json([result]))
    assert read_results([file, file]) == [result]
    capsys.readouterr()
    print_markdown([result])
    assert f"| RENAME, upsert, delete | {result.throughput.per_second:,.0f} |" in capsys.readouterr().out


def test_a_failure_is_a_result(plan: Plan, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A program that persists nothing does not end the comparison."""

    def fail(_peer: Peer, _plan: Plan) -> None:
        raise TimeoutError("without all views")

    monkeypatch.setitem(SCENARIOS, "kills", fail)
    result = measure(PEER[OURS], plan, ["kills"], {})
    assert not result.is_exact
    print_tables([result])
    assert "kills: without all views" in capsys.readouterr().out
