"""Decide from a history whether views were lost or doubled: `python -m tools.judge [--json] HISTORY`.

Shares no code with the package. `viewer-pipeline soak --history FILE` writes a history; so may any program that moves
views from Redis to PostgreSQL. A history is a file of JSON objects, one a line, UTF-8. The order of the lines does not
matter, except that `start` is the first. A VOD is any string that names one counter; views are whole numbers >= 0.
`begin` and `end` are seconds (begin <= end) of one clock that all writers share and nobody sets, such as Python's
`time.monotonic()` on one Linux machine. Keys in brackets may be left out, others are errors.

    {"type": "start", "format": 1, "system": "any text", ["baseline": {VOD: views}]}
    {"type": "send", "begin": 5.0, "end": 5.3, "outcome": "ok", "views": {VOD: views}}
    {"type": "read", "begin": 5.1, "end": 5.2, "persisted": {VOD: views},
        ["pending": {VOD: views}, "parked": {VOD: views}, "rejected": {VOD: views}]}
    {"type": "fault", "begin": 5.2, "end": 7.2, "name": "pause redis"}
    {"type": "final", …}  as `read`

start   `baseline`: totals in PostgreSQL before the first send; 0 for other VODs.
send    Requests to Redis that began and ended within this time. `ok`: Redis acknowledged each of them, and its views
        must count once. `unknown`: no reply arrived, or the server that replied was lost before it had replicated
        or stored them: each view may count once or not at all, also later than `end`. A producer that repeats a request
        until it is acknowledged, and whose repetitions Redis recognizes, writes one `ok`: from the first attempt to the
        reply. A request that certainly had no effect is left out. One line may sum up about 0.3 s.
read    What a reader saw. `persisted`: totals in PostgreSQL; `pending`: counters in Redis; `parked`, `rejected`: views
        recorded beside the totals. Each map is of one moment between `begin` and `end`, of servers that were primaries.
        If there is a `pending`, it is read before the other three, and those in one statement: a view moves from Redis
        to PostgreSQL only, so that the sum misses none. A VOD that `pending` names is 0 in maps that do not name it. A
        VOD that only `persisted` names has a total, and nothing else is known about it: that is how to write a reader
        of totals, which may leave out those that did not change since its previous read.
fault   What was done to the system. For the report only; nothing is excused by it.
final   The one read that begins after all sends have ended, when the system had time to drain. A VOD that a map does
        not name is 0.

Violations, for each VOD:

    lost        final: persisted + pending + parked + rejected - baseline < views of all `ok` sends
    doubled     final: the same sum > views of all sends; a read: the sum without `pending`, or `pending` alone, > views
                of the sends that began before it ended
    backwards   a read, or the final one, began after another one had ended, and its `persisted` is lower; or lower than
                the baseline
    missing     a read that names the VOD in `pending`: the sum < views of the `ok` sends that ended before it began
    undrained   final: `pending` is not 0

A sum with `pending` may be too high, and lower again later: between the commit and the subtraction a view is in both.
What overlaps or touches in time has no order, and is decided in favour of the system. Views of a VOD are alike: if one
is lost and another one doubled, only a read in between can show it.

Exit status: 0 without violation; 1 with any, with a line for the first of each kind and VOD (`--json`: for all); 2 if
HISTORY is no history.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

Views = Counter[str]  # by VOD
BESIDE = {"pending", "parked", "rejected"}
MAPS = {"baseline", "views", "persisted", *BESIDE}
KEYS = {  # of each type: those that it must have, and those that it may have
    "start": ({"format", "system"}, {"baseline"}),
    "send": ({"begin", "end", "outcome", "views"}, set[str]()),
    "read": ({"begin", "end", "persisted"}, BESIDE),
    "fault": ({"begin", "end", "name"}, set[str]()),
    "final": ({"begin", "end", "persisted"}, BESIDE),
}
KINDS = ("lost", "doubled", "backwards", "missing", "undrained")
BEGIN_SEND, BEGIN_READ, END_SEND, END_READ = range(4)  # the order of what happens at one moment


class HistoryError(Exception):
    """The file is no history; the message names the line."""


@dataclass
class Line:
    """One line. Its maps are empty, and its times 0, if it has none."""

    number: int
    type: str
    begin: float
    end: float
    text: str  # name of a fault, outcome of a send, system
    maps: dict[str, Views]
    earlier: dict[str, tuple[int, Line]] = field(default_factory=dict)  # by VOD: highest total of the reads before it
    acknowledged: Views = field(default_factory=Counter)  # before it began

    @property
    def is_read(self) -> bool:
        """Whether it is a read, perhaps the final one."""
        return self.type in ("read", "final")


class Violation(NamedTuple):
    """What a read had for a VOD, and the limit that it breaks."""

    line: int
    begin: float
    end: float
    kind: str
    vod: str
    views: int
    limit: int
    limit_is: str

    def __str__(self) -> str:
        """Render as one line."""
        at = f"line {self.line}, {self.begin:.3f} to {self.end:.3f} s"
        return f"{self.kind} {self.vod}: {self.views} views read ({at}); {self.limit_is}: {self.limit}"


def read_history(path: Path) -> list[Line]:
    """Return all lines. Raises HistoryError unless every line is valid and the history is complete."""
    with path.open("rb") as file:
        lines = [parse(number, text) for number, text in enumerate(file, 1)]
    types = Counter(line.type for line in lines)
    if types["start"] != 1 or lines[0].type != "start" or types["final"] != 1:
        raise HistoryError(f"line {len(lines)}: not one `start`, as the first line, and one `final`")
    final = next(line for line in lines if line.type == "final")
    for line in lines:
        if line.type == "send" and line.end >= final.begin:
            raise HistoryError(f"line {line.number}: the send ends at {line.end}, after the beginning of `final`")
    return lines


def parse(number: int, text: bytes) -> Line:
    """Return one line. Raises HistoryError if the format does not define it."""
    try:
        values = json.loads(text, object_pairs_hook=without_duplicates)
        kind = values.pop("type")
        required, optional = KEYS[kind]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise HistoryError(f"line {number}: {type(error).__name__}: {error}") from error
    defined = [key for key in required | (optional & values.keys()) if is_valid(key, values.get(key))]
    if wrong := (required | values.keys()).difference(defined):
        raise HistoryError(f"line {number}: `{kind}`: missing, unknown or invalid: {', '.join(sorted(wrong))}")
    begin, end = values.get("begin", 0), values.get("end", 0)
    if begin > end:
        raise HistoryError(f"line {number}: begin {begin} is after end {end}")
    label = values.get("name") or values.get("outcome") or values.get("system", "")
    return Line(number, kind, begin, end, label, {key: Counter(values.get(key, {})) for key in MAPS})


def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object. Raises ValueError if it has a key twice."""
    if len(values := dict(pairs)) < len(pairs):
        raise ValueError("an object has a key twice")
    return values


