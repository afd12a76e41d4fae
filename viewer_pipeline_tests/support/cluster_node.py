"""One server of a Redis Cluster: a process that a test may kill, pause and restart, with its data or without."""

from __future__ import annotations

import math
import os
import re
import shutil
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from viewer_pipeline.stack.managed_process import ManagedProcess
from viewer_pipeline_tests.support.cluster_access import ClusterAccess
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
        port = re.search(r":(\d+)@", address)
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

    def __init__(
        self, home: Path, name: str, port: int, binary: Path, *, settings: Mapping[str, object], access: ClusterAccess
    ) -> None:
        self.name = name
        self.port = port
        self.host, self._access = access.host, access
        self.directory = home / name
        self.directory.mkdir(parents=True)
        self.client = self._connect()
        self.promoted_at = -math.inf  # monotonic; in this process
        self._paused_process = 0  # its process id while it is paused
        options = {
            **access.settings(port),
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
        """URL of this server alone, without TLS."""
        return f"redis://{self._access.seed(self.port)}/0"

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
        self.promoted_at = -math.inf

    def wait_until_ready(self) -> None:
        """Wait until it has loaded its data. Raises AssertionError with its log if it ends before."""
        wait_until(self._is_ready, START_SECONDS, f"{self} accepts commands")

    def kill(self) -> None:
        """Kill it (SIGKILL), also if it is paused: what it did not write to a file is lost."""
        self._process.stop()  # with the signal KILL
        self._paused_process = 0
        self.client.close()

    def pause(self) -> None:
        """Pause the process (SIGSTOP). Its connections stay open."""
        self._paused_process = int(self.client.info("server")["process_id"])
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
        return [NodeRecord.parse(line) for line in self._lines("CLUSTER", "NODES")]

    def node_id(self) -> str:
        """Return its id in the cluster, which `reset` changes."""
        return os.fsdecode(self.command("CLUSTER", "MYID"))

    def own_record(self) -> NodeRecord:
        """Return what this node knows of itself."""
        return next(record for record in self.records() if record.port == self.port)

    def knows(self, node_id: str) -> bool:
        """Whether it is connected to this node."""
        return any(record.node_id == node_id and not record.problems for record in self.records())

    def settings(self) -> dict[str, str]:
        """Return its settings, except of whom it is the replica: CLUSTER REPLICATE sets that."""
        settings = self.client.config_get("*").items()
        return {str(name): str(value) for name, value in settings if name not in {"slaveof", "replicaof"}}

    def restore(self, settings: Mapping[str, str]) -> None:
        """Give it these settings again, and remove the users that were added."""
        now = self.settings()
        for name in (name for name in settings if settings[name] != now[name]):
            self.client.config_set(name, settings[name])
        for user in map(str, self.client.acl_users()):
            if user != "default":
                self.client.acl_deluser(user)

    def cluster_state(self) -> str:
        """Return `ok` or `fail`, as this node sees the cluster."""
        return dict(line.split(":", 1) for line in self._lines("CLUSTER", "INFO"))["cluster_state"]

    def replication(self) -> dict[str, Any]:
        """Return the section `replication` of INFO."""
        return dict(self.client.info("replication"))

    def leave(self) -> None:
        """Let it know no other node, and have neither data nor slots."""
        with suppress(redis.ReadOnlyError):  # a replica: leaving empties it
            self.client.flushall()
        self.command("CLUSTER", "RESET", "HARD")

    def copy_data(self, target: Path) -> None:
        """Copy the files of its data, as of now, into a new directory."""
        if self.client.config_get("appendonly") == {"appendonly": "yes"}:
            wait_until(self._rewrites_no_file, REPLY_SECONDS, f"{self} has written its file")
            self._copy_files(self.directory, target)
        else:
            self.client.save()
            self._copy_files(self.directory, target)
            self._remove_files(lambda path: path.name != NODES_FILE)  # it would load them

    def replace_data(self, copy: Path | None) -> None:
        """Replace the files of its data by a copy, or remove them; not its place in the cluster. It must not run."""
        assert not self.is_running, f"{self} runs"
        self._remove_files(lambda path: path.name != NODES_FILE)
        if copy is not None:
            self._copy_files(copy, self.directory)

    def remove_all(self) -> None:
        """Remove its data and its place in the cluster. It must not run."""
        assert not self.is_running, f"{self} runs"
        self._remove_files(lambda _: True)

    def _remove_files(self, is_removed: Callable[[Path], bool]) -> None:
        for path in filter(is_removed, list(self.directory.iterdir())):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    @staticmethod
    def _copy_files(source: Path, target: Path) -> None:
        shutil.copytree(source, target, ignore=shutil.ignore_patterns(NODES_FILE), dirs_exist_ok=True)

    def _rewrites_no_file(self) -> bool:
        state = self.client.info("persistence")
        return not (state["aof_rewrite_in_progress"] or state["aof_rewrite_scheduled"])

    def _is_ready(self) -> bool:
        assert self._process.exit_status() is None, f"{self} has ended\n{self._process.log_tail()}"
        try:
            return not self.client.info("persistence")["loading"]
        except (redis.ConnectionError, redis.TimeoutError):
            return False

    def _lines(self, *words: str) -> list[str]:
        return os.fsdecode(self.command(*words)).splitlines()

    def _connect(self) -> redis.Redis:
        """Return a client that reports an error at once, instead of trying again."""
        no_retry = Retry(NoBackoff(), 0)
        options = self._access.client_options()
        return redis.Redis(self.host, self.port, protocol=2, socket_timeout=REPLY_SECONDS, retry=no_retry, **options)
