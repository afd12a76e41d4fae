"""A process that dies at a call, within the process of the test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from unittest.mock import patch


class Died(BaseException):
    """Stands for a process that ends here: no code of the pipeline catches it."""


def die(*_: Any, **__: Any) -> Any:
    """Raise Died instead of making the call."""
    raise Died


@contextmanager
def dying_at(owner: Any, name: str, calls: int) -> Iterator[None]:
    """Let the block end at the call of this function after the first `calls`."""
    original, left = getattr(owner, name), [calls]

    def call_or_die(*arguments: Any, **options: Any) -> Any:
        if not left[0]:
            raise Died
        left[0] -= 1
        return original(*arguments, **options)

    with suppress(Died), patch.object(owner, name, call_or_die):
        yield
