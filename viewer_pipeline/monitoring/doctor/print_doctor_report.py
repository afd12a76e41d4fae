"""The doctor's report for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from rich.console import Console
from rich.style import Style
from rich.text import Text

from viewer_pipeline.checks import STATUSES, CheckResult, Status, worst_status
from viewer_pipeline.monitoring.doctor.check_rationales import CHECK_RATIONALES, CHECK_RATIONALES_BY_GROUP
from viewer_pipeline.monitoring.doctor.guarantee import HOLDS, FaultGuarantee, Holds
from viewer_pipeline.redaction import redact_text
from viewer_pipeline.text_formatting import wrap

STYLES: dict[Status, Style] = {
    "healthy": Style(color="green"),
    "unknown": Style(color="blue"),
    "degraded": Style(color="yellow"),
    "unhealthy": Style(color="red", bold=True),
}
STYLES_OF_GUARANTEE: dict[Holds, Style] = {
    "exact": STYLES["healthy"],
    "not exact": STYLES["degraded"],
    "unknown": STYLES["unknown"],
}
WIDTH = max(len(status) for status in STATUSES)


def print_report(
    results: Sequence[CheckResult], console: Console | None = None, *, guarantee: Sequence[FaultGuarantee] = ()
) -> None:
    """Print the results by group, then the guarantee.

    Results that are not healthy have the reason why they matter, and the remedy.
    """
    console = console or Console(highlight=False, soft_wrap=True)
    for group, names in CHECK_RATIONALES_BY_GROUP.items():
        members = [result for result in results if result.name in names]
        if members:
            console.print(Text(group, style=Style(bold=True)))
        for _, equal in groupby(members, key=lambda result: (result.status, result.message, result.remedy)):
            _print_result(console, list(equal))
    if guarantee:
        console.print(Text("whether every view counts once in this set-up, if …", style=Style(bold=True)))
    for fault in sorted(guarantee, key=lambda fault: HOLDS.index(fault.holds)):
        _print_fault(console, fault)
    console.print(_summary(results))


def _print_fault(console: Console, fault: FaultGuarantee) -> None:
    first, indent = f"  {fault.holds:<{WIDTH}}  ", " " * (WIDTH + 4)
    line = Text(wrap(first, f"{fault.fault}: {fault.reason}", console.width))
    line.stylize(STYLES_OF_GUARANTEE[fault.holds], 0, len(first))
    console.print(line)
    if fault.remedy:
        console.print(Text(wrap(f"{indent}remedy: ", fault.remedy, console.width)))


def _print_result(console: Console, equal: list[CheckResult]) -> None:
    """Print results that differ in their names only as one; their reason, if they have the same."""
    result, names = equal[0], ", ".join(result.name for result in equal)
    first, indent = f"  {result.status:<{WIDTH}}  ", " " * (WIDTH + 4)
    line = Text(wrap(first, f"{names}: {redact_text(result.message)}", console.width))
    line.stylize(STYLES[result.status], 0, len(first))
    console.print(line)
    reasons = {CHECK_RATIONALES[result.name] for result in equal}
    if not result.passed and len(reasons) == 1:
        console.print(Text(wrap(f"{indent}reason: ", reasons.pop(), console.width)))
    if result.remedy:
        console.print(Text(wrap(f"{indent}remedy: ", redact_text(result.remedy), console.width)))


def _summary(results: Sequence[CheckResult]) -> Text:
    counts = [(status, sum(result.status == status for result in results)) for status in reversed(STATUSES)]
    numbers = ", ".join(f"{number} {status}" for status, number in counts if number)
    return Text(f"{numbers}: the whole is {worst_status(results)}", style=Style(bold=True))
