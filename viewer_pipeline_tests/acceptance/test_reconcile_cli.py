"""`viewer-pipeline reconcile` and `baseline`, from outside."""

from __future__ import annotations

from pathlib import Path

import pytest

from viewer_pipeline.flush.stores import Stores
from viewer_pipeline_tests.acceptance.test_cli import Environment, environment, error_of, json_of, online
from viewer_pipeline_tests.support.streamix import TargetWorld
from viewer_pipeline_tests.support.warm import run

__all__ = ["environment", "online"]


@pytest.fixture
def vods(stores: Stores) -> TargetWorld:
    """Streamix's tables with two VODs, one of which has new views."""
    world = TargetWorld(stores)
    world.make_streamix()
    world.add_vods("a", "b", count=100)
    world.send("a", 5)
    world.flush()
    return world


@pytest.fixture
def counting_into_vod(online: Environment) -> Environment:
    """The environment with their table as the target, which no other program writes."""
    return {**online, "TARGET_TABLE": "public.Vod", "TARGET_EXCLUSIVE": "true"}


def test_baseline_then_reconcile(counting_into_vod: Environment, vods: TargetWorld) -> None:
    """Taken once; compared, repaired and undone; exit status 1 if differences remain."""
    assert "no baseline was taken" in run(counting_into_vod, "reconcile").stdout
    assert json_of(run(counting_into_vod, "baseline", "--json")) == {}
    baseline = json_of(run(counting_into_vod, "baseline", "--from-target", "--json"))
    assert (baseline["vods"], baseline["views"], baseline["new"]) == (2, 200, True)
    assert json_of(run(counting_into_vod, "baseline", "--from-target", "--json")) == {**baseline, "new": False}
    assert json_of(run(counting_into_vod, "reconcile", "--json"))["remaining"] == 0
    vods.execute("UPDATE viewer.vod_view_counts SET view_count = 1 WHERE vod_id = 'a'")
    result = json_of(run(counting_into_vod, "reconcile", "--json"), 1)
    differences = result["differences"]
    assert (result["status"], differences["total"], differences["target"], result["flushes"]) == ("unhealthy", 1, 1, [])
    assert result["checks"]["totals_equal_history"]["message"] == "1 difference"
    assert len(Path(result["report"]).read_text().splitlines()) == 3
    repaired = json_of(run(counting_into_vod, "reconcile", "--repair", "--json"))
    assert (repaired["status"], repaired["repaired"]["total"], repaired["remaining"]) == ("healthy", 1, 0)
    (seq,) = repaired["flushes"]
    assert json_of(run(counting_into_vod, "reconcile", "--undo", str(seq), "--json"))["views"] == -104
    assert "was undone already" in error_of(run(counting_into_vod, "reconcile", "--undo", str(seq)), 1)
    assert vods.totals() == {"a": -99, "b": 0}


def test_reconcile_prints_checks_and_differences(
    counting_into_vod: Environment, vods: TargetWorld, tmp_path: Path
) -> None:
    """A line for each check, a table of differences, the path of the report; no progress on a pipe."""
    vods.execute("UPDATE viewer.vod_view_counts SET view_count = 1 WHERE vod_id = 'a'")
    done = run(counting_into_vod, "reconcile")
    assert (done.returncode, done.stderr) == (1, "")
    assert "DIFFERS  totals_equal_history: 1 difference" in done.stdout
    assert "ok       marker_follows_ledger: 0 differences" in done.stdout
    assert "history 5, baseline 0, parked 0" in done.stdout
    repaired = run(counting_into_vod, "reconcile", "--repair")
    assert "repaired in flush 2; each can be undone" in repaired.stdout
    assert run(counting_into_vod, "reconcile", "--undo", "2").stdout == "flush 2 is undone by flush 3: -4 views\n"
    counts = tmp_path / "counts.csv"
    counts.write_text("vod_id,count\na,100\nb,x\n")
    assert "line 3: count 'x'" in error_of(run(counting_into_vod, "baseline", "--csv", str(counts)), 1)
    assert run(counting_into_vod, "baseline").stdout.startswith("no baseline was taken: ")
    counts.write_text("vod_id,count\na,100\n")
    assert run(counting_into_vod, "baseline", "--csv", str(counts)).stdout == (
        "baseline: 100 views of 1 VOD from file counts.csv\n"
    )
    assert "nothing was changed" in run(counting_into_vod, "baseline", "--csv", str(counts)).stdout


def test_wrong_usage(counting_into_vod: Environment) -> None:
    """Exit status 2."""
    for arguments in (
        ("reconcile", "--undo", "1", "--repair"),
        ("baseline", "--again"),
        ("baseline", "--from-target", "--csv", "x"),
    ):
        assert run(counting_into_vod, *arguments).returncode == 2
    assert "TARGET_TABLE is not set" in error_of(
        run(
            {name: value for name, value in counting_into_vod.items() if name != "TARGET_TABLE"},
            "baseline",
            "--from-target",
        ),
        2,
    )


def test_bench(environment: Environment) -> None:
    """It falsifies totals of its own servers, and repairs them."""
    stats = json_of(run(environment, "bench", "reconcile", "--totals", "10000", "--json"))
    assert (stats["totals"], stats["falsified"]) == (10_000, 10_000)
    assert min(stats[name] for name in ("raw", "baseline", "compare", "repair", "peak_mb")) > 0
