"""The Redis by which runs are sent to Celery workers: which workers serve it, and how many runs wait there.

Without an import of Celery. Celery keeps no list of its workers, and asking them takes seconds, so each of them writes
its name here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import redis

from viewer_pipeline.errors import RunBrokerUnavailable
from viewer_pipeline.redaction import redact_url
from viewer_pipeline.stores.redis import connect

WORKERS = "viewer-pipeline:celery-workers"  # sorted set: name of the node -> Unix time of its broker
REPORT_SECONDS, ALIVE_SECONDS = 5.0, 20.0
QUEUE = "dagster"  # the list in which runs wait, of dagster-celery
SECONDS = 2.0  # time limit of a command
BROKER_REMEDY = "check that the server of CELERY_BROKER_URL runs; runs go on once it does"


@dataclass(frozen=True)
class BrokerReading:
    """`workers`: names of those that serve the queue; `waiting`: runs that none of them has taken."""

    workers: tuple[str, ...]
    waiting: int


def report_worker(url: str, name: str) -> None:
    """Write that a worker serves the queue now, and remove those that have ended. Raises RunBrokerUnavailable."""
    with _broker(url, SECONDS) as client:
        now = _server_time(client)
        with client.pipeline() as pipe:
            pipe.zadd(WORKERS, {name: now})
            pipe.zremrangebyscore(WORKERS, "-inf", now - ALIVE_SECONDS)
            pipe.execute()


def remove_worker(url: str, name: str) -> None:
    """Write that a worker has stopped. Raises RunBrokerUnavailable."""
    with _broker(url, SECONDS) as client:
        client.zrem(WORKERS, name)


def read_broker(url: str, seconds: float = SECONDS) -> BrokerReading:
    """Read the broker; `seconds`: time limit of a command. Raises RunBrokerUnavailable."""
    with _broker(url, seconds) as client:
        since = _server_time(client) - ALIVE_SECONDS
        with client.pipeline() as pipe:
            pipe.zrangebyscore(WORKERS, since, "+inf")
            pipe.llen(QUEUE)
            names, waiting = pipe.execute()
    return BrokerReading(tuple(name.decode() for name in names), waiting)


@contextmanager
def _broker(url: str, seconds: float) -> Iterator[redis.Redis]:
    try:
        with connect(url, seconds=seconds, retries=0) as client:
            yield client
    except redis.RedisError as error:
        raise RunBrokerUnavailable(f"{redact_url(url)}: {error}", BROKER_REMEDY) from error


def _server_time(client: redis.Redis) -> float:
    seconds, microseconds = client.time()
    return float(seconds) + microseconds / 1e6
