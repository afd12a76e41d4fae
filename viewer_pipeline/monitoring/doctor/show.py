"""The report for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.style import Style
from rich.text import Text

from viewer_pipeline.monitoring.doctor.finding import ORDER, WHY, Finding, State, verdict

MARKS: dict[State, tuple[str, Style]] = {
    "ok": ("ok", Style(color="green")),
    "note": ("note", Style(color="blue")),
    "warning": ("warning", Style(color="yellow")),
    "problem": ("PROBLEM", Style(color="red", bold=True)),
}
WIDTH = max(len(mark) for mark, _ in MARKS.values())


def show_findings(findings: Sequence[Finding], console: Console | None = None) -> None:
    """Print them by group, each with a mark; what is not ok with why it matters and what to do."""
    console = console or Console(highlight=False, soft_wrap=True)
    for group, names in WHY.items():
        some = [finding for finding in findings if finding.name in names]
        if some:
            console.print(Text(group, style=Style(bold=True)))
        for finding in some:
            _show(console, finding)
    console.print(_summary(findings))


def _show(console: Console, finding: Finding) -> None:
    mark, style = MARKS[finding.state]
    shown = finding.shown()
    console.print(Text.assemble("  ", (f"{mark:<{WIDTH}}", style), f"  {finding.name}: {shown['what']}"))
    if finding.state != "ok":
        indent = " " * (WIDTH + 4)
        console.print(Text(f"{indent}why: {shown['why']}"))
        if shown["do"]:
            console.print(Text(f"{indent}do:  {shown['do']}"))


def _summary(findings: Sequence[Finding]) -> Text:
    counts = [(state, sum(finding.state == state for finding in findings)) for state in reversed(ORDER)]
    said = ", ".join(
        f"{number} {state}{'s' if number > 1 and state != 'ok' else ''}" for state, number in counts if number
    )
    last = "something must be fixed" if verdict(findings) == "problem" else "nothing must be fixed"
    return Text(f"{said}: {last}", style=Style(bold=True))
