"""The command line. Exit status: 0 done, 1 a check or the work failed, 2 wrong usage or settings."""

from __future__ import annotations

import json
import logging
import os
import secrets
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from viewer_pipeline.errors import SettingsError, ViewerPipelineError
from viewer_pipeline.flush.incidents import Kind
from viewer_pipeline.logs import event, log_to_stderr
from viewer_pipeline.settings import TARGET_FLUSH_COUNTERS, Settings, load_settings, without_password
from viewer_pipeline.stack.dagster_processes import CODE_SERVER_PORT, UI_PORT
from viewer_pipeline.stack.ports import LOOPBACK
from viewer_pipeline.standard_streams import open_closed_streams, tolerate_write_errors
from viewer_pipeline.stop_signals import handle_stop_signals

if TYPE_CHECKING:
    from viewer_pipeline.flush.adoption import How  # pandas comes with it, which most commands do not need

log = logging.getLogger("viewer_pipeline.cli")

F = TypeVar("F", bound=Callable[..., Any])

as_json = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout; logs go to stderr.")


class _Group(click.Group):
    """Turns our errors into one sentence and an exit status, and runs without standard streams as well."""

    def main(self, *arguments: Any, **options: Any) -> Any:
        """Run the command line."""
        open_closed_streams()
        return super().main(*arguments, **options)

    def invoke(self, context: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(context)
        except SettingsError as error:
            click.echo(f"error: {error}", err=True)
            context.exit(2)
        except ViewerPipelineError as error:
            click.echo(f"error: {without_password(str(error))}", err=True)
            context.exit(1)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="viewer-pipeline")
def main() -> None:
    """Carry view counts from Redis to PostgreSQL, in batches, exactly once."""


def _say(text: str) -> None:
    click.echo(text, err=True)


def _stop_by_exit(number: int) -> None:
    """Leave the stack that runs, so that it is stopped in order; in a signal handler."""
    raise SystemExit(128 + number)


def _settings_of_running() -> Settings:
    """Read the settings; where a URL is not set, take that of the server which `up` runs on this VIEWER_HOME."""
    from viewer_pipeline.stack.home import running_servers

    settings = load_settings()
    if settings.database_url is None or settings.redis_url is None:
        urls = running_servers(settings.viewer_home)
        unset = {name: url for name, url in urls.items() if getattr(settings, name) is None}
        settings = settings.changed(**unset)
    return settings


def _warn(settings: Settings) -> None:
    """Name what the database URLs say in vain, once for each start."""
    if dropped := settings.dropped_parameters():
        log.warning(event("unknown parameters of a database URL are dropped", **dropped))


@main.command()
@click.option("--ui-host", default=LOOPBACK, show_default=True, help="Address of Dagster's UI. It has no login.")
@click.option(
    "--adopt",
    type=click.Choice(["continue", "settle-newer", "from-here"]),
    help="First give the counters in Redis to this database, as the command `adopt` does.",
)
def up(ui_host: str, adopt: How | None) -> None:
    """Run everything in the foreground: embedded servers where no URL is set, migrations, Dagster, worker."""
    from viewer_pipeline.stack.up import run_up

    tolerate_write_errors("stdout", "stderr")
    settings = load_settings()
    log_to_stderr(settings)
    run_up(settings, _say, ui_host, adopt)


@main.command()
@click.option("--views", default=20_000, show_default=True, type=click.IntRange(30), help="Views to send.")
@click.option("--vods", default=500, show_default=True, type=click.IntRange(1), help="VODs to send them to.")
@click.option("--time-limit", default=80.0, show_default=True, help="Seconds until it gives up.")
@as_json
def demo(views: int, vods: int, time_limit: float, as_json: bool) -> None:
    """Run the main job on a throw-away stack, and check that every view arrived once."""
    from viewer_pipeline.stack.demo import run_demo
    from viewer_pipeline.stack.demo_display import Display

    tolerate_write_errors("stderr")
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr)
    settings = load_settings()
    handle_stop_signals(_stop_by_exit, _stop_by_exit, [signal.SIGTERM])
    with Display(views) as display:
        report = run_demo(settings, views, vods, time_limit, said=display.say, progress=display.progress)
    if as_json:
        names = ("left_in_redis", "lost", "doubled", "holds")
        click.echo(json.dumps(asdict(report) | {name: getattr(report, name) for name in names}))
    else:
        display.show(report)
    if not report.holds:
        raise SystemExit(1)