def is_valid(key: str, value: Any) -> bool:
    """Whether a key may have this value."""
    if key in MAPS:
        return type(value) is dict and all(type(views) is int and views >= 0 for views in value.values())
    if key in ("begin", "end"):
        return type(value) in (int, float) and math.isfinite(value)
    if key == "format":
        return type(value) is int and value == 1
    return type(value) is str and (key != "outcome" or value in ("ok", "unknown"))


def check(lines: list[Line]) -> Iterator[Violation]:
    """Yield every violation, in the order of time."""
    baseline, begun, acknowledged = lines[0].maps["baseline"], Counter[str](), Counter[str]()
    highest = {vod: (total, lines[0]) for vod, total in baseline.items()}  # in the reads that have ended
    moments = [(line.begin, int(line.is_read), line) for line in lines if line.is_read or line.type == "send"]
    moments += [(line.end, 2 + line.is_read, line) for _, _, line in moments]
    for _, rank, line in sorted(moments, key=lambda moment: moment[:2]):
        if rank == BEGIN_SEND:
            begun.update(line.maps["views"])
        elif rank == BEGIN_READ:
            every = [*highest, *acknowledged] if line.type == "final" else line.maps["pending"]
            line.earlier = {vod: highest[vod] for vod in {*every, *line.maps["persisted"]} if vod in highest}
            line.acknowledged = Counter({vod: acknowledged[vod] for vod in every})
        elif rank == END_SEND and line.text == "ok":
            acknowledged.update(line.maps["views"])
        elif rank == END_READ:
            for violation in check_read(line, baseline, begun):
                yield Violation(line.number, line.begin, line.end, *violation)
            for vod, total in line.maps["persisted"].items():
                if total > highest.get(vod, (-1, line))[0]:
                    highest[vod] = total, line


