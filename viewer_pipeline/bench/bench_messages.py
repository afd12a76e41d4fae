"""The rate at which the subscriber receives and folds messages, beside a plain redis-py loop that only parses them."""

from __future__ import annotations

import json
import multiprocessing
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from typing import Any

from viewer_pipeline.bench.bench_servers import PREFIX, BenchServers, bench_servers, make_ids, read_peak_mb
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.ingest.reject_recorder import RejectRecorder
from viewer_pipeline.ingest.subscriber import Subscriber
from viewer_pipeline.ingest.subscriber_stats import SubscriberStats
from viewer_pipeline.settings import Settings
from viewer_pipeline.stores.redis import connect

VODS = 10_000
PIPELINE = 2_000
MAX_UNRECEIVED = 40_000  # published messages: 5 MB, less than the output buffer of a subscriber in Redis

Received = Synchronized  # number of messages received so far
Receive = Callable[..., "ReceiveResult"]


@dataclass(frozen=True)
class ReceiveResult:
    """Duration, CPU time and result of one process."""

    seconds: float
    cpu_seconds: float  # of the receiving process
    counted: int
    peak_mb: float


@dataclass(frozen=True)
class MessageStats:
    """Medians over the runs. Publisher and Redis use the same machine; the rate per CPU second is that of one core."""

    messages: int
    per_second: float
    per_cpu_second: float
    plain_per_second: float
    plain_per_cpu_second: float
    peak_mb: float


def bench_messages(messages: int, *, runs: int) -> MessageStats:
    """Publish `messages` views of 10 000 VODs through a real Redis, to the subscriber and to the plain loop in turn."""
    with bench_servers() as servers:
        rates: dict[str, list[ReceiveResult]] = {"subscriber": [], "plain": []}
        for _ in range(runs):
            rates["subscriber"].append(_measure_in_own_process(servers, _receive_by_subscriber, messages))
            rates["plain"].append(_measure_in_own_process(servers, _receive_by_plain_loop, messages))

    def median(name: str, of: Callable[[ReceiveResult], float]) -> float:
        return statistics.median(of(rate) for rate in rates[name])

    return MessageStats(
        messages,
        per_second=median("subscriber", lambda rate: messages / rate.seconds),
        per_cpu_second=median("subscriber", lambda rate: messages / rate.cpu_seconds),
        plain_per_second=median("plain", lambda rate: messages / rate.seconds),
        plain_per_cpu_second=median("plain", lambda rate: messages / rate.cpu_seconds),
        peak_mb=median("subscriber", lambda rate: rate.peak_mb),
    )


def _measure_in_own_process(servers: BenchServers, receive: Receive, messages: int) -> ReceiveResult:
    servers.client.flushall()
    spawn = multiprocessing.get_context("spawn")
    received, ready = spawn.Value("q", 0), spawn.Event()
    results: Any = spawn.Queue()
    process = spawn.Process(target=_put_result, args=(results, receive, servers.settings, messages, received, ready))
    process.start()
    ready.wait()
    _publish_views(servers, servers.settings.pubsub_channel, messages, received)
    rate: ReceiveResult = results.get()
    process.join()
    assert rate.counted == messages, f"{rate.counted} of {messages} were counted"
    return rate


def _publish_views(servers: BenchServers, channel: str, messages: int, received: Any) -> None:
    payloads = [json.dumps({"vodId": vod_id, "count": 1}) for vod_id in make_ids(VODS)]
    pipe = servers.client.pipeline(transaction=False)
    for number in range(messages):
        pipe.publish(channel, payloads[number * 7919 % VODS])
        if number % PIPELINE == PIPELINE - 1 or number == messages - 1:
            pipe.execute()
            while number - received.value > MAX_UNRECEIVED:
                time.sleep(0.001)


def _put_result(results: Any, receive: Receive, *arguments: Any) -> None:
    results.put(receive(*arguments))


def _receive_by_subscriber(settings: Settings, messages: int, received: Received[int], ready: Event) -> ReceiveResult:
    stats = SubscriberStats()
    subscriber = Subscriber(settings, RejectRecorder(Ledger.of(settings)), stats)
    thread = threading.Thread(target=subscriber.run_until_stopped)
    thread.start()
    while stats.state != "listening":
        time.sleep(0.001)
    ready.set()
    started, cpu = time.perf_counter(), time.process_time()
    while stats.received < messages:
        received.value = stats.received
        time.sleep(0.005)
    subscriber.request_stop()
    thread.join()
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
    with connect(settings.require_redis_url()) as client:
        values: Any = client.mget([PREFIX + vod_id for vod_id in make_ids(VODS)])
    return ReceiveResult(seconds, cpu_seconds, sum(int(value or 0) for value in values), read_peak_mb())


def _receive_by_plain_loop(settings: Settings, messages: int, received: Received[int], ready: Event) -> ReceiveResult:
    views: Counter[str] = Counter()
    with connect(settings.require_redis_url()) as client:
        pubsub: Any = client.pubsub(ignore_subscribe_messages=True)
        pubsub.subscribe(settings.pubsub_channel)
        pubsub.get_message(timeout=1)
        ready.set()
        started, cpu = time.perf_counter(), time.process_time()
        count = 0
        while count < messages:
            if message := pubsub.get_message(timeout=1):
                view = json.loads(message["data"])
                views[view["vodId"]] += view["count"]
                count += 1
                if count % 1000 == 0:
                    received.value = count
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
        pubsub.close()
    return ReceiveResult(seconds, cpu_seconds, views.total(), read_peak_mb())
