"""Checks: what each found, in a state, a sentence and figures; and what they say together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from viewer_pipeline.monitoring.background_probe import Question
from viewer_pipeline.redaction import without_password

State = Literal["healthy", "degraded", "unhealthy"]
ORDER: tuple[State, ...] = ("healthy", "degraded", "unhealthy")

ALL_SECONDS = 0.8  # `/health` answers within a second, whatever hangs


@dataclass(frozen=True)
class Result:
    """What a check found.

    `degraded`: it works, and somebody should look. `unhealthy`: views are not being persisted, or cannot be.
    """

    state: State
    said: str
    figures: dict[str, Any] = field(default_factory=dict)

    def shown(self) -> dict[str, Any]:
        """Return it as JSON shows it; whatever errors it cites, without a password."""
        return {"state": self.state, "said": without_password(self.said), **self.figures}


Results = dict[str, Result]


@dataclass(frozen=True)
class Check:
    """Reads once, judges everything in `names` by it. `seconds`: how long it may take; then all of it is unhealthy."""

    names: tuple[str, ...]
    find: Callable[[], Results]
    seconds: float = ALL_SECONDS


class Checks:
    """All checks, each on a thread of its own."""

    def __init__(self, checks: Sequence[Check]) -> None:
        self._asked = [(check, Question("/".join(check.names), check.find)) for check in checks]

    def start(self) -> None:
        """Start the threads."""
        for _, question in self._asked:
            question.start()

    def close(self) -> None:
        """End the threads."""
        for _, question in self._asked:
            question.close()

    def results(self) -> Results:
        """Ask all side by side; return one result for each name, within ALL_SECONDS."""
        for _, question in self._asked:
            question.ask()
        found: Results = {}
        for check, question in self._asked:
            answer = question.answer(min(check.seconds, ALL_SECONDS))
            if answer.value is not None:
                found |= answer.value
            else:
                found |= dict.fromkeys(check.names, Result("unhealthy", answer.why_none))
        return found


def worst(results: Results) -> State:
    """Return the state of the whole."""
    return max((result.state for result in results.values()), key=ORDER.index, default="healthy")
