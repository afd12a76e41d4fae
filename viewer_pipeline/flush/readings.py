"""The counters as they were read from Redis. Without pandas, which the worker does not need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Readings:
    """`values[i]` is the counter of `ids[i]` (raw, without prefix), None where it is no string. In any order."""

    ids: Sequence[bytes] = ()
    values: Sequence[bytes | None] = ()
    types: Mapping[bytes, str] = field(default_factory=dict)  # of the ids without a value; "none" where no key exists
