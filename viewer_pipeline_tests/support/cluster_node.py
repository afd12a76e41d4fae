"""One server of a Redis Cluster: a process that a test may kill, pause and restart, with its data or without."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from viewer_pipeline.stack.managed_process import ManagedProcess
from viewer_pipeline.stack.ports import LOOPBACK
from viewer_pipeline_tests.support.waiting import wait_until

START_SECONDS = 60
REPLY_SECONDS = 20
NODES_FILE = "nodes.conf"  # a node's identity, and what it knows of the others
_NO_PROBLEMS = {"myself", "master", "slave", "connected"}


@dataclass(frozen=True)
class NodeRecord:
    """A line of CLUSTER NODES: what one node knows of one node.

    `slots` holds ranges such as `0-5460`, `open_slots` those that are being migrated key by key (a node knows its own
    only), `problems` flags such as `fail?` and `handshake`, and a lost link.
    """

    node_id: str
    port: int
    primary_id: str | None  # None: it is a primary itself
    slots: tuple[str, ...]
    open_slots: tuple[str, ...]
    problems: frozenset[str]

    @classmethod
    def parse(cls, line: str) -> NodeRecord:
        """Read a line."""
        node_id, address, flags, primary, _, _, _, link, *slots = line.split()
        port = re.search(r":(\d+)", address)
        assert port is not None, line
        owned = tuple(slot for slot in slots if not slot.startswith("["))
        opened = tuple(slot for slot in slots if slot.startswith("["))
        problems = frozenset({*flags.split(","), link} - _NO_PROBLEMS)
        return cls(node_id, int(port[1]), None if primary == "-" else primary, owned, opened, problems)

    def serves(self, slot: int) -> bool:
        """Whether it is the primary of a slot."""
        ranges = (part.split("-") for part in self.slots)
        return any(int(ends[0]) <= slot <= int(ends[-1]) for ends in ranges)


class ClusterNode:
    """A server on a port of its own. Its bus has the port 10000 above, as before Redis 7, where it was fixed."""

    def __init__(self, home: Path, name: str, port: int, binary: Path, settings: Mapping[str, object]) -> None:
        self.name = name
        self.port = port
        self.directory = home / name
        self.directory.mkdir(parents=True)
        self.client = self._connect(REPLY_SECONDS)
        self._probe = self._connect(2)
        self._paused_process = 0  # its process id while it is paused
        options = {
            "bind": LOOPBACK,
            "port": port,
            "dir": self.directory,
            "cluster-enabled": "yes",
            "cluster-config-file": NODES_FILE,
            "daemonize": "no",
            **settings,
        }
        arguments = [str(argument) for option, value in options.items() for argument in (f"--{option}", value)]
        command: list[str | Path] = [binary, *arguments]
        self._process = ManagedProcess(name, command, log=home / f"{name}.log", stop_signal="KILL")

    def __repr__(self) -> str:
        return f"<{self.name} on port {self.port}>"

    @property
    def url(self) -> str:
        """URL of this server alone."""
        return f"redis://{LOOPBACK}:{self.port}/0"

    @property
    def is_running(self) -> bool:
        """Whether it has a process; it may be paused."""
        return self._process.exit_status() is None

    @property
    def is_responding(self) -> bool:
        """Whether it runs and is not paused."""
        return self.is_running and not self._paused_process

    def launch(self) -> None:
        """Start the process. `wait_until_ready` waits for it."""
        self._process.start()

    def wait_until_ready(self) -> None:
        """Wait until it has loaded its data. Raises AssertionError with its log if it ends before."""
        wait_until(self._is_ready, START_SECONDS, f"{self} accepts commands")

    def kill(self) -> None:
        """Kill it (SIGKILL), also if it is paused: what it did not write to a file is lost."""
        self._process.stop()  # with the signal KILL
        self._paused_process = 0
        for client in (self.client, self._probe):
            client.close()

    def pause(self) -> None:
        """Pause the process (SIGSTOP). Its connections stay open."""
        self._paused_process = int(self._probe.info("server")["process_id"])
        os.kill(self._paused_process, signal.SIGSTOP)

    def resume(self) -> None:
        """Continue the paused process (SIGCONT)."""
        os.kill(self._paused_process, signal.SIGCONT)
        self._paused_process = 0

    def command(self, *words: object) -> Any:
        """Send a command; return its reply as Redis sent it."""
        execute: Any = self.client.execute_command
        return execute(*words)

    def records(self) -> list[NodeRecord]:
        """Return what this node knows of all nodes. Raises RedisError."""
        return [NodeRecord.parse(line) for line in self._probe_lines("CLUSTER", "NODES")]

    def own_record(self) -> NodeRecord:
        """Return what this node knows of itself."""
        return next(record for record in self.records() if record.port == self.port)

    def cluster_state(self) -> str:
        """Return `ok` or `fail`, as this node sees the cluster."""
        return dict(line.split(":", 1) for line in self._probe_lines("CLUSTER", "INFO"))["cluster_state"]

    def replication(self) -> dict[str, Any]:
        """Return the section `replication` of INFO."""
        return dict(self._probe.info("replication"))

    def remove_data(self) -> None:
        """Remove the files of its data, not its place in the cluster. It must not run."""
        assert not self.is_running, f"{self} runs"
        for path in self.directory.iterdir():
            if path.name != NODES_FILE:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _probe_lines(self, *words: str) -> list[str]:
        execute: Any = self._probe.execute_command
        return os.fsdecode(execute(*words)).splitlines()

    def _is_ready(self) -> bool:
        assert self._process.exit_status() is None, f"{self} has ended\n{self._process.log_tail()}"
        try:
            return not self._probe.info("persistence")["loading"]
        except (redis.ConnectionError, redis.TimeoutError):
            return False

    def _connect(self, seconds: float) -> redis.Redis:
        return redis.Redis(LOOPBACK, self.port, protocol=2, socket_timeout=seconds, retry=Retry(NoBackoff(), 0))
