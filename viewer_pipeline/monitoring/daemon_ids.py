"""Tells two Dagster daemons at once from one that was restarted, by the ids in their heartbeats.

A daemon process has one random id for all its daemons. There is one row for each daemon, so two processes overwrite
each other's heartbeats.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from viewer_pipeline.monitoring.dagster_rules import DAEMONS, TOLERANCE_SECONDS
from viewer_pipeline.monitoring.dagster_tables import Heartbeat

START_SECONDS = 5.0  # when a process starts, all its daemons record a heartbeat within two seconds


class DaemonIds:
    """The ids that successive readings have shown."""

    def __init__(self) -> None:
        self._last: dict[str, str] = {}  # of each daemon
        self._replaced: set[tuple[str, str]] = set()  # daemon, id
        self._concurrent = frozenset[str]()
        self._seen = float("-inf")  # when they were; monotonic

    def concurrent(self, heartbeats: Mapping[str, Heartbeat], now: float) -> frozenset[str]:
        """Return the ids of processes that ran at the same time within the last TOLERANCE_SECONDS; else none.

        An id that was replaced never comes back after a restart, nor does an old heartbeat stay beside newer ones.
        """
        seconds = {name: now - heartbeats[name].at for name in DAEMONS if name in heartbeats}
        old = {heartbeats[name].daemon_id for name, age in seconds.items() if START_SECONDS < age <= TOLERANCE_SECONDS}
        concurrent = old if len(old) > 1 else set()
        for daemon in seconds:
            daemon_id = heartbeats[daemon].daemon_id
            last = self._last.get(daemon, daemon_id)
            if daemon_id != last and (daemon, daemon_id) in self._replaced:
                concurrent |= {daemon_id, last}
            if daemon_id != last:
                self._replaced.add((daemon, last))
            self._last[daemon] = daemon_id
        if concurrent:
            self._concurrent, self._seen = frozenset(concurrent), time.monotonic()
        return self._concurrent if time.monotonic() - self._seen <= TOLERANCE_SECONDS else frozenset()
