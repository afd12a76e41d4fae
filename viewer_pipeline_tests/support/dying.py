"""A process that dies at a call, within the process of the test."""

from __future__ import annotations

from typing import Any


class Died(BaseException):
    """Stands for a process that ends here: no code of the pipeline catches it."""


def die(*_: Any, **__: Any) -> Any:
    """Raise Died instead of making the call."""
    raise Died
