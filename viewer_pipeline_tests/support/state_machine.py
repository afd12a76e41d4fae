"""How often and how long a state machine of Hypothesis runs."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

STEPS = 20


def run_examples(machine: type[RuleBasedStateMachine], default: int) -> None:
    """Run so many examples, always the same ones; STATE_MACHINE_EXAMPLES runs another number, at random."""
    examples = int(os.environ.get("STATE_MACHINE_EXAMPLES", str(default)))
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            print_blob=False,
            derandomize=examples == default,
            suppress_health_check=list(HealthCheck),
        ),
    )
