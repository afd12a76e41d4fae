"""Functions in other processes, forked from one that has imported what a run needs: as runs in production."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

Call = Callable[..., Any]  # of a function of a module, and its arguments, in another process; returns its result

FORKS = multiprocessing.get_context("forkserver")
PRELOAD = "viewer_pipeline.bench.preload"


def call_in_new_process(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return the result of a function of a module. Raises EOFError if it raised; its traceback is on stderr then."""
    FORKS.set_forkserver_preload([PRELOAD])  # imported once, by the process that is forked
    receiver, sender = FORKS.Pipe(duplex=False)
    process = FORKS.Process(target=_send_result, args=(sender, function, args, kwargs))
    process.start()
    sender.close()
    with receiver:
        result: T = receiver.recv()
    process.join()
    return result


@contextmanager
def kept_process() -> Iterator[Call]:
    """Open a process that is kept; yield a function like `call_in_new_process` that calls in it."""
    FORKS.set_forkserver_preload([PRELOAD])
    with ProcessPoolExecutor(1, FORKS) as process:
        yield lambda function, *args: process.submit(function, *args).result()


def _send_result(sender: Connection, function: Callable[..., object], args: tuple[object, ...], kwargs: object) -> None:
    assert isinstance(kwargs, dict)
    sender.send(function(*args, **kwargs))
