"""`viewer-pipeline up` and other commands on a Redis Cluster and a PostgreSQL of one's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psycopg

from viewer_pipeline.layout import HOME_SLOT
from viewer_pipeline.stack.ports import find_free_port
from viewer_pipeline_tests.support.cluster import RedisCluster
from viewer_pipeline_tests.support.stack import Stack, up, variables
from viewer_pipeline_tests.support.waiting import wait_until
from viewer_pipeline_tests.support.worker_http import get

PREFIX = "vod:views:"


def totals(url: str) -> dict[str, int]:
    """Return the persisted views by VOD; none before `up` has migrated."""
    with psycopg.connect(url) as connection:
        return dict(connection.execute("SELECT vod_id, view_count FROM viewer.vod_view_counts").fetchall())


def json_of(stack: Stack, *arguments: str) -> dict[str, Any]:
    """Run a command that succeeds; return what it prints."""
    done = stack.run(*arguments, "--json")
    assert done.returncode == 0, done.stderr + done.stdout
    rendered: dict[str, Any] = json.loads(done.stdout)
    return rendered


def test_the_whole_stack(tmp_path: Path, redis_cluster: RedisCluster, database_url: str) -> None:
    """Messages and counters become totals, also after a primary has died; all commands find nothing wrong."""
    port = find_free_port()
    settings = {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_cluster.url,
        "PUBSUB_MODE": "announce",
        "REDIS_WAIT_REPLICAS": "1",
        "HEALTH_CHECK_PORT": str(port),
    }
    with up(variables(tmp_path, **settings)) as stack:
        stack.wait_for_ui()
        sent = json_of(stack, "send", "vod_1", "--count", "3")
        assert sent == {"vod_id": "vod_1", "count": 3, "how": "both", "subscribers": 1}
        wait_until(lambda: totals(database_url) == {"vod_1": 3}, 120, "the sensor launched a flush")

        home = redis_cluster.node_of_slot(HOME_SLOT)  # of the worker and the changed set
        redis_cluster.wait_until_replicated()
        redis_cluster.kill(home)
        redis_cluster.wait_for_promotion(home)
        redis_cluster.restart(home)  # as a replica, for which flushes wait
        expected = {"vod_1": 3}
        for number in range(6):
            json_of(stack, "send", f"late_{number}")
            expected[f"late_{number}"] = 1
        wait_until(lambda: totals(database_url) == expected, 120, "views that came after a primary had died")

        json_of(stack, "send", "unannounced", "--how", "incr")
        expected["unannounced"] = 1
        wait_until(lambda: totals(database_url) == expected, 120, "the sensor's scan found it")
        json_of(stack, "send", "by hand", "--how", "incr")
        json_of(stack, "flush")
        assert totals(database_url) == expected | {"by hand": 1}
        expected_status = {"persisted": 11, "settled": True, "pending_views": 0}
        wait_until(lambda: json_of(stack, "status").items() >= expected_status.items(), 60, str(expected_status))
        checks = json.loads(stack.run("doctor", "--json").stdout)["checks"]
        assert {name for name, check in checks.items() if check["status"] == "unhealthy"} == {"postgres_durability"}
        assert json_of(stack, "reconcile")["remaining"] == 0
        redis = ("healthy", "degraded")  # degraded: a node has restarted
        wait_until(lambda: json.loads(get(port, "/health")[1])["checks"]["redis"]["status"] in redis, 60, "/health")
        wait_until(lambda: "3 nodes; " in get(port, "/")[1], 60, "the page")
        wait_until(lambda: "viewer_redis_up 1.0" in get(port, "/metrics")[1], 60, "the metrics")
        stack.stop()
    assert "Traceback" not in stack.log.read_text()
    assert redis_cluster.counters(PREFIX) == {}