@main.command()
@as_json
def migrate(as_json: bool) -> None:
    """Bring both servers up to date: the schema `viewer`, and what version 0.1.0 kept in Redis.

    Safe to run twice, and at once. From version 0.1.0, all of that version must be stopped.
    """
    from viewer_pipeline.stack.upgrade import migrate_servers

    settings = _settings_of_running()
    _warn(settings)
    done = migrate_servers(settings, _say)
    if as_json:
        click.echo(json.dumps(asdict(done)))
        return
    if done.before == done.after:
        click.echo(f"schema viewer is at revision {done.after} already")
    else:
        click.echo(f"schema viewer: {done.before or 'nothing'} -> {done.after}")
    if done.redis_moved:
        click.echo(f"Redis: the state of version 0.1.0 belongs to the prefix {settings.counter_prefix!r} now")


@main.command()
@click.option(
    "--settle-newer",
    is_flag=True,
    help="This ledger has newer flushes, read from this Redis: subtract them.",
)
@click.option(
    "--from-here",
    is_flag=True,
    help="Begin at the end of this ledger, though it does not contain what Redis was settled by.",
)
@as_json
def adopt(settle_newer: bool, from_here: bool, as_json: bool) -> None:
    """Give the counters in Redis to this database: after a restored dump, a clone, or pg_upgrade.

    Everything that works with the other database must be stopped. Without an option, this ledger must end with the
    flush up to which Redis was settled.
    """
    from viewer_pipeline.stack.adoption import run_adopt

    settings = _settings_of_running()
    _warn(settings)
    if settle_newer and from_here:
        raise click.UsageError("--settle-newer and --from-here exclude each other")
    done = run_adopt(settings, "from-here" if from_here else "settle-newer" if settle_newer else "continue")
    if as_json:
        click.echo(json.dumps(done._asdict()))
    elif not done.changed:
        click.echo(f"the counters {done.prefix}* belong to {done.place} already")
    else:
        how = "begins at the end of its ledger, flush" if done.from_here else "continues after flush"
        click.echo(f"the counters {done.prefix}* belong to {done.place} now; it {how} {done.flush}")


@main.command()
@click.argument("prefix")
@click.option(
    "--keep-counters",
    is_flag=True,
    help="Settle what DATABASE_URL, its database, has counted; leave the rest to others.",
)
@as_json
def retire(prefix: str, keep_counters: bool, as_json: bool) -> None:
    """Forget the pipeline with this counter PREFIX in the Redis of REDIS_URL: it is gone, and has no counters left."""
    from viewer_pipeline.stack.adoption import run_retire

    known = run_retire(_settings_of_running(), prefix, keep_counters=keep_counters)
    if as_json:
        click.echo(json.dumps({"prefix": prefix, "retired": known}))
    else:
        click.echo(f"retired {prefix!r}" if known else f"no pipeline with the prefix {prefix!r} is known to this Redis")


@main.command()
@click.option("--last-flush/--no-last-flush", default=True, show_default=True, help="Flush what is pending at a stop.")
def worker(last_flush: bool) -> None:
    """Listen to the producers, fold what they publish into Redis, serve /health and /metrics; until SIGTERM."""
    from viewer_pipeline.cli.last_flush import flush_what_remains
    from viewer_pipeline.cli.worker import run_worker

    tolerate_write_errors("stdout", "stderr")
    settings = _settings_of_running()
    log_to_stderr(settings)
    _warn(settings)
    flush = partial(flush_what_remains, settings) if last_flush else lambda _: "not asked for"
    status = run_worker(settings, flush)
    sys.stderr.flush()
    os._exit(status)  # a thread that waits for a server that hangs must not hold up the end


