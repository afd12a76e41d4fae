"""An `up` whose runs are executed by Celery workers, with a broker of their own. Linux only."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from viewer_pipeline.bench.measured_up import MeasuredUp, environment_of_up, start_up
from viewer_pipeline.stack.celery_workers import COMMAND
from viewer_pipeline.stack.managed_process import ManagedProcess
from viewer_pipeline.stack.ports import find_free_port
from viewer_pipeline.stack.redis_server import RedisServer
from viewer_pipeline.stores.celery_broker import read_broker

WORKERS = 2


@dataclass(frozen=True)
class UpWithCelery:
    """The stack, its broker and its workers, each with one process."""

    up: MeasuredUp
    broker: RedisServer
    workers: list[ManagedProcess]


@contextmanager
def start_up_with_celery(*, interval_ms: int, **settings: str) -> Iterator[UpWithCelery]:
    """Start all, and stop it with the context. `settings`: variables of `up` and the workers."""
    with ExitStack() as stop, tempfile.TemporaryDirectory(prefix="viewer-celery-") as directory:
        broker = RedisServer(Path(directory), port=find_free_port(), append_only=False)
        stop.callback(broker.stop)
        broker.start()
        settings["CELERY_BROKER_URL"] = broker.url
        up = stop.enter_context(start_up(interval_ms=interval_ms, warm_runs=True, **settings))
        for number in range(WORKERS):
            worker = ManagedProcess(
                f"celery-{number}",
                [sys.executable, *COMMAND, "--hostname", f"{number}@%h"],
                # A worker that is killed leaves its temporary files.
                environment={**environment_of_up(up.home, **settings), "TMPDIR": directory},
                log=Path(directory, f"celery-{number}.log"),
            )
            stop.callback(worker.stop)
            worker.start()
            up.beside.append(worker)
        workers = list(up.beside)
        up.beside.append(broker.process)
        up.wait_for(lambda: len(read_broker(broker.url).workers) == WORKERS, "its Celery workers")
        yield UpWithCelery(up, broker, workers)
