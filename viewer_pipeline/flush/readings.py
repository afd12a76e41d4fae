"""What Redis held, and what of it can never be a count. Without pandas, which the worker does not need."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

SAMPLE_CHARACTERS = 300


@dataclass(frozen=True)
class Readings:
    """What Redis held: `ids[i]` (raw, without prefix) had `values[i]`, or None where it was no string. In any order."""

    ids: list[bytes] = field(default_factory=list)
    values: list[bytes | None] = field(default_factory=list)
    types: dict[bytes, str] = field(default_factory=dict)  # of the ids without a value; "none" where there is no key


@dataclass(frozen=True)
class Reject:
    """One input that can never be a count, with the reason. Kept cut, told apart by a digest of the whole."""

    source: str
    subject: str
    value: str
    reason: str
    digest: bytes

    @classmethod
    def of(cls, source: str, subject: bytes, value: bytes, reason: str, occasion: str = "") -> Reject:
        """Make a reject whose texts PostgreSQL can hold, whatever bytes came in.

        It is recorded once for each `occasion`: for ever by default, else e.g. once per segment.
        """
        parts = (source.encode(), reason.encode(), occasion.encode(), subject)
        digest = hashlib.sha256(b"\x00".join(parts)).digest()
        return cls(source, printable(subject), printable(value), reason, digest)


def printable(raw: bytes) -> str:
    """Return at most SAMPLE_CHARACTERS of `raw` as text that PostgreSQL can hold."""
    text = raw[: SAMPLE_CHARACTERS * 4 + 4].decode("utf-8", "backslashreplace").replace("\x00", "\\x00")
    return text if len(text) <= SAMPLE_CHARACTERS else text[: SAMPLE_CHARACTERS - 1] + "…"
