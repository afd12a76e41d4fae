"""What a run came across beside its work."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Findings:
    """Filled while a run goes on; the sentences are for operators."""

    settled_before: int = 0  # batches that an earlier run had committed and not settled
    settled_already: int = 0  # batches that another run settled, or a script whose answer was lost: drift not known
    drift: int = 0  # views that counters should have held and did not
    drifted: list[str] = field(default_factory=list)
    redis_was_emptied: bool = False
    postgres_was_rolled_back: bool = False
    passed_over: int = 0  # views of flushes that were read from another Redis than this one
    told: dict[str, int] = field(default_factory=dict)  # kind of incident that was recorded -> views, as far as told
    superseded: int = 0  # how often another run committed first
    unpublished: int = 0  # flushes whose totals were not published, or not all
    why_unpublished: str = ""
    flush_seconds: dict[int, float] = field(default_factory=dict)  # seq -> transaction and settling; also tries

    def sentences(self) -> list[str]:
        """Say each finding in words; empty when there was none."""
        said = []
        if self.redis_was_emptied:
            said.append("Redis had no marker although the ledger has flushes: Redis was emptied or replaced")
        if self.postgres_was_rolled_back:
            said.append("the marker was ahead of the ledger: PostgreSQL was rolled back, e.g. restored from a backup")
        if self.passed_over:
            said.append(
                f"{self.passed_over} views of the ledger were not subtracted: they were read from a Redis that was"
                " emptied or replaced since"
            )
        if self.settled_before:
            said.append(f"settled {self.settled_before} batches that an earlier run had committed")
        if self.settled_already:
            by = "by another run or by a script whose answer was lost"
            said.append(f"{self.settled_already} batches were settled already, {by}")
        if self.drift:
            names = ", ".join(self.drifted[:5])
            said.append(f"counters held {self.drift} views less than they should: somebody lowered {names}")
        if self.superseded:
            said.append(f"another run committed first, {self.superseded} times; drained again")
        if self.unpublished:
            said.append(f"totals of {self.unpublished} flushes were not published: {self.why_unpublished}")
        return said

    def add(self, other: Findings) -> None:
        """Take over what a second drain of the same run found."""
        self.settled_before += other.settled_before
        self.settled_already += other.settled_already
        self.drift += other.drift
        self.drifted += other.drifted
        self.redis_was_emptied |= other.redis_was_emptied
        self.postgres_was_rolled_back |= other.postgres_was_rolled_back
        self.passed_over += other.passed_over
        for kind, views in other.told.items():
            self.told[kind] = self.told.get(kind, 0) + views
