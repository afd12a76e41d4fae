"""The events that the package logs, read from its code: name, level, fields. Their meaning is written here."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "viewer_pipeline"
CONSTRUCTORS = {"event", "log_line"}  # of an event; the second where `event` is SQLAlchemy's
LEVELS = {name: name for name in ("debug", "info", "warning", "error")} | {
    "exception": "error",
    "log": "debug to error",
}
ERRORS = "exception"  # a field of what `log.exception` logs

# Of each event: when it is logged, and what to do if that is not obvious.
MEANINGS = {
    "alert_not_delivered": "`ALERT_WEBHOOK_URL` did not take an alert ([alerts](../how-to/alerts.md)).",
    "batches_settled": "A script subtracted batches in Redis. `already`: settled before by another run; `refused`: the"
    " marker stood elsewhere, and is read again.",
    "celery_worker_ready": "A Celery worker takes runs; `processes`: as many at a time"
    " ([runs on several machines](../how-to/celery.md)).",
    "celery_worker_stopping": "A Celery worker takes no more runs, and waits for those that it executes.",
    "channel_not_shared": "No other pipeline counts the messages of this channel any more.",
    "channel_shared": "Workers of other pipelines count the messages of this channel, too"
    " ([shared Redis](../how-to/shared-redis.md)).",
    "check_failed": "A check of the run failed; `rows` are those concerned.",
    "clock_set_back": "The clock was set back; the daemon restarts itself"
    " ([clock changes](../how-to/clock-changes.md)).",
    "code_server_unreachable": "The daemon or the UI cannot reach the code server; it connects as soon as that runs."
    " Logged at most once a minute.",
    "commit_reply_lost": "The reply to a COMMIT was lost; the flush was looked up, and is committed.",
    "comparing": "A reconciliation has reached this part.",
    "counters_read": "A run has read the counters; what it commits gets numbers above `base`.",
    "counters_rejected": "Counters whose value or id can never be a count, with an example. They stay in Redis"
    " ([rejected input](../how-to/producers.md#rejected-input)).",
    "daemon_lock_lost": "Another `up` may run Dagster's daemon, until the lock is taken again.",
    "daemon_lock_retaken": "This `up` has the lock of Dagster's daemon again.",
    "database_url_parameters_dropped": "Parameters of a database URL that are not known, by setting"
    " ([connection strings](../how-to/connection-strings.md)).",
    "days_rolled_up": "Days were rolled up in `daily_views`; `final`: unchanged, because their ledger was pruned.",
    "env_file_lines_skipped": "Lines of `.env` that are not `NAME=value`, and name no setting.",
    "first_day_not_read": "PostgreSQL did not answer when the definitions were loaded; `daily_views` begins at this day"
    " until the next load.",
    "flush_committed": "A run has committed, settled and verified its flushes. `seq`: the number of the last one in the"
    " ledger; `work_seconds`: reading, adding up, committing and settling, without the time of Dagster between the"
    " steps;"
    " `rejected`: since the previous run;"
    " `parked`: views of these flushes that your own table cannot take yet; `remaining`: left to the next run.",
    "flush_superseded": "Another run committed first (or, with `recovered`, an earlier attempt of this step): the"
    " counters are read again.",
    "flushes_impossible": "No flush can succeed before the reason is removed. Messages are received and folded.",
    "flushes_recovered": "Flushes of `flush_committed` that an earlier attempt of the step had committed.",
    "folding_left_to_other_worker": "Redis answers again, and another worker folds.",
    "folding_refused": "The worker receives messages, and Redis accepts no folds now; they are kept in memory and tried"
    " again.",
    "folding_resumed": "Redis has accepted a fold, or the end of a segment, again.",
    "fork_server_unavailable": "Each run imports everything itself, which takes 2 s of CPU"
    " ([troubleshooting](../how-to/troubleshooting.md)).",
    "future_timestamps_moved": "The daemon moved timestamps of Dagster that are in the future to now"
    " ([clock changes](../how-to/clock-changes.md)).",
    "health_changed": "The status of checks of `/health` changed, with its level; `debug` for those that are"
    " unknown while another one fails.",
    "hold_not_cleared": "In a cluster: a marker keeps `hold` after a sweep, because its shard did not answer.",
    "incidents_not_recorded": "Incidents could not be written to PostgreSQL; the next attempt of the step does.",
    "input_rejected": "Messages and counters were rejected since the previous run, by reason.",
    "last_flush_decided": "Whether a worker that stops flushes, and why.",
    "lease_decided": "An attempt to acquire or renew the lease had another outcome, or another term, than the last.",
    "lease_handed_over": "The holder released the lease to a worker that stands by, because that one has received what"
    " it missed.",
    "ledger_identity_unreadable": "The worker cannot read from PostgreSQL which ledger it belongs to; it tries again.",
    "listening": "The worker is subscribed, holds the lease and folds.",
    "messages_rejected": "So many messages were rejected for this reason; `example`: the last of them. More examples"
    " are in `viewer.rejected`.",
    "next_run_queued": "The next run continues, because counters remain.",
    "not_listening": "The subscription is lost or could not be made; the worker subscribes again.",
    "nothing_committed": "A run committed no views, because it found none.",
    "otel_not_installed": "`OTEL_EXPORTER_OTLP_ENDPOINT` is set, and no traces are exported"
    " ([traces](../how-to/traces.md)).",
    "parked_views_counted": "Parked views were counted, because their rows take them now.",
    "parked_views_refused": "Your own table refused parked views again.",
    "port_replaced": "A port of `up` is taken; the message names the process that has it, the port used instead, and"
    " how to choose one ([ports](../how-to/ports.md)). Logged with `LOG_FORMAT=json`.",
    "preload_failed": "The fork server could not import everything; runs do it themselves, and report the error.",
    "probe_failed": "A probe of `/health` raised an unexpected error.",
    "process_ended": "A process of `up` ended, and is restarted. `log`: its file, or `foreground`.",
    "process_restarted": "A process of `up` that had ended was started again.",
    "progress": "What `up` does at a start or stop, with `LOG_FORMAT=json`; else its message is a line of text.",
    "pruned": "A retention job has pruned, or with `dry_run` would have; with its metadata.",
    "pruning_stopped": "Old days of the ledger are kept, for this reason ([retention](../how-to/retention.md)).",
    "reading_discarded": "Redis was emptied or fell back while a run read it: the counters are read again.",
    "reconciliation_note": "Something to know about the comparison ([reconcile](../how-to/reconcile.md)).",
    "redis_url_parameters_ignored": "Parameters of `REDIS_URL` without effect.",
    "rejected_messages_not_recorded": "PostgreSQL did not take rejected messages; they are kept, and tried again.",
    "restart_cleanup_failed": "What is done before a process is restarted failed; it is restarted anyway.",
    "run_ended_with_code_server": "A run was marked as failed, because it ended with its code server.",
    "run_delivered_again": "Celery delivered a run a second time, because it takes long or its worker was lost."
    " Nothing is executed twice.",
    "run_failed": "A run failed after its retries: `job`, `run_id`, `trigger`, `reason`. A failed flush loses nothing"
    " ([alerts](../how-to/alerts.md)).",
    "run_metrics_not_recorded": "The metrics of a run could not be added; counts are not concerned.",
    "run_note": "Something out of the ordinary: an emptied Redis, a rolled back PostgreSQL, drift, batches that another"
    " run settled.",
    "run_lease_lost": "The process of a run was paused or cut off for so long that the run was reported as failed;"
    " it ends itself.",
    "run_requested": "A tick of a sensor or schedule requested a run, for this reason.",
    "segment_folded": "The worker folded a segment; `written=False`: it was folded before.",
    "server_ended": "An embedded server ended, and is restarted. `log`: its file.",
    "server_restarted": "It accepts connections again.",
    "server_start_failed": "An embedded server does not start; it is tried again.",
    "setting_differs_from_running_up": "The environment of a command sets what the `up` of the same `VIEWER_HOME` has"
    " otherwise; the command uses `value`. If it is the URL of a server, it uses no settings of that `up`"
    " ([several terminals](../operations.md#several-terminals)).",
    "setting_lost": "A setting that workers or runs had before is at its default now"
    " ([lost settings](../operations.md#settings-that-were-lost)).",
    "standing_by": "The worker is subscribed; another worker folds, or none can yet.",
    "dagster_storage_opened": "Where this process has Dagster's storage.",
    "streams_changed": "`viewer-pipeline streams apply` has changed the number of streams"
    " ([streams](../how-to/streams.md)).",
    "subscriber_failed": "The subscriber raised an unexpected error; the worker ends, with exit status 1.",
    "subscriber_stopped_without_reply": "Redis did not reply during a stop; `views` may be lost.",
    "superseded_repeatedly": "Other runs kept committing first; the next run flushes the rest.",
    "sweep_part_read": "A run has read and committed a part of a sweep, up to this `share` of all keys; `stored=False`:"
    " another run continues the sweep.",
    "sweep_requested": "The worker requested a sweep, for this reason.",
    "target_rows_refused": "Rows of your own table refused their views, which are parked; all others are counted.",
    "tick_skipped": "A tick of a sensor or schedule launched nothing, for this reason.",
    "totals_not_published": "Redis did not take the new totals on `TOTALS_CHANNEL`; counts are not concerned.",
    "trace_not_exported": "The trace of a run was not taken; the run is not concerned ([traces](../how-to/traces.md)).",
    "transaction_committed": "A run has committed one flush; `transaction_seconds`: the duration of its transaction.",
    "unknown_names_in_env_file": "Names in `.env` that are not settings.",
    "unknown_setting": "A variable that is not a setting, and resembles one.",
    "unsubscribed": "During a stop: the messages on their way are received, and folded.",
    "up_started": "All processes of `up` run, at these addresses. With `LOG_FORMAT=json`, in place of the banner.",
    "views_dropped": "A worker that stands by dropped received views: too many wait for the holder of the lease, which"
    " receives them as well.",
    "worker_stopped": "The last line of a worker: `error` if Redis did not take `lost_views`, `warning` if views were"
    " not flushed.",
    "worker_stopping": "The worker was asked to stop.",
}


@dataclass(frozen=True)
class LogEvent:
    """An event, from all places that log it."""

    name: str
    levels: tuple[str, ...]
    fields: tuple[str, ...]


def log_events() -> list[LogEvent]:
    """Return all events of the package by name. Raises ValueError for one that cannot be searched for in the code."""
    events = dict[str, LogEvent]()
    for path in sorted(PACKAGE.rglob("*.py")):
        for logged_event in events_of(ast.parse(path.read_text(encoding="utf-8")), path.name):
            known = events.get(logged_event.name, LogEvent(logged_event.name, (), ()))
            levels = tuple(dict.fromkeys(known.levels + logged_event.levels))
            events[logged_event.name] = LogEvent(
                logged_event.name, levels, tuple(dict.fromkeys(known.fields + logged_event.fields))
            )
    return [events[name] for name in sorted(events)]


def events_of(tree: ast.AST, file: str) -> Iterator[LogEvent]:
    """Return the events of a module, one for each call. Raises ValueError."""
    constructed = {node for node in ast.walk(tree) if _is_constructor(node)}
    for call in ast.walk(tree):
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in LEVELS):
            continue
        for constructor in constructed & set(call.args):
            assert isinstance(constructor, ast.Call)
            constructed.remove(constructor)
            error = (ERRORS,) if call.func.attr == "exception" else ()
            fields = tuple(keyword.arg or "…" for keyword in constructor.keywords) + error
            for name in _literals(constructor.args[0], file):
                yield LogEvent(name, (LEVELS[call.func.attr],), fields)
    for node in constructed:
        raise ValueError(f"{file}:{getattr(node, 'lineno', 0)}: construct an event in the call that logs it")


def _is_constructor(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CONSTRUCTORS


def _literals(expression: ast.expr, file: str) -> list[str]:
    """Return the literal, or both of a conditional expression."""
    if isinstance(expression, ast.IfExp):
        return [*_literals(expression.body, file), *_literals(expression.orelse, file)]
    if isinstance(expression, ast.Constant) and isinstance(expression.value, str):
        return [expression.value]
    raise ValueError(f"{file}:{expression.lineno}: the name of an event is a literal")