def _address(value: str | tuple[str, int]) -> tuple[str, int]:
    """Read HOST:PORT."""
    if isinstance(value, tuple):  # click asks twice where it is the default
        return value
    host, _, port = value.rpartition(":")
    if not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise click.BadParameter(f"{value!r}: expected HOST:PORT")
    return host, int(port)


_port = click.IntRange(1, 65535)
_code_server = click.option(
    "--code-server",
    type=_address,
    metavar="HOST:PORT",
    default=f"{LOOPBACK}:{CODE_SERVER_PORT}",
    show_default=True,
    help="Where it is.",
)


@main.command("code-server")
@click.option("--host", default=LOOPBACK, show_default=True, help="Address to listen on. It has no login.")
@click.option("--port", default=CODE_SERVER_PORT, show_default=True, type=_port)
def code_server(host: str, port: int) -> None:
    """Run Dagster's code server, which runs the flushes; exactly one. For containers and the like: `up` starts it."""
    settings = _settings_of_running()
    log_to_stderr(settings)
    _warn(settings)
    from viewer_pipeline.stack.dagster_roles import become_code_server

    become_code_server(settings, host, port)


@main.command()
@_code_server
def daemon(code_server: tuple[str, int]) -> None:
    """Run Dagster's daemon (sensor, schedules, queue of runs); exactly one. For containers and the like."""
    settings = _settings_of_running()
    from viewer_pipeline.stack.dagster_roles import become_daemon

    become_daemon(settings, code_server)


@main.command()
@click.option("--host", default=LOOPBACK, show_default=True, help="Address to listen on. The UI has no login.")
@click.option("--port", default=UI_PORT, show_default=True, type=_port)
@_code_server
def webserver(host: str, port: int, code_server: tuple[str, int]) -> None:
    """Run Dagster's UI. For containers and the like."""
    settings = _settings_of_running()
    from viewer_pipeline.stack.dagster_roles import become_webserver

    become_webserver(settings, code_server, host, port)


@main.command()
@click.argument("role", type=click.Choice(["worker", "code-server", "daemon", "webserver"]), default="worker")
@click.option("--port", type=_port, help="Where it listens, if not on its usual port.")
def healthcheck(role: str, port: int | None) -> None:
    """Ask the process of this ROLE on this machine whether it works: exit status 0 or 1, for containers."""
    from viewer_pipeline.cli.healthcheck import ask

    click.echo(ask(role, _settings_of_running(), port))


@main.command()
@click.option(
    "--mode", type=click.Choice(["sweep", "changed"]), default="sweep", show_default=True, help="Which counters."
)
@click.option("--vod-id", "vod_ids", multiple=True, help="Flush just this VOD; may be given several times.")
@as_json
def flush(mode: str, vod_ids: tuple[str, ...], as_json: bool) -> None:
    """Run one flush in this process, recorded in Dagster's history."""
    from viewer_pipeline.flush.ledger import require_target
    from viewer_pipeline.flush.registry import require_pipeline
    from viewer_pipeline.monitoring.status import read_status
    from viewer_pipeline.stores.durability import require_durability

    settings = _settings_of_running()
    _warn(settings)
    read_status(settings)  # a server that is out of reach is said in a sentence, before Dagster is imported
    require_durability(settings)
    require_pipeline(settings)
    require_target(settings)
    settings.export()
    from viewer_pipeline.cli.flush import run_flush
    from viewer_pipeline.orchestration.instance import open_instance
    from viewer_pipeline.orchestration.ops import FlushMode

    with open_instance(settings) as instance:
        run = run_flush(instance, FlushMode[mode], vod_ids, "command line")
    if as_json:
        click.echo(json.dumps(asdict(run)))
    elif run.success:
        figures = run.figures
        click.echo(
            f"run {run.run_id}: {figures['views']} views of {figures['counters']} counters "
            f"in {figures['flushes']} flushes, {figures['rejected']} rejected; {figures['notes']}"
        )
    if run.failed_checks:
        click.echo(f"failed checks: {', '.join(run.failed_checks)}", err=True)
    if not run.success:
        click.echo(f"run {run.run_id} failed; its events are in the Dagster UI", err=True)
    if not run.success or run.failed_checks:
        raise SystemExit(1)


