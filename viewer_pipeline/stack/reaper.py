"""Runs one command, and ends it when this process's standard input ends, that is when its parent is gone.

Usage: python reaper.py [--signal NAME] [--grace SECONDS] [--user NAME] [--input] -- COMMAND [ARGUMENT ...]

Sends the command the signal, once, when standard input ends or SIGTERM or SIGHUP arrives; kills its process group after
the grace period; exits with its status. With --input the command gets a copy of standard input.

With --user (root only) the command runs as that user, but can still enter directories that only root may enter
(CAP_DAC_OVERRIDE): PostgreSQL refuses to run as root, and its data may be below /root. This is a script and not a
module of the package: it imports nothing of it, so it starts in 20 ms.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import pwd
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence

PR_SET_PDEATHSIG, PR_SET_KEEPCAPS, PR_CAP_AMBIENT = 1, 8, 47
PR_CAP_AMBIENT_RAISE = 2
CAP_DAC_OVERRIDE = 1
STOP_SIGNALS = {signal.SIGTERM, signal.SIGHUP}
CANNOT_RUN = 127  # as in a shell
CAPABILITY_VERSION_3 = 0x20080522


def main() -> int:
    """Run the command given on the command line; return its exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--signal", default="TERM")
    parser.add_argument("--grace", type=float, default=10)
    parser.add_argument("--user")
    parser.add_argument("--input", action="store_true")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    stop_signal = signal.Signals[f"SIG{options.signal}"]
    account = pwd.getpwnam(options.user) if options.user else None
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # until there is a child to forward it to
    try:
        child = _start_command(options.command, account, stop_signal, has_input=options.input)
    except (OSError, subprocess.SubprocessError) as error:
        with contextlib.suppress(OSError):  # the terminal may be closed
            print(f"cannot run {options.command[0]}: {error}", file=sys.stderr)  # noqa: T201 - this is a script
        return CANNOT_RUN
    stop = _make_stop_once(child.pid, stop_signal, options.grace)
    for number in STOP_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: stop())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    threading.Thread(target=_pass_on_input_then_stop, args=[child, stop], daemon=True).start()
    status = child.wait()
    _kill_process_group(child.pid)
    return status if status >= 0 else 128 - status


def _start_command(
    command: Sequence[str], account: pwd.struct_passwd | None, stop_signal: signal.Signals, *, has_input: bool
) -> subprocess.Popen[bytes]:
    def before_exec() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        if account is not None:
            _switch_user_keeping_file_access(account)
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(stop_signal), 0, 0, 0)

    return subprocess.Popen(  # noqa: S603 - the command is the caller's
        command,
        stdin=subprocess.PIPE if has_input else subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=before_exec,  # noqa: PLW1509 - no thread has been started yet
    )


def _make_stop_once(pid: int, stop_signal: signal.Signals, grace: float) -> Callable[[], None]:
    """Return what stops the command, at the first call only: to the worker a second signal means "at once"."""
    stopping = False

    def stop() -> None:
        nonlocal stopping
        if stopping:
            return
        stopping = True
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, stop_signal)
        killer = threading.Timer(grace, _kill_process_group, [pid])
        killer.daemon = True
        killer.start()

    return stop


def _pass_on_input_then_stop(child: subprocess.Popen[bytes], stop: Callable[[], None]) -> None:
    while read := os.read(0, 4096):
        if child.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # it has ended
                os.write(child.stdin.fileno(), read)
    stop()


def _switch_user_keeping_file_access(account: pwd.struct_passwd) -> None:
    libc = ctypes.CDLL(None)
    linux = sys.platform == "linux"
    if linux:
        libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setgroups([])
    os.setgid(account.pw_gid)
    os.setuid(account.pw_uid)
    if linux:
        capabilities = 1 << CAP_DAC_OVERRIDE
        header = struct.pack("Ii", CAPABILITY_VERSION_3, 0)
        libc.capset(header, struct.pack("6I", capabilities, capabilities, capabilities, 0, 0, 0))
        libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_OVERRIDE, 0, 0)


def _kill_process_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
