"""Check results: the one shape of /health, status, the doctor, asset checks and reconciliations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from viewer_pipeline.redaction import redact_text

Status = Literal["healthy", "unknown", "degraded", "unhealthy"]
STATUSES: tuple[Status, ...] = ("healthy", "unknown", "degraded", "unhealthy")  # from best to worst
MAX_FAILING_ROWS = 20


@dataclass(frozen=True)
class CheckResult:
    """The result of one check.

    `healthy`: nothing is wrong. `unknown`: this program cannot determine it; the remedy describes how to find out.
    `degraded`: it works, and somebody should look. `unhealthy`: it does not work, or counts are wrong.

    Attributes:
        name: the check, as docs/health.md, docs/how-to/doctor.md or the asset graph lists it.
        message: one sentence for operators.
        details: measurements and failing rows, as JSON takes them.
        remedy: what to do; empty where there is nothing to do.

    """

    name: str
    status: Status
    message: str
    details: dict[str, Any] = field(default_factory=dict)
    remedy: str = ""

    @classmethod
    def of_rows(cls, name: str, failing_rows: Sequence[str], message: str, *, passed: bool | None = None) -> Self:
        """Return the result of a comparison: unhealthy where rows fail, with the first of them in the details."""
        passed = not failing_rows if passed is None else passed
        details = {"failing_rows": list(failing_rows[:MAX_FAILING_ROWS])} if failing_rows else {}
        return cls(name, "healthy" if passed else "unhealthy", message, details)

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return self.status == "healthy"

    @property
    def failing_rows(self) -> list[str]:
        """The first rows that failed a comparison."""
        return list(self.details.get("failing_rows", []))

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it, below its name. Passwords in the texts are masked."""
        message, remedy = redact_text(self.message), redact_text(self.remedy)
        return {"status": self.status, "message": message, "remedy": remedy, "details": self.details}


def worst_status(results: Iterable[CheckResult]) -> Status:
    """Return the status of the whole: that of the worst check. Unknown checks count as healthy."""
    known = (result.status for result in results if result.status != "unknown")
    return max(known, key=STATUSES.index, default="healthy")


def checks_to_dict(results: Iterable[CheckResult]) -> dict[str, dict[str, Any]]:
    """Return results by name, as JSON has them."""
    return {result.name: result.to_dict() for result in results}