@main.command()
@click.argument("first", type=click.DateTime(["%Y-%m-%d"]))
@click.argument("last", type=click.DateTime(["%Y-%m-%d"]), required=False)
@as_json
def backfill(first: datetime, last: datetime | None, as_json: bool) -> None:
    """Add the days FIRST to LAST (UTC; today, if left out) of `daily_views` up anew. Safe to repeat."""
    from viewer_pipeline.monitoring.status import read_status

    settings = _settings_of_running()
    _warn(settings)
    read_status(settings)  # a server that is out of reach is said in a sentence, before Dagster is imported
    settings.export()
    from viewer_pipeline.cli.backfill import days_asked_for, run_backfill
    from viewer_pipeline.orchestration.instance import open_instance

    window = days_asked_for(settings, first.date(), last.date() if last else None)
    with open_instance(settings) as instance:
        run = run_backfill(instance, window)
    if as_json:
        click.echo(json.dumps(asdict(run)))
    else:
        for day, said in run.days.items():
            click.echo(f"{day}: {said['views']} views of {said['vods']} VODs {said.get('notes', '')}".rstrip())
    if run.failed_checks or not run.success:
        click.echo(f"run {run.run_id}: {', '.join(run.failed_checks) or 'failed'}; see the Dagster UI", err=True)
        raise SystemExit(1)


@main.command()
@as_json
def status(as_json: bool) -> None:
    """Show what is pending, settled, parked, rejected, who works on it, and why nothing was done."""
    from viewer_pipeline.monitoring.status import read_status, show_status

    found = read_status(_settings_of_running())
    if as_json:
        click.echo(json.dumps(found, default=str))
    else:
        show_status(found)


@main.command()
@click.option(
    "--seconds", default=10.0, show_default=True, type=click.FloatRange(0.1, 3600), help="How long to listen."
)
@as_json
def doctor(seconds: float, as_json: bool) -> None:
    """Look at settings, servers, keys, producers and Dagster; say what is wrong, why it matters, and what to do.

    Listens to the producers to tell which PUBSUB_MODE they need. Writes nothing. Exit status 1 if something must be
    fixed.
    """
    from viewer_pipeline.monitoring.doctor.examine import Doctor
    from viewer_pipeline.monitoring.doctor.finding import verdict
    from viewer_pipeline.monitoring.doctor.show import show_findings

    patient = Doctor(_settings_of_running(), seconds)
    if not as_json:
        _say(f"looking, and listening to the producers for {seconds:g} s …")
    findings = patient.examine()
    if as_json:
        shown = [finding.shown() for finding in findings]
        click.echo(json.dumps({"verdict": verdict(findings), "findings": shown}))
    else:
        show_findings(findings)
    if verdict(findings) == "problem":
        raise SystemExit(1)


@main.command()
@click.option("--target", metavar="TABLE", help="The target table: `table` or `schema.table`. Default: TARGET_TABLE.")
@click.option("--role", default="viewer_pipeline", show_default=True, help="Name of the role, and of the Redis user.")
@as_json
def grants(target: str | None, role: str, as_json: bool) -> None:
    """Print SQL and a Redis ACL line for a role that can do just this work. Connects to nothing."""
    from viewer_pipeline.cli.grants.show import grants as needed
    from viewer_pipeline.cli.grants.show import printed
    from viewer_pipeline.target.table import TargetNames

    settings = load_settings() if target is None else load_settings().changed(target_table=target)
    try:
        names = TargetNames.of(settings)
    except ValueError as error:
        raise SettingsError(f"--target={target!r}: {error}") from None
    found = needed(settings, role, names)
    click.echo(json.dumps(asdict(found)) if as_json else printed(found))


