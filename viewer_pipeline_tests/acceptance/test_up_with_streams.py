"""`viewer-pipeline up` with several streams, end to end."""

from __future__ import annotations

import json
from pathlib import Path

import redis

from viewer_pipeline.stack.ports import find_free_port
from viewer_pipeline.streams import stream_of
from viewer_pipeline_tests.support.stack import Stack, query_graphql, up, variables
from viewer_pipeline_tests.support.waiting import wait_until
from viewer_pipeline_tests.support.worker_http import get
from viewer_pipeline_tests.support.world import World

VODS = 40
PARTITIONS = """
query {
  assetNodeOrError(assetKey: {path: ["view_counts"]}) {
    ... on AssetNode {
      partitionKeys
      assetPartitionStatuses { ... on DefaultPartitionStatuses { materializedPartitions } }
    }
  }
}
"""


def partitions(ui: str, *, materialized: bool = False) -> list[str]:
    """Return the partitions that the UI shows, or those of them that runs have materialized."""
    node = query_graphql(ui, PARTITIONS)
    keys: list[str] = (
        node["assetPartitionStatuses"]["materializedPartitions"] if materialized else node["partitionKeys"]
    )
    return sorted(keys)


def health_of(port: int) -> tuple[str, dict[str, str]]:
    """Return the status of /health, and the message of each check that is not healthy."""
    try:
        body = json.loads(get(port, "/health")[1])
    except OSError as error:
        return str(error), {}
    failing = {name: check["message"] for name, check in body["checks"].items() if check["status"] != "healthy"}
    return body["status"], failing


def is_settled(stack: Stack) -> dict[str, bool]:
    """Return whether each stream is settled; none while `status` has no time to read them on a busy machine."""
    status = json.loads(stack.run("status", "--json").stdout)
    return {part["part"]: part["settled"] for part in status.get("streams", ())}


def test_up_with_two_streams(
    tmp_path: Path, database_url: str, redis_url: str, client: redis.Redis, world: World
) -> None:
    """Views of messages and of counters alone are persisted by both streams; `streams apply` changes their number."""
    port = find_free_port()
    servers = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "HEALTH_CHECK_PORT": str(port)}
    environment = variables(tmp_path, **servers, FLUSH_STREAMS="2")
    with up(environment) as stack:
        ui = stack.wait_for_ui()
        for number in range(VODS):
            vod_id = f"vod{number:04d}"
            if number % 2:
                client.publish("view_count_updates", json.dumps({"vodId": vod_id, "count": 2}))
                world.sent[vod_id] += 2
            else:
                world.send(vod_id, 2)  # nobody announces it
        wait_until(lambda: world.totals() == world.sent and world.counters() == {}, 240, "all views are persisted")
        assert {stream_of(seq) for seq in world.seqs()} == {1, 2}
        assert partitions(ui) == ["1of2", "2of2"]
        wait_until(lambda: partitions(ui, materialized=True) == ["1of2", "2of2"], 60, "both are shown as materialized")
        wait_until(lambda: health_of(port)[0] == "healthy", 180, "/health is healthy")
        wait_until(lambda: is_settled(stack) == {"1of2": True, "2of2": True}, 60, "`status` has read both markers")
        stack.stop()
    with up(environment | {"FLUSH_STREAMS": "1"}) as stack:
        stack.wait_for_ui()
        world.send("vod0001", 1)
        wait_until(lambda: "streams" in health_of(port)[1], 60, "/health reports the number of streams")
        assert health_of(port)[1]["streams"] == "FLUSH_STREAMS=1, and the ledger has 2 streams: runs are refused"
        reply = json.loads(stack.run("streams", "apply", "--json").stdout)
        assert [part["stream"] for part in reply["streams"]] == [3]
        wait_until(lambda: world.totals() == world.sent and world.counters() == {}, 240, "all views are persisted")
        assert max(map(stream_of, world.seqs())) == 3
        wait_until(lambda: health_of(port)[0] == "healthy", 180, "/health is healthy")
        stack.stop()
