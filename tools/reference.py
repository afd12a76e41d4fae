"""Generate the pages of docs that are made from the code: settings, commands, log events, and the list of decisions.

`python -m tools.reference` (part of `make docs`) writes them; unit/test_reference.py compares.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin
from zoneinfo import ZoneInfo

import click
from annotated_types import Ge, Le
from pydantic.fields import FieldInfo

from tools.log_events import MEANINGS, log_events
from viewer_pipeline.cli.main import SECTIONS as SECTIONS_OF_COMMANDS
from viewer_pipeline.cli.main import main as viewer_pipeline
from viewer_pipeline.settings import Settings

DOCS = Path(__file__).parents[1] / "docs"
WIDTH = 100  # of --help
NOT_ANY_TEXT = {"sweep_cron": "five cron fields", "target_table": "a table", "redis_wait_aof": "`0`, `1`"}
MADE = "<!-- Made from {source} by `make docs`: edit there, not here. -->"

# A section begins with this field and ends before the next: the order is that of settings.py.
SECTIONS = {
    "database_url": "Servers",
    "target_table": "Your own table",
    "history_start": "History and retention",
    "alert_webhook_url": "Alerts",
    "redis_wait_replicas": "Durability of Redis",
    "postgres_wait_standbys": "Failover of PostgreSQL",
    "batch_size": "Flushes",
    "pubsub_mode": "Producers and subscribers",
    "sweep_cron": "Sweeps and scans",
    "health_check_port": "Health",
    "log_level": "Logs",
    "dagster_database_url": "Dagster, files, stop",
}

# What settings.py says is for a terminal; this leads on.
MORE_ON_SETTINGS = {
    "database_url": "14 or newer, tested with 18; embedded for `up` and `demo` where it is not set."
    " [Connection strings](../how-to/connection-strings.md)",
    "redis_url": "6.2 or newer, tested with 6.2; embedded likewise."
    " [Connection strings](../how-to/connection-strings.md#redis)",
    "target_table": "[Your own table](../how-to/own-table.md)",
    "target_exclusive": "[Reconcile](../how-to/reconcile.md)",
    "warm_runs": "[What is warm](../architecture.md#what-is-warm)",
    "parked_retention_days": "[Parked views](../how-to/own-table.md#parked-views)",
    "history_start": "[Backfills](../how-to/backfills.md)",
    "history_timezone": "[Days in your time zone](../how-to/backfills.md#days-in-your-time-zone)",
    "ledger_retention_days": "[Retention](../how-to/retention.md)",
    "alert_webhook_url": "[Alerts](../how-to/alerts.md)",
    "redis_without_marker": "[Held views](../how-to/held-views.md)",
    "flush_streams": "[Streams](../how-to/streams.md)",
    "redis_wait_replicas": "[How to choose](../how-to/redis-durability.md)",
    "postgres_wait_standbys": "[How to choose](../how-to/postgresql-failover.md)",
    "batch_size": "[Tuning](../tuning.md)",
    "batch_interval_ms": "[Tuning](../tuning.md)",
    "flush_max_counters": "[Tuning](../tuning.md)",
    "run_max_counters": "[Tuning](../tuning.md#run_max_counters)",
    "pubsub_mode": "[Producers](../how-to/producers.md)",
    "totals_channel": "[Totals out](../totals.md)",
    "sweep_cron": "[Tuning](../tuning.md#sweep_cron)",
    "sensor_scan_max_keys": "[Tuning](../tuning.md#sensor_scan_max_keys)",
    "freshness_limit_ms": "[Health](../health.md)",
    "dagster_ui_url": "[Status page](../health.md#status-page)",
    "otel_exporter_otlp_endpoint": "[Traces](../how-to/traces.md)",
    "celery_broker_url": "[Runs on several machines](../how-to/celery.md)",
    "viewer_home": "Passwords and logs as well.",
    "shutdown_timeout_ms": "[Several workers, and a stop](../how-to/several-workers.md)",
}

MORE_ON_COMMANDS = {
    "backfill": "[Backfills](../how-to/backfills.md)",
    "parked": "[Parked views](../how-to/own-table.md#parked-views)",
    "held": "[Held views](../how-to/held-views.md)",
    "streams": "[Streams](../how-to/streams.md)",
    "doctor": "[Findings](../how-to/doctor.md)",
    "grants": "[Least privilege](../how-to/least-privilege.md)",
    "reconcile": "[Reconcile](../how-to/reconcile.md)",
    "baseline": "[What was there before](../how-to/own-table.md#what-was-there-before)",
    "acknowledge": "[Redis was emptied](../how-to/redis-emptied.md),"
    " [PostgreSQL was rolled back](../how-to/postgresql-rolled-back.md)",
    "worker": "[Several workers, and a stop](../how-to/several-workers.md)",
    "soak": "`make soak`",
    "status": "[Daily operation](../operations.md#daily-operation)",
    "up": "`make run`",
    "demo": "`make demo`",
    "bench": "[Tuning](../tuning.md)",
}


def pages() -> dict[Path, str]:
    """Return what each page that is made should hold."""
    return {
        DOCS / "reference" / "settings.md": settings_page(),
        DOCS / "reference" / "commands.md": commands_page(),
        DOCS / "reference" / "log-events.md": log_events_page(),
        DOCS / "adr" / "index.md": decisions_page(),
    }


def settings_page() -> str:
    """Return the page of settings: default, accepted values and meaning of every variable."""
    lines = [
        "# Settings",
        "",
        MADE.format(source="viewer_pipeline/settings.py and tools/reference.py"),
        "",
        "Environment variables, or a file `.env` in the working directory; the environment wins. `env.example`",
        "has them all with comments: copy it to `.env`. Empty means unset. A value that cannot be used stops a",
        "command at its start, with exit status 2, the variable's name, its value (never a password) and what is",
        "expected. The case of a name does not matter.",
        "",
        "No value may have blanks around it, invisible characters (a carriage return of a file with Windows line",
        "endings, a byte order mark, a zero-width or no-break space), or quotes around it. `docker --env-file` and",
        "Kubernetes take quotes literally; in `.env` they are those of a shell. Only the name of a table or column",
        "may stand in double quotes. A comment behind a value, which `docker --env-file` and systemd take for a part",
        "of it, and a variable that nothing has replaced (`${NAME}`, `$(NAME)`) are refused, too.",
        "",
        "`.env` may be that of other programs as well. A line that is not `NAME=value` is skipped with a warning that",
        "has its number; if the name of a setting is in it, it is refused. In a value, `${NAME}` stands for another",
        "variable, which must be set. Names that are not settings have no effect: each command logs them in one",
        "warning. One that is within one typing error of a setting without a value, such as `TARGET_TABEL` or",
        "`VIEWER_TARGET_TABLE`, has a warning of its own, also if it is in the environment, and `doctor` reports it.",
    ]
    for name, field in Settings.model_fields.items():
        if name in SECTIONS:
            lines += [
                "",
                f"## {SECTIONS[name]}",
                "",
                "| variable | default | takes | meaning |",
                "| --- | --- | --- | --- |",
            ]
        default, meaning = _default_and_meaning(name, field)
        lines.append(f"| `{name.upper()}` | {default} | {_takes(name, field)} | {meaning} |")
    return "\n".join(lines) + "\n"


def _default_and_meaning(name: str, field: FieldInfo) -> tuple[str, str]:
    meaning = field.description or ""
    note = re.search(r" \(default: (.*)\)$", meaning)
    default = f"`{field.default}`" if field.default is not None else note.group(1) if note else "none"
    meaning = meaning.removesuffix(note.group()) if note else meaning
    more = f". {MORE_ON_SETTINGS[name]}" if name in MORE_ON_SETTINGS else ""
    return default, meaning.replace("|", "\\|") + more


def _takes(name: str, field: FieldInfo) -> str:
    if name in NOT_ANY_TEXT or name.endswith("_url"):
        return NOT_ANY_TEXT.get(name, "a URL")
    kind = _without_none(field.annotation)
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    if choices:
        return ", ".join(f"`{choice}`" for choice in choices)
    if kind is int:
        bounds = [bound for bound in _metadata(field) if isinstance(bound, Ge | Le)]
        lowest = next((bound.ge for bound in bounds if isinstance(bound, Ge)), None)
        highest = next((bound.le for bound in bounds if isinstance(bound, Le)), None)
        return f"{lowest} or more" if highest is None else f"{lowest} to {highest}"
    return {bool: "`true`, `false`", date: "a day", Path: "a path", ZoneInfo: "a time zone"}.get(kind, "text")


def _without_none(annotation: Any) -> Any:
    if get_origin(annotation) in (Union, UnionType):
        annotation = next(part for part in get_args(annotation) if part is not type(None))
    return get_args(annotation)[0] if hasattr(annotation, "__metadata__") else annotation


def _metadata(field: FieldInfo) -> Iterator[Any]:
    yield from field.metadata
    for part in get_args(field.annotation):
        yield from getattr(part, "__metadata__", ())


def commands_page() -> str:
    """Return the page of commands: the `--help` of every command."""
    lines = [
        "# Commands",
        "",
        MADE.format(source="`viewer-pipeline COMMAND --help` and tools/reference.py"),
        "",
        "Exit status: 0 done, 1 a check or the work failed, 2 wrong usage or settings. With `--json` there is",
        "one JSON object on stdout; logs go to stderr. Where `DATABASE_URL` or `REDIS_URL` is not set, a command uses",
        "the server that `up` runs on the same `VIEWER_HOME`.",
    ]
    for title, commands in SECTIONS_OF_COMMANDS.items():
        lines += ["", f"**{title}**", "", "| command | does |", "| --- | --- |"]
        for command in commands:
            name = str(command.name)
            more = f" {MORE_ON_COMMANDS[name]}" if name in MORE_ON_COMMANDS else ""
            lines.append(f"| [`{name}`](#viewer-pipeline-{name}) | {_first_sentence(command)}{more} |")
    for names, text in helps(viewer_pipeline, ("viewer-pipeline",)):
        lines += ["", f"## {' '.join(names)}", "", "```text", *text.splitlines(), "```"]
    return "\n".join(lines) + "\n"


def _first_sentence(command: click.Command) -> str:
    paragraph = " ".join((command.help or "").split("\n\n")[0].split())
    return paragraph.replace("|", "\\|")


def helps(
    group: click.Group, names: tuple[str, ...], parent: click.Context | None = None
) -> Iterator[tuple[tuple[str, ...], str]]:
    """Give the words of each command below a group, and what its `--help` prints."""
    settings: dict[str, Any] = dict(group.context_settings) if parent is None else {}
    context = click.Context(group, parent, names[-1], terminal_width=WIDTH, **settings)
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield (*names, name), command.get_help(click.Context(command, context, name))
            yield from helps(command, (*names, name), context)
        else:
            yield (*names, name), command.get_help(click.Context(command, context, name))


def log_events_page() -> str:
    """Return the page of log events: level, fields and meaning of each."""
    lines = [
        "# Log events",
        "",
        MADE.format(source="the calls that log and tools/log_events.py"),
        "",
        "Each line is one event: with `LOG_FORMAT=text` as `key=value`, with `json` as an object with the same keys in",
        "the same order. These are `time` (UTC), `level`, `logger` and `event`, in a run `run_id`, `job` and `step`,",
        "then the fields of the event, and `exception` where there is a traceback. Passwords are masked.",
        "",
        "```text",
        "time=2026-11-28T20:00:27.506Z level=info logger=viewer_pipeline.run event=flush_committed run_id=9f354806-… …",
        "```",
        "",
        "Lines go to stderr. Under `up`, that of the worker is the foreground, that of runs, sensors and schedules is",
        "`code-server.log` in `VIEWER_HOME`. `up` repeats `flush_committed`, warnings and errors of runs, code server",
        "and daemon in the foreground (of a failed run `run_failed`, without tracebacks). Lines of a run are also in",
        "its event log in Dagster's UI.",
        "",
        "With `LOG_FORMAT=json`, every line of `up` and of the services is JSON, except for the error of a command",
        "that ends: `error: …`, and `remedy: …` below it.",
        "",
        "`LOG_LEVEL=debug` adds decisions: why a run was requested or not (`run_requested`, `tick_skipped`), what it",
        "read, committed, settled and left, who holds the lease, what was folded. `up` repeats all lines of runs,",
        "sensors and schedules in the foreground then.",
        "",
        "Other libraries log only warnings and errors, with a text as `event`. What Dagster reports of a failed run",
        "has the name of Dagster's event: `step_failure`, `run_failure`. Other lines of Dagster's processes are always",
        "JSON.",
        "",
        "| event | level | fields | meaning |",
        "| --- | --- | --- | --- |",
    ]
    for event in log_events():
        fields = ", ".join(f"`{field}`" if field != "…" else field for field in event.fields)
        lines.append(f"| `{event.name}` | {', '.join(event.levels)} | {fields} | {MEANINGS[event.name]} |")
    return "\n".join(lines) + "\n"


def decisions_page() -> str:
    """List the ADRs: number, title, status."""
    lines = [
        "# Decisions",
        "",
        MADE.format(source="the files beside this one"),
        "",
        "Choices that are hard to undo: what was known, what was decided, what follows from it.",
        "",
        "| | decision | status |",
        "| --- | --- | --- |",
    ]
    for page in sorted((DOCS / "adr").glob("[0-9]*.md")):
        text = page.read_text(encoding="utf-8")
        number, title = re.findall(r"\A# (\d+)\. (.*)$", text, re.MULTILINE)[0]
        status = re.findall(r"^Status: (.*)$", text, re.MULTILINE)[0]
        lines.append(f"| {number} | [{title}]({page.name}) | {status} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the pages that are not as they should be, and name them."""
    for page, text in pages().items():
        page.parent.mkdir(parents=True, exist_ok=True)
        if not page.exists() or page.read_text(encoding="utf-8") != text:
            page.write_text(text, encoding="utf-8")
            print(f"renewed {page.relative_to(DOCS.parent)}")  # noqa: T201 - a command


if __name__ == "__main__":
    main()
