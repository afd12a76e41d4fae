"""A program without our code accepts the model's executions, and rejects those of a design with a rule left out.

MODEL_DEPTH=2 checks the shortest execution to every state instead of a sample.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tools.judge import check, read_history
from viewer_pipeline_tests.model.design import RULES, Design
from viewer_pipeline_tests.model.explore import Explored, explore
from viewer_pipeline_tests.model.explore import Path as Execution
from viewer_pipeline_tests.model.histories import write_history
from viewer_pipeline_tests.model.run import Bounds
from viewer_pipeline_tests.model.test_model import BROKEN, MEASURES, SMALL, WITHOUT, design_with
from viewer_pipeline_tests.model.values import Left, start

EVERY = 1 if int(os.environ.get("MODEL_DEPTH", "1")) > 1 else 101  # states


class Exploration:
    """Executions of one design from one state, checked as histories."""

    def __init__(self, file: Path, vods: int, runs: int, left: Left, design: Design, *, refuses: bool = False) -> None:
        self._file, self._design = file, design
        self._first = start(vods, runs, left, refuses=refuses)
        self._bounds = Bounds((1, 2) if vods > 1 else (1,))
        self.checked = 0

    def kinds(self, path: Execution) -> set[str]:
        """Return the kinds of violations in the history of an execution."""
        write_history(self._file, self._first, path, self._design, self._bounds)
        self.checked += 1
        return {violation.kind for violation in check(read_history(self._file))}

    def explore(self, *, every: int) -> Explored:
        """Explore; every so many states, check the execution that leads there."""

        def visit(number: int, path: Callable[[], Execution]) -> None:
            if number % every == every - 1:
                assert self.kinds(path()) == set(), "\n".join(str(step) for step, _ in path())

        return explore(self._first, self._design, self._bounds, visit=visit)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("wait", [False, True], ids=["", "waiting"])
@pytest.mark.parametrize("name", SMALL)
def test_executions_of_the_design_are_accepted(tmp_path: Path, name: str, wait: bool) -> None:
    """With every kind of fault and disaster; each ends with a run that drains the counters."""
    exploration = Exploration(tmp_path / "history", *SMALL[name], replace(MEASURES, wait=wait))
    assert exploration.explore(every=EVERY).violation == ""
    assert exploration.checked > 10


KINDS = {  # what the law finds, and what the history shows
    "a reader misses views": "missing",
    "lost views": "lost",
    "doubled views": "doubled",
    "committed although Redis refuses": "doubled",
}


def assert_rejected(exploration: Exploration) -> None:
    """The shortest execution that violates the law has a history with that violation."""
    explored = exploration.explore(every=10**9)
    kind = next(kind for violation, kind in KINDS.items() if explored.violation.startswith(violation))
    assert kind in exploration.kinds(explored.path)


# A history counts what is held as persisted: it does not show whether that is right.
@pytest.mark.parametrize("rule", [rule for rule in RULES if not rule.startswith("R16")])
def test_an_execution_with_a_broken_rule_is_rejected(tmp_path: Path, rule: str) -> None:
    """As the law rejects it."""
    design = replace(design_with(rule), broken=rule)
    assert_rejected(Exploration(tmp_path / "history", *BROKEN[rule], design, refuses=rule == "R11"))


@pytest.mark.parametrize("measure", WITHOUT)
def test_an_execution_without_a_measure_is_rejected(tmp_path: Path, measure: str) -> None:
    """As the law rejects it."""
    design, bounds, _ = WITHOUT[measure]
    assert_rejected(Exploration(tmp_path / "history", *bounds, design))
