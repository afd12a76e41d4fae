"""What is pending, settled, parked and rejected, who works on it, and why nothing was done, for a terminal."""

from __future__ import annotations

import time
from collections import Counter
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from viewer_pipeline.errors import ViewerPipelineError
from viewer_pipeline.flush.incidents import open_incidents
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.ledger_queries import last_flush, ledger_summary, recent_flushes
from viewer_pipeline.flush.ownership import find_refusal
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.flush.run_metrics import rejected_by_reason
from viewer_pipeline.monitoring.checks import Result
from viewer_pipeline.monitoring.dagster_rules import DAEMONS, Clock, in_words, judge_dagster
from viewer_pipeline.monitoring.dagster_tables import read_dagster
from viewer_pipeline.monitoring.listener import read_listener
from viewer_pipeline.monitoring.rules import judge_incidents, judge_marker
from viewer_pipeline.monitoring.stall_reasons import why_nothing
from viewer_pipeline.redaction import without_password
from viewer_pipeline.settings import Settings
from viewer_pipeline.stores.redis import connect

FLUSHES = 5


def read_status(settings: Settings) -> dict[str, Any]:
    """Read both servers, and Dagster's tables if they can be read.

    Raises RedisUnavailable, PostgresUnavailable, SchemaMissing.
    """
    found = _read_stores(settings) | _read_dagster(settings)
    return found | {"why": why_nothing(found, settings, time.time())}


def _read_stores(settings: Settings) -> dict[str, Any]:
    ledger = Ledger(settings.require_database_url())
    url = settings.require_redis_url()
    with connect(url) as client, ledger.connect(any_server=True) as connection:
        store = RedisStore(client, url, settings.counter_prefix)
        pending, oldest = store.pending()
        marker = store.marker()
        listener = read_listener(store)
        last = last_flush(connection)
        refused = find_refusal(store, ledger, connection)
        flushes = recent_flushes(connection, FLUSHES)
        persisted = ledger_summary(connection)
        reasons: Counter[str] = Counter()
        for row in rejected_by_reason(connection):
            reasons[row.reason] += row.rows
        incidents = open_incidents(connection)
    age = round((datetime.now(UTC) - oldest).total_seconds(), 1) if oldest else None
    return {
        "pending_vods": pending,
        "oldest_pending_seconds": age,
        "marker": marker._asdict() if marker else None,
        "marker_check": judge_marker(marker, last, str(refused or "")).shown(),
        "last_flush": last.seq,
        "settled": not last.seq or (marker is not None and (marker.seq, marker.batch) >= (last.seq, last.batches)),
        **persisted._asdict(),
        "rejected_by_reason": reasons,
        "incidents": [incident._asdict() for incident in incidents],
        "incidents_check": judge_incidents(incidents).shown(),
        "subscriber": listener,
        "flushes": [flush._asdict() | {"views": int(flush.views)} for flush in flushes],
    }


def _read_dagster(settings: Settings) -> dict[str, Any]:
    """Read what Dagster does; where its storage is out of reach, say so in its place: the rest is worth showing."""
    names = {name: f"daemon_{name.lower()}" for name in DAEMONS}
    try:
        reading = read_dagster(settings)
        results = judge_dagster(reading, Clock.of(settings, time.time(), 0.0))
    except ViewerPipelineError as error:
        lost = Result("unhealthy", without_password(str(error)))
        results = dict.fromkeys((*names.values(), "sensor", "sweep", "flush_runs"), lost)
        reading = None
    return {
        "dagster": reading is not None,
        "daemons": {name: results[check].shown() for name, check in names.items()},
        **{name: results[name].shown() for name in ("sensor", "sweep", "flush_runs")},
    }


def show_status(found: dict[str, Any]) -> None:
    """Print it."""
    console = Console(markup=False, highlight=False, soft_wrap=True)
    for name, said in _lines(found):
        console.print(f"{name:<10} {said}")
    table = Table("flush", "mode", "taken at (UTC)", "counters", "views", "batches", title="last flushes")
    for flush in found["flushes"]:
        taken = flush["taken_at"].astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
        table.add_row(
            *map(str, (flush["seq"], flush["mode"], taken, flush["counters"], flush["views"], flush["batches"]))
        )
    console.print(table if found["flushes"] else "no flush yet")
    for number, reason in enumerate(found["why"]):
        console.print(f"{'' if number else 'why':<10} {reason}")


def _lines(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Return (name, sentence) of each line above the table."""
    age = f", the oldest for {in_words(found['oldest_pending_seconds'])}" if found["pending_vods"] else ""
    return [
        ("pending", f"{found['pending_vods']} announced VODs{age}"),
        ("persisted", f"{found['persisted']} views of {found['vods']} VODs"),
        ("parked", f"{found['parked']} views of {found['parked_vods']} VODs"),
        ("rejected", _rejected(found)),
        ("marker", _marker(found)),
        *([("incidents", found["incidents_check"]["said"])] if found["incidents"] else []),
        ("subscriber", found["subscriber"]["said"]),
        *(("daemons" if not number else "", said) for number, said in enumerate(_daemons(found))),
        ("sensor", _with_reason(found["sensor"])),
        ("sweep", _with_reason(found["sweep"])),
        ("runs", found["flush_runs"]["said"]),
    ]


def _rejected(found: dict[str, Any]) -> str:
    reasons = sorted(found["rejected_by_reason"].items(), key=lambda item: (-item[1], item[0]))
    said = "; ".join(f"{count} {reason}" for reason, count in reasons)
    return f"{found['rejected']} inputs (table viewer.rejected){': ' if said else ''}{said}"


def _marker(found: dict[str, Any]) -> str:
    marker, check = found["marker"], found["marker_check"]
    at = f"flush {marker['seq']}, batch {marker['batch']} of {marker['of']}" if marker else "none"
    unsettled = "" if found["settled"] else " (not settled)"
    wrong = "" if check["state"] == "healthy" else f"; {check['said']}"
    return f"{at}; the ledger's last flush is {found['last_flush']}{unsettled}{wrong}"


def _daemons(found: dict[str, Any]) -> list[str]:
    """Say that all live; else what is wrong, once where it is the same for all."""
    wrong = [(name, check["said"]) for name, check in found["daemons"].items() if check["state"] != "healthy"]
    if not wrong:
        return [f"all {len(DAEMONS)} of Dagster live"]
    if len(wrong) == len(DAEMONS) and len({said for _, said in wrong}) == 1:
        return [wrong[0][1]]
    return [f"{name}: {said}" for name, said in wrong]


def _with_reason(check: dict[str, Any]) -> str:
    skipped = check.get("skip_reason")
    return f"{check['said']}{f', skipped: {skipped}' if skipped else ''}"
