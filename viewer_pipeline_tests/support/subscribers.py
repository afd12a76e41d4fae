"""Subscribers under test, on threads that can be frozen and killed, and as processes; and publishers."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson
import redis

from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.ingest.reject_recorder import RejectRecorder
from viewer_pipeline.ingest.subscriber import Subscriber
from viewer_pipeline.ingest.subscriber_stats import SubscriberStats
from viewer_pipeline.redis_names import DEFAULT_PREFIX, RedisNames
from viewer_pipeline.settings import Settings
from viewer_pipeline.stack.ports import find_free_port
from viewer_pipeline.stores.redis import connect
from viewer_pipeline_tests.support.dying import Died
from viewer_pipeline_tests.support.waiting import ENOUGH, wait_until

CHANNEL = "view_count_updates"
SUBSCRIBER = "viewer:subscriber"
PIPELINE_MESSAGES = 40  # messages that a publisher sends in one go


def message(vod_id: str, count: int = 1) -> bytes:
    """Return a message as producers publish it."""
    return orjson.dumps({"vodId": vod_id, "count": count})


class SubscriberThread:
    """A subscriber on a thread, which can be frozen or killed between two of its steps."""

    def __init__(self, settings: Settings) -> None:
        self.stats = SubscriberStats()
        self.rejections = RejectRecorder(Ledger(settings.require_database_url()))
        self.subscriber = Subscriber(settings, self.rejections, self.stats)
        self.remaining: int | None = None
        self._thread = threading.Thread(target=self._run)
        self._gate, self._waits = threading.Event(), threading.Event()
        self._gate.set()
        self._dead = False
        step = self.subscriber._report_lease_state

        def enter() -> None:
            step()
            if not self._gate.is_set():
                self._waits.set()
                self._gate.wait()
                self._waits.clear()
            if self._dead:
                raise Died

        self.subscriber._report_lease_state = enter  # type: ignore[method-assign]

    @property
    def state(self) -> str:
        """The state of the subscriber."""
        return self.stats.state

    @property
    def is_alive(self) -> bool:
        """Whether its thread runs."""
        return self._thread.is_alive()

    def start(self, seconds: float = 30) -> Self:
        """Start it and wait until it listens."""
        self.rejections.start()
        self._thread.start()
        wait_until(lambda: self.state in ("listening", "standby"), seconds, "listening")
        return self

    def freeze(self) -> None:
        """Pause it, with its connections open."""
        self._gate.clear()
        assert self._waits.wait(ENOUGH)

    def thaw(self) -> None:
        """Resume it."""
        self._gate.set()

    def die(self) -> None:
        """End it as it is: it folds nothing more and does not release the lease."""
        self._dead = True
        self._gate.set()
        self._thread.join(ENOUGH)
        assert not self._thread.is_alive()

    def stop(self) -> None:
        """Stop it in order, if it is alive."""
        self._gate.set()
        self.subscriber.request_stop()
        self._thread.join(ENOUGH)
        assert not self._thread.is_alive()
        if self.rejections._thread.is_alive():
            self.rejections.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self) -> None:
        with suppress(Died):
            self.remaining = self.subscriber.run_until_stopped()


class Publisher:
    """Publishes from a thread at a given pace, and counts what it sent. A context manager."""

    def __init__(self, url: str, name: str, *, vods: int = 50, pause: float = 0.01, counts: bool = False) -> None:
        self.sent: Counter[str] = Counter()
        self.name = name
        self.undelivered = 0  # messages that no subscriber could have received
        self._url, self._vods, self._pause, self._counts = url, vods, pause, counts
        self._random = random.Random(name)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run)

    def rename(self, name: str) -> None:
        """Publish other ids from now on; no id of the old name follows."""
        with self._lock:
            self.name = name

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(ENOUGH)

    def _run(self) -> None:
        with connect(self._url) as client:
            client.client_setname("publisher")  # not to be taken for a subscriber
            while not self._stop.wait(self._pause):
                with self._lock, client.pipeline(transaction=False) as pipeline:
                    ids = [f"{self.name}{self._random.randrange(self._vods)}" for _ in range(PIPELINE_MESSAGES)]
                    for vod_id in ids:
                        if self._counts:
                            pipeline.incr("vod:views:" + vod_id)
                        pipeline.publish(CHANNEL, message(vod_id))
                    receivers: Any = pipeline.execute()
                    self.sent.update(ids)
                    self.undelivered += sum(not count for count in receivers)


class FleetWorker:
    """A worker process."""

    def __init__(self, database_url: str, redis_url: str, directory: Path) -> None:
        variables = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "HEALTH_CHECK_PORT": str(find_free_port())}
        self._log = (directory / f"worker-{os.urandom(4).hex()}.log").open("wb")
        command = [sys.executable, "-m", "viewer_pipeline.cli", "worker", "--no-last-flush"]  # counters stay
        self._process = subprocess.Popen(
            command, cwd=directory, env=os.environ | variables, stdout=self._log, stderr=subprocess.STDOUT
        )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process.poll() is None, Path(self._log.name).read_text()
        self._process.send_signal(number)

    def wait(self) -> int:
        """Wait for its end; return its status."""
        try:
            return self._process.wait(ENOUGH)
        finally:
            self._log.close()

    def end(self) -> None:
        """End it, whatever state it is in."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(ENOUGH)
        self._log.close()


class Fleet:
    """FleetWorker processes on one Redis."""

    def __init__(self, client: redis.Redis, database_url: str, redis_url: str, directory: Path) -> None:
        self.client = client
        self.workers: list[FleetWorker] = []
        self._urls, self._directory = (database_url, redis_url), directory

    def start(self) -> FleetWorker:
        """Start one more, and do not wait for it."""
        worker = FleetWorker(*self._urls, self._directory)
        self.workers.append(worker)
        return worker

    def scale_to(self, count: int) -> None:
        """Run so many workers, each of which has received all that is still to be folded."""
        while len(self.workers) > count:
            worker = next(worker for worker in self.workers if worker.pid != self.holder())
            worker.end()
            self.workers.remove(worker)
        while len(self.workers) < count:
            self.start()
        wait_until(lambda: self._subscriber_count() == count, 60, f"{count} subscribers")
        cut = self._number("cut")
        wait_until(lambda: self._number("folded") >= cut + 2, 60, "segments that all of them received completely")

    def holder(self) -> int:
        """Return the process id of the holder of the lease; 0 if there is none."""
        return int((self._field("worker") or b":0").rpartition(b":")[2])

    def leader(self) -> FleetWorker:
        """Return the worker that holds the lease."""
        return next(worker for worker in self.workers if worker.pid == self.holder())

    def end(self, worker: FleetWorker, number: signal.Signals) -> int:
        """End a worker by a signal; return its status."""
        worker.send(number)
        self.workers.remove(worker)
        return worker.wait()

    def wait_for_takeover(self, than: FleetWorker, seconds: float) -> None:
        """Wait until another worker has the lease."""
        wait_until(lambda: self.holder() not in (0, than.pid), seconds, "a takeover")

    def _subscriber_count(self) -> int:
        name = RedisNames.of(DEFAULT_PREFIX).cuts_channel((self._field("id") or b"").decode())
        reply: Any = self.client.pubsub_numsub(name)
        return int(reply[0][1])

    def _number(self, name: str) -> int:
        return int(self._field(name) or 0)

    def _field(self, name: str) -> Any:
        return self.client.hget(SUBSCRIBER, name)