@main.command()
@click.option("--apply", is_flag=True, help="Count now what can be counted, instead of at the next sweep.")
@click.option("--discard", multiple=True, metavar="ID", help="Give up the parked views of this VOD; may be repeated.")
@as_json
def parked(apply: bool, discard: tuple[str, ...], as_json: bool) -> None:
    """Show parked views: those of VODs that the target table lacks, or has no room for."""
    from viewer_pipeline.cli.parked import act_on_parked, show_parked

    found = act_on_parked(_settings_of_running(), apply=apply, discard=discard)
    if as_json:
        click.echo(json.dumps(found, default=str))
    else:
        show_parked(found)
    if None in found["discarded"].values():
        raise SystemExit(1)


@main.command()
@click.option("--repair", is_flag=True, help="Mend what can be explained; each repair is in the ledger.")
@click.option("--undo", type=click.IntRange(1), metavar="SEQ", help="Take back what this flush of a repair adjusted.")
@as_json
def reconcile(repair: bool, undo: int | None, as_json: bool) -> None:
    """Compare totals, target, marker, counters with the history, in one pass; flushes may run meanwhile.

    Writes all differences to a CSV file in VIEWER_HOME/reports. Exit status 1 if any remain.
    """
    from viewer_pipeline.cli.reconcile import run_reconcile, run_undo, show_reconciled

    if undo is not None:
        if repair:
            raise click.UsageError("--undo goes without --repair")
        flush = run_undo(_settings_of_running(), undo)
        said = {"undone": undo, "flush": flush.seq, "vods": flush.counters, "views": flush.views}
        click.echo(json.dumps(said) if as_json else f"flush {undo} is undone by flush {flush.seq}: {flush.views} views")
        return
    found = run_reconcile(_settings_of_running(), repair=repair)
    if as_json:
        click.echo(json.dumps(found.shown()))
    else:
        show_reconciled(found)
    if found.remaining:
        raise SystemExit(1)


@main.command()
@click.option("--from-target", is_flag=True, help="From TARGET_TABLE: what is in it, less what was counted into it.")
@click.option(
    "--csv", "file", type=click.Path(path_type=Path), metavar="FILE", help="From a file: vod_id,count with a header."
)
@click.option("--again", is_flag=True, help="Although it was taken before.")
@as_json
def baseline(from_target: bool, file: Path | None, again: bool, as_json: bool) -> None:
    """Take the counts that exist today as the baseline, once; or show what was taken. Flushes may run meanwhile."""
    from viewer_pipeline.cli.baseline import said, take

    if from_target and file is not None:
        raise click.UsageError("--from-target and --csv are two sources: choose one")
    if again and not (from_target or file):
        raise click.UsageError("--again needs --from-target or --csv")
    taken = take(_settings_of_running(), file, from_target=from_target, again=again)
    click.echo(json.dumps(taken._asdict() if taken else {}, default=str) if as_json else said(taken))


@main.command()
@click.argument("kinds", nargs=-1, type=click.Choice(["postgres_rolled_back", "redis_emptied", "drift"]))
@as_json
def acknowledge(kinds: tuple[Kind, ...], as_json: bool) -> None:
    """Close incidents that /health and status show, all of them or these KINDS: somebody has looked."""
    from viewer_pipeline.flush.incidents import KINDS
    from viewer_pipeline.flush.incidents import acknowledge as close
    from viewer_pipeline.flush.ledger import Ledger

    with Ledger(_settings_of_running().require_database_url()).connect() as connection:
        closed = close(connection, list(kinds or KINDS))
    if as_json:
        click.echo(json.dumps({"acknowledged": closed}))
    else:
        click.echo(f"acknowledged {closed} incidents" if closed else "no incident was open")


