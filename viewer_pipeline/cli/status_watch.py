"""`status --watch`: the status live, in place on a terminal, else one block after another."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from shutil import get_terminal_size
from typing import NoReturn

import click

from viewer_pipeline.cli.command_settings import load_settings_with_running_servers
from viewer_pipeline.cli.output import describe_error, terminal_width, to_json
from viewer_pipeline.errors import ViewerPipelineError
from viewer_pipeline.monitoring.status import PipelineStatus, StatusReader
from viewer_pipeline.monitoring.status_report import render_status
from viewer_pipeline.settings import Settings
from viewer_pipeline.stop_signals import install_stop_signal_handlers
from viewer_pipeline.text_formatting import wrap
from viewer_pipeline.time_formatting import format_timestamp

MAX_SHARE = 0.1  # of the time that readings take: one that is slow is repeated more rarely
ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"  # the alternate screen, without a cursor
HOME, CLEAR_LINE, CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"


class StatusWatch:
    """Reads the status again and again; opens other connections where `up` was started again with other servers."""

    def __init__(self, settings: Settings) -> None:
        """Raises SettingsError."""
        self._open_reader = ExitStack()
        self._open(settings)

    def read(self) -> PipelineStatus:
        """Read it. Raises ViewerPipelineError."""
        settings = load_settings_with_running_servers(warn=False)
        if settings != self._settings:
            self._open(settings)
        return self._reader.read()

    def close(self) -> None:
        """Close the connections."""
        self._open_reader.close()

    def _open(self, settings: Settings) -> None:
        with ExitStack() as opened:
            reader = opened.enter_context(StatusReader.open(settings))
            self._open_reader.close()
            self._reader, self._settings, self._open_reader = reader, settings, opened.pop_all()


def watch_status(settings: Settings, seconds: float, *, as_json: bool) -> None:
    """Show the status until Ctrl-C. Raises SettingsError at the start; a later error is shown instead of the status."""

    def leave(number: int) -> NoReturn:
        raise SystemExit(128 + number)

    install_stop_signal_handlers(leave, leave, [signal.SIGTERM])
    with ExitStack() as closing:
        watch = StatusWatch(settings)
        closing.callback(watch.close)
        in_place = sys.stdout.isatty() and not as_json
        show = closing.enter_context(_screen()) if in_place else click.echo
        try:
            while True:
                started = time.monotonic()
                show(_read_json(watch) if as_json else _read_text(watch, seconds, in_place=in_place))
                time.sleep(max(seconds, (time.monotonic() - started) * (1 / MAX_SHARE - 1)))
        except KeyboardInterrupt:
            return


def _read_json(watch: StatusWatch) -> str:
    try:
        return to_json(watch.read().to_dict())
    except ViewerPipelineError as error:
        return to_json({"status": "unhealthy", "timestamp": format_timestamp(), "error": describe_error(error)})


def _read_text(watch: StatusWatch, seconds: float, *, in_place: bool) -> str:
    width = terminal_width()
    try:
        text = render_status(watch.read(), width)
    except ViewerPipelineError as error:
        text = "\n".join(wrap("", line, width) for line in describe_error(error).splitlines())
    heading = f"{format_timestamp()}, every {seconds:g} s"
    return f"{heading}; Ctrl-C ends\n\n{text}" if in_place else f"{heading}\n{text}\n"


@contextmanager
def _screen() -> Iterator[Callable[[str], None]]:
    """Show texts on the alternate screen, each over the one before in a single write, so that nothing flickers.

    In the end, the last one is printed where the command was typed.
    """
    last = ""

    def show(text: str) -> None:
        nonlocal last
        last, size = text, get_terminal_size()
        lines = text.splitlines()
        if len(lines) > size.lines:
            lines = [*lines[: size.lines - 1], "… (the window is too small for the rest)"]
        rows = "\n".join(f"{line[: size.columns]}{CLEAR_LINE}" for line in lines)
        click.echo(f"{HOME}{rows}{CLEAR_BELOW}", nl=False)

    click.echo(ENTER, nl=False)
    try:
        yield show
    finally:
        click.echo(f"{LEAVE}{last}")
