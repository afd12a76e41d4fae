"""What the broker of Celery shows: the workers that report themselves, and the runs that wait. Without Celery."""

from __future__ import annotations

import pytest
import redis

from viewer_pipeline.errors import RunBrokerUnavailable
from viewer_pipeline.stack.ports import find_free_port
from viewer_pipeline.stores.celery_broker import (
    ALIVE_SECONDS,
    QUEUE,
    WORKERS,
    BrokerReading,
    read_broker,
    remove_worker,
    report_worker,
)
from viewer_pipeline_tests.support.http_world import HttpWorld


def test_workers_that_report(redis_url: str, client: redis.Redis) -> None:
    """A worker counts until it stops, or has not reported for some time; a later report of another removes it."""
    assert read_broker(redis_url) == BrokerReading((), 0)
    for name in ("one@host", "two@host", "three@host"):
        report_worker(redis_url, name)
    client.lpush(QUEUE, "a task", "another one")
    remove_worker(redis_url, "three@host")
    assert read_broker(redis_url) == BrokerReading(("one@host", "two@host"), 2)
    client.zincrby(WORKERS, -ALIVE_SECONDS - 1, "one@host")
    assert read_broker(redis_url).workers == ("two@host",)
    report_worker(redis_url, "two@host")
    assert client.zcard(WORKERS) == 1


def test_no_broker() -> None:
    """Its address is named, without the password."""
    port = find_free_port()
    with pytest.raises(RunBrokerUnavailable, match=rf"redis://:\*\*\*@127\.0\.0\.1:{port}/0: ") as raised:
        read_broker(f"redis://:s3cret@127.0.0.1:{port}/0")
    assert "s3cret" not in str(raised.value)


def test_health(http: HttpWorld, redis_url: str) -> None:
    """/health has the check with CELERY_BROKER_URL only: unhealthy without a broker, and without a worker."""
    http.start()
    assert "celery" not in http.health()[2]
    http.stop()
    port = find_free_port()
    for url, message in ((f"redis://127.0.0.1:{port}/0", "does not answer"), (redis_url, "no Celery worker")):
        http.start(celery_broker_url=url)
        check = http.health()[2]["celery"]
        assert (check["status"], message in check["message"], bool(check["remedy"])) == ("unhealthy", True, True)
        http.stop()
    report_worker(redis_url, "one@host")
    http.start(celery_broker_url=redis_url)
    assert http.health()[2]["celery"]["status"] == "healthy"