@main.command()
@click.argument("vod_id")
@click.option("--count", default=1, show_default=True, type=click.IntRange(1, 2**63 - 1), help="How many views.")
@click.option(
    "--how",
    type=click.Choice(["publish", "incr", "both"]),
    help="publish: a message; incr: the counter; both: as Streamix does. Default: what PUBSUB_MODE needs.",
)
@as_json
def send(vod_id: str, count: int, how: str | None, as_json: bool) -> None:
    """Send views of VOD_ID by hand, as a producer does."""
    from viewer_pipeline.cli.send import send_views

    settings = _settings_of_running()
    sent = send_views(settings, vod_id, count, how or ("both" if settings.pubsub_mode == "announce" else "publish"))
    if as_json:
        click.echo(json.dumps(sent))
    else:
        heard = f", {sent['heard']} subscribers heard it" if sent["how"] != "incr" else ""
        click.echo(f"sent {count} views of {vod_id} by {sent['how']}{heard}")


@main.command()
@click.option("--minutes", default=2.0, show_default=True, type=click.FloatRange(0.05), help="How long to strike.")
@click.option("--seed", type=int, help="To do the same again; else a new one, which is printed.")
@as_json
def soak(minutes: float, seed: int | None, as_json: bool) -> None:
    """Kill, pause and fail over everything under two pipelines in full traffic; check that every view counts once."""
    from viewer_pipeline.bench.soak import run_soak

    tolerate_write_errors("stderr")
    logging.basicConfig(level=logging.CRITICAL, stream=sys.stderr)
    seed = secrets.randbelow(1_000_000) if seed is None else seed
    _say(f"seed {seed}")
    handle_stop_signals(_stop_by_exit, _stop_by_exit, [signal.SIGTERM])
    report = run_soak(load_settings(), minutes, seed, _say)
    if as_json:
        click.echo(json.dumps(asdict(report) | {"holds": report.holds}))
    else:
        strikes = f"{sum(report.kills.values())} kills, {sum(report.pauses.values())} pauses"
        strikes += f", {report.failovers} failovers"
        lost, doubled = sum(report.lost.values()), sum(report.doubled.values())
        click.echo(
            f"seed {report.seed}: {strikes}; sent {report.sent} = persisted {report.persisted}"
            f" + in Redis {report.pending}: lost {lost}, doubled {doubled}"
        )
    if not report.holds:
        raise SystemExit(1)


@main.group()
def bench() -> None:
    """Measure on embedded servers, with a reference in the same run."""


def _bench_options(command: F) -> F:
    for option in (
        as_json,
        click.option("--runs", default=5, show_default=True, type=click.IntRange(1, 100), help="Medians of so many."),
    ):
        command = option(command)
    return command


@bench.command("flush")
@click.option("--counters", default=100_000, show_default=True, type=click.IntRange(1, 10_000_000))
@_bench_options
def bench_flush(counters: int, runs: int, as_json: bool) -> None:
    """Time a flush of existing counters, beside the same rows written by PostgreSQL alone."""
    from viewer_pipeline.bench.flush import bench_flush as measure
    from viewer_pipeline.bench.show import show_flush

    settings = load_settings()
    limits = {"batch_size": settings.batch_size, "flush_max_counters": settings.flush_counters}
    figures = measure(counters, runs=runs, **limits)
    if as_json:
        click.echo(json.dumps(asdict(figures)))
    else:
        show_flush([figures])


@bench.command("target")
@click.option("--rows", default=1_000_000, show_default=True, type=click.IntRange(1), help="Rows of the table.")
@click.option("--counters", default=100_000, show_default=True, type=click.IntRange(1))
@_bench_options
def bench_target(rows: int, counters: int, runs: int, as_json: bool) -> None:
    """Time a flush into a wide table of the user's, beside one UPDATE of the same rows, and an editor's wait."""
    from viewer_pipeline.bench.show import show_target
    from viewer_pipeline.bench.target import bench_target as measure

    if counters > rows:
        raise click.UsageError(f"--counters {counters}: expected at most --rows, which is {rows}")
    settings = load_settings()
    limit = settings.flush_max_counters or TARGET_FLUSH_COUNTERS
    figures = measure(rows, counters, runs=runs, batch_size=settings.batch_size, flush_max_counters=limit)
    if as_json:
        click.echo(json.dumps(asdict(figures)))
    else:
        show_target(figures)


