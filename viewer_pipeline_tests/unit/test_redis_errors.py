"""Texts of Redis and redis-py, as they came from real ones, become our errors."""

from __future__ import annotations

import pytest
import redis

from viewer_pipeline.errors import RedisFailed, RedisRefusesConnections, RedisUnavailable, ViewerPipelineError
from viewer_pipeline.stores.known_errors import find_known_error
from viewer_pipeline.stores.known_redis_errors import REDIS_ERRORS
from viewer_pipeline.stores.redis import redis_errors

TEXTS: list[tuple[type[redis.RedisError], str, type[ViewerPipelineError], str]] = [
    (
        redis.AuthenticationError,
        "invalid username-password pair or user is disabled.",
        RedisRefusesConnections,
        "user and password do not match",
    ),
    (redis.AuthenticationError, "Authentication required.", RedisRefusesConnections, "a password is required"),
    (
        redis.AuthenticationError,
        "AUTH <password> called without any password configured for the default user.",
        RedisRefusesConnections,
        "a password is given, and this Redis has none",
    ),
    (
        redis.exceptions.NoPermissionError,
        "this user has no permissions to run the 'client' command or its subcommand",
        RedisFailed,
        "this user lacks a right",
    ),
    (redis.exceptions.MovedError, "13437 127.0.0.1:7001", RedisRefusesConnections, "this Redis is in cluster mode"),
    (
        redis.exceptions.ClusterCrossSlotError,
        "Keys in request don't hash to the same slot",
        RedisRefusesConnections,
        "this Redis is in cluster mode",
    ),
    (
        redis.ResponseError,
        "This instance has cluster support disabled",
        RedisRefusesConnections,
        "this Redis is not in cluster mode",
    ),
    (redis.exceptions.ClusterDownError, "Hash slot not served", RedisUnavailable, "some slots of the cluster have no"),
    (
        redis.exceptions.TryAgainError,
        "Multiple keys request during rehashing of slot",
        RedisUnavailable,
        "slots of the cluster are moving to other nodes",
    ),
    (redis.ResponseError, "DB index is out of range", RedisRefusesConnections, "this Redis has no database with"),
    (
        redis.ConnectionError,
        "certificate verify failed: Hostname mismatch, certificate is not valid for 'localhost'.",
        RedisRefusesConnections,
        "the certificate of the server is for another host name",
    ),
    (
        redis.ConnectionError,
        "Error 1 connecting to db:1. [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: unable to get issuer",
        RedisRefusesConnections,
        "the authority that signed",
    ),
    (
        redis.ConnectionError,
        "Error 1 connecting to db:1. [SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006).",
        RedisRefusesConnections,
        "the server does not use TLS on this port",
    ),
    (
        redis.ConnectionError,
        "[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] tlsv13 alert certificate required",
        RedisRefusesConnections,
        "the server requires a certificate of the client",
    ),
    (
        redis.ConnectionError,
        "Error 2 connecting to db:6379. No such file or directory.",
        RedisRefusesConnections,
        "a certificate or key file of the URL cannot be used",
    ),
    (redis.ConnectionError, "Error 111 connecting to db:1. Connection refused.", RedisUnavailable, "nothing listens"),
    (
        redis.ConnectionError,
        "Error 2 connecting to /run/redis.sock. No such file or directory.",
        RedisUnavailable,
        "nothing listens there",
    ),
    (
        redis.ConnectionError,
        "Error -2 connecting to db:6379. Name or service not known.",
        RedisUnavailable,
        "the host name of the URL cannot be resolved",
    ),
    (redis.ConnectionError, "No master found for 'views'", RedisUnavailable, "the Sentinels name no primary"),
    (redis.TimeoutError, "Timeout connecting to server", RedisUnavailable, "no answer from the host of the URL"),
    (
        redis.TimeoutError,
        "Timeout reading from socket",
        RedisUnavailable,
        "the server is connected and does not answer",
    ),
    (redis.ConnectionError, "max number of clients reached", RedisUnavailable, "Redis takes no more connections"),
    (
        redis.exceptions.BusyLoadingError,
        "Redis is loading the dataset in memory",
        RedisUnavailable,
        "Redis is loading its data",
    ),
    (redis.ConnectionError, "Connection closed by server.", RedisUnavailable, "the connection broke"),
]


@pytest.mark.parametrize(("driver_error", "text", "ours", "sentence"), TEXTS)
def test_known_errors(
    driver_error: type[redis.RedisError], text: str, ours: type[ViewerPipelineError], sentence: str
) -> None:
    """The class decides whether it is tried again; there is a remedy, and no password."""
    with pytest.raises(ours) as raised, redis_errors("redis://me:s3cret@db:1/0"):
        raise driver_error(text)
    assert type(raised.value) is ours
    assert f": redis://me:***@db:1/0: {sentence}" in str(raised.value)
    assert raised.value.remedy


def test_a_redirection_inside_a_cluster() -> None:
    """It is no reason to change the URL: the next attempt finds the node."""
    with pytest.raises(RedisUnavailable, match="slots of the cluster are moving"), redis_errors("redis+cluster://db:1"):
        raise redis.exceptions.MovedError("13437 127.0.0.1:7001")


def test_every_row_describes_some_text() -> None:
    """None is hidden by an earlier one."""
    known = [find_known_error(REDIS_ERRORS, text) for _, text, _, _ in TEXTS]
    reached = {id(match[0]) for match in known if match is not None}
    assert [row for row in REDIS_ERRORS if id(row) not in reached] == []


def test_other_errors_keep_their_text() -> None:
    """With the class that they had."""
    with pytest.raises(RedisFailed, match=r"redis://db:1/0: ERR odd$"), redis_errors("redis://db:1/0"):
        raise redis.ResponseError("ERR odd")
