"""Errors of a real Redis that need a person, or time: each has its class, its sentence and its remedy."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest
import redis

from viewer_pipeline.errors import RedisFailed, RedisRefusesConnections, RedisUnavailable, ViewerPipelineError
from viewer_pipeline.flush.open_store import open_store
from viewer_pipeline.layout import HOME_SLOT, key_slot
from viewer_pipeline.redis_names import MARKER
from viewer_pipeline.settings import Settings
from viewer_pipeline.stack.ports import LOOPBACK, find_free_port
from viewer_pipeline.stores.redis import connect
from viewer_pipeline_tests.support.cluster import RedisCluster

MARKER_SLOT = key_slot(MARKER.encode())


@pytest.fixture
def names(client: redis.Redis, redis_url: str) -> Iterator[dict[str, str]]:
    """The place of the server, and a user with the password `s3cret` who may read no key."""
    name = "poor_" + os.urandom(4).hex()
    client.acl_setuser(name, enabled=True, passwords=["+s3cret"], commands=["+ping", "+select"])
    yield {"user": name, "place": redis_url.removeprefix("redis://").partition("/")[0]}
    client.acl_deluser(name)


def error_of_reading(url: str) -> ViewerPipelineError:
    """Read the marker as a run does; return the error."""
    with connect(url, seconds=2, retries=0) as client, pytest.raises(ViewerPipelineError) as raised:
        open_store(client, Settings(redis_url=url)).marker()
    assert "s3cret" not in f"{raised.value} {raised.value.remedy}"
    return raised.value


@pytest.mark.parametrize(
    ("url", "error", "sentence", "remedy"),
    [
        ("redis://{user}:other@{place}/0", RedisRefusesConnections, "user and password do not match", "REDIS_URL"),
        (
            "redis://:s3cret@{place}/0",
            RedisRefusesConnections,
            "a password is given, and this Redis has none",
            "remove",
        ),
        ("redis://{place}/9999", RedisRefusesConnections, "this Redis has no database with the number", "`databases`"),
        ("redis://{user}:s3cret@{place}/0", RedisFailed, "this user lacks a right", "`viewer-pipeline grants`"),
        (
            "redis://no-such-host.invalid/0",
            RedisUnavailable,
            "the host name of the URL cannot be resolved",
            "name serv",
        ),
        ("unix:///nowhere/redis.sock", RedisUnavailable, "nothing listens there", "start Redis"),
    ],
)
def test_an_error_is_specific(
    names: dict[str, str], url: str, error: type[ViewerPipelineError], sentence: str, remedy: str
) -> None:
    """One sentence, and what to do."""
    raised = error_of_reading(url.format(**names))
    assert type(raised) is error
    assert sentence in str(raised)
    assert remedy in raised.remedy


def test_a_password_that_is_missing(client: redis.Redis, redis_url: str) -> None:
    """Only the default user can have a password without a name."""
    client.config_set("requirepass", "s3cret")
    try:
        raised = error_of_reading(redis_url)
    finally:
        client.config_set("requirepass", "")
    assert type(raised) is RedisRefusesConnections
    assert "a password is required, and none is given" in str(raised)


def test_nothing_listens() -> None:
    """It can be tried again."""
    raised = error_of_reading(f"redis://:s3cret@{LOOPBACK}:{find_free_port()}/0")
    assert type(raised) is RedisUnavailable
    assert "nothing listens there (Error 111 connecting to" in str(raised)


def test_a_silent_server() -> None:
    """Over TLS a server without TLS is silent too, which the remedy says."""
    with socket.create_server((LOOPBACK, 0)) as silent:
        port = silent.getsockname()[1]
        assert "the server is connected and does not answer" in str(error_of_reading(f"redis://{LOOPBACK}:{port}/0"))
        raised = error_of_reading(f"rediss://{LOOPBACK}:{port}/0")
    assert "no answer from the host of the URL" in str(raised)
    assert "check that the server uses TLS on this port" in raised.remedy


def test_a_cluster_that_the_url_does_not_name(redis_cluster: RedisCluster) -> None:
    """Its nodes redirect most commands."""
    other = next(node for node in redis_cluster.primaries() if node != redis_cluster.node_of_slot(MARKER_SLOT))
    raised = error_of_reading(other.url)
    assert type(raised) is RedisRefusesConnections
    assert f"{other.url}: this Redis is in cluster mode (MOVED {MARKER_SLOT} " in str(raised)
    assert "write redis+cluster:// in place of redis://" in raised.remedy


def test_a_redis_that_is_no_cluster(redis_url: str) -> None:
    """Although the URL is that of one."""
    url = redis_url.replace("redis://", "redis+cluster://")
    raised = error_of_reading(url)
    assert type(raised) is RedisRefusesConnections
    assert f"{url}: this Redis is not in cluster mode" in str(raised)
    assert raised.remedy == "write redis:// in place of redis+cluster:// into REDIS_URL"


def test_no_node_of_a_cluster_listens() -> None:
    """All seeds are tried."""
    raised = error_of_reading(f"redis+cluster://{LOOPBACK}:{find_free_port()},{LOOPBACK}:{find_free_port()}")
    assert type(raised) is RedisUnavailable
    assert "nothing listens there (Error 111 connecting to" in str(raised)


def test_a_slot_that_no_node_serves(redis_cluster: RedisCluster) -> None:
    """As after the loss of a node."""
    for node in redis_cluster.nodes:
        node.command("CLUSTER", "DELSLOTS", HOME_SLOT)
    raised = error_of_reading(redis_cluster.url)
    assert type(raised) is RedisUnavailable
    assert "some slots of the cluster have no primary" in str(raised)