@bench.command("changed")
@click.option("--counters", default=1_000, show_default=True, type=click.IntRange(1))
@click.option("--others", default=1_000_000, show_default=True, type=click.IntRange(0), help="Unrelated keys.")
@_bench_options
def bench_changed(counters: int, others: int, runs: int, as_json: bool) -> None:
    """Time a flush of the changed set, in an empty Redis and beside many unrelated keys."""
    from viewer_pipeline.bench.changed import bench_changed as measure
    from viewer_pipeline.bench.show import show_changed

    figures = measure(counters, others, runs=runs)
    if as_json:
        click.echo(json.dumps(asdict(figures)))
    else:
        show_changed(figures)


@bench.command("reconcile")
@click.option("--totals", default=1_000_000, show_default=True, type=click.IntRange(10_000, 90_000_000))
@as_json
def bench_reconcile(totals: int, as_json: bool) -> None:
    """Time a comparison of totals, target and ledger, mending some, and taking a baseline, beside a plain read."""
    from viewer_pipeline.bench.reconcile import bench_reconcile as measure
    from viewer_pipeline.bench.show import show_reconcile

    figures = measure(totals // 10_000 * 10_000)
    if as_json:
        click.echo(json.dumps(asdict(figures)))
    else:
        show_reconcile(figures)


@bench.command("messages")
@click.option("--messages", default=500_000, show_default=True, type=click.IntRange(1), help="Messages to publish.")
@_bench_options
def bench_messages(messages: int, runs: int, as_json: bool) -> None:
    """Time the subscriber on messages through a real Redis, beside a plain redis-py loop."""
    from viewer_pipeline.bench.messages import bench_messages as measure
    from viewer_pipeline.bench.show import show_messages

    figures = measure(messages, runs=runs)
    if as_json:
        click.echo(json.dumps(asdict(figures)))
    else:
        show_messages(figures)


@bench.command("all")
@_bench_options
def bench_all(runs: int, as_json: bool) -> None:
    """Run every benchmark: flushes of 100 000 and 1 000 000 counters, a table, the changed set, messages, reconcile."""
    from viewer_pipeline.bench.changed import bench_changed as measure_changed
    from viewer_pipeline.bench.flush import bench_flush as measure_flush
    from viewer_pipeline.bench.messages import bench_messages as measure_messages
    from viewer_pipeline.bench.reconcile import bench_reconcile as measure_reconcile
    from viewer_pipeline.bench.show import show_changed, show_flush, show_messages, show_reconcile, show_target
    from viewer_pipeline.bench.target import bench_target as measure_target

    settings = load_settings()
    limits = {"batch_size": settings.batch_size, "flush_max_counters": settings.flush_counters}
    flushes = [measure_flush(counters, runs=runs, **limits) for counters in (100_000, 1_000_000)]
    limit = settings.flush_max_counters or TARGET_FLUSH_COUNTERS
    target = measure_target(1_000_000, 100_000, runs=runs, batch_size=settings.batch_size, flush_max_counters=limit)
    changed = measure_changed(1_000, 1_000_000, runs=runs)
    messages = measure_messages(500_000, runs=runs)
    reconciled = measure_reconcile(100_000)
    if as_json:
        found = {"flush": [asdict(figures) for figures in flushes], "changed": asdict(changed)}
        rest = {"messages": asdict(messages), "reconcile": asdict(reconciled)}
        click.echo(json.dumps({**found, "target": asdict(target), **rest}))
    else:
        show_flush(flushes)
        show_target(target)
        show_changed(changed)
        show_messages(messages)
        show_reconcile(reconciled)


if __name__ == "__main__":
    main()