def check_read(line: Line, baseline: Views, begun: Views) -> Iterator[tuple[str, str, int, int, str]]:
    """Yield kind, VOD, views, limit and its meaning. `begun`: views of the sends that began before the read ended."""
    is_final, persisted, pending = line.type == "final", line.maps["persisted"], line.maps["pending"]
    others = {*begun, *line.earlier} if is_final else set()
    for vod in sorted(others.union(*line.maps.values())):
        counted = persisted[vod] + line.maps["parked"][vod] + line.maps["rejected"][vod] - baseline[vod]
        total, acknowledged = counted + pending[vod], line.acknowledged[vod]
        before, read = line.earlier.get(vod, (0, line))
        if persisted[vod] < before:
            yield "backwards", vod, persisted[vod], before, f"line {read.number}, ended at {read.end:.3f} s, had"
        if (is_final or vod in pending) and total < acknowledged:
            yield "lost" if is_final else "missing", vod, total, acknowledged, "acknowledged before it began"
        if (most := total if is_final else max(counted, pending[vod])) > begun[vod]:
            yield "doubled", vod, most, begun[vod], "sent before it ended, at most"
        if is_final and pending[vod]:
            yield "undrained", vod, pending[vod], 0, "pending after the drain, at most"


def summarize(lines: list[Line], violations: list[Violation]) -> dict[str, Any]:
    """Return the result: numbers of views, reads and faults; for each kind of violation, the worst one of each VOD."""
    sent, worst = Counter[str](), {kind: Counter[str]() for kind in KINDS}
    for line in lines:
        sent[line.text] += line.maps["views"].total()
    for violation in violations:
        worst[violation.kind] |= Counter({violation.vod: abs(violation.views - violation.limit)})
    persisted = next(line.maps["persisted"] for line in lines if line.type == "final")
    return {
        "system": lines[0].text,
        "sent": sent["ok"],
        "unknown": sent["unknown"],
        "persisted": persisted.total() - lines[0].maps["baseline"].total(),
        "reads": sum(line.is_read for line in lines),
        "faults": Counter(line.text for line in lines if line.type == "fault"),
        **worst,
    }


def main() -> int:
    """Check one file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("history", type=Path, metavar="HISTORY")
    parser.add_argument("--json", action="store_true", help="print one JSON object, with all violations")
    options = parser.parse_args()
    try:
        lines = read_history(options.history)
    except (OSError, HistoryError) as error:
        parser.exit(2, f"{options.history}: {error}\n")
    violations = list(check(lines))
    result = summarize(lines, violations)
    if options.json:
        output = [json.dumps(result | {"violations": [violation._asdict() for violation in violations]})]
    else:
        totals = {key: value.total() if isinstance(value, Counter) else value for key, value in result.items()}
        summary = ", ".join(f"{key} {value}" for key, value in totals.items())
        first = {(violation.kind, violation.vod): violation for violation in reversed(violations)}
        output = [*map(str, reversed(first.values())), summary]
    print("\n".join(output))  # noqa: T201 - this is a script
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
