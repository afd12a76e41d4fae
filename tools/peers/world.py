"""One program at work: servers of its own, views that are sent to it, and what has become of them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg
import redis

from tools.peers.history import History
from tools.peers.lossy_proxy import LossyProxy
from tools.peers.peer_process import PeerProcess
from tools.peers.peers import Peer
from tools.peers.plan import Plan
from tools.peers.programs.servers_and_totals import PREFIX, STREAM, VOD_FIELD
from viewer_pipeline.migrations.migrate import migrate
from viewer_pipeline.stack.managed_process import log_tail
from viewer_pipeline.stack.ports import find_free_port
from viewer_pipeline.stack.postgres_server import PostgresServer
from viewer_pipeline.stack.redis_server import RedisServer
from viewer_pipeline.stores.redis import connect

TABLES = """
    CREATE TABLE public.vod (id text PRIMARY KEY, views bigint NOT NULL DEFAULT 0);
    CREATE TABLE public.vod_totals (vod_id text PRIMARY KEY, views bigint NOT NULL) WITH (fillfactor = 50);
"""
FOREIGN_KEY = "ALTER TABLE vod_totals ADD FOREIGN KEY (vod_id) REFERENCES vod ON DELETE CASCADE"
POLL_SECONDS, DRAIN_POLL_SECONDS = 0.05, 0.5
START_SECONDS = 120.0
MAX_DRAIN_SECONDS = 900.0

# Sends views of all VODs at one moment, so that no flush reads a part of them. ARGV: beginning of the key, its end,
# first and last number, views of each.
FILL_COUNTERS = """
for number = tonumber(ARGV[3]), tonumber(ARGV[4]) do
    redis.call('INCRBY', ARGV[1] .. string.format('%08d', number) .. ARGV[2], ARGV[5])
end
"""
FILL_STREAM = """
for number = tonumber(ARGV[3]), tonumber(ARGV[4]) do
    for _ = 1, tonumber(ARGV[5]) do
        redis.call('XADD', KEYS[1], '*', KEYS[2], ARGV[1] .. string.format('%08d', number) .. ARGV[2])
    end
end
"""
FIRST_VOD = "first"
ID_BEGIN, ID_END = "clx", "k3j4h5g6f7d8s9"  # ids as long as a cuid


def vod_ids(count: int) -> list[str]:
    """Return the ids that are filled."""
    return [f"{ID_BEGIN}{number:08d}{ID_END}" for number in range(count)]


@dataclass
class World:
    """A running program, its servers, and the views that were sent."""

    peer: Peer
    postgres: PostgresServer
    redis_server: RedisServer
    client: redis.Redis
    connection: psycopg.Connection
    process: PeerProcess
    proxies: list[LossyProxy]
    has_foreign_key: bool
    history: History
    sent: Counter[str] = field(default_factory=Counter)

    def fill(self, count: int, views: int = 1) -> None:
        """Send views to the first `count` VODs at one moment."""
        begin = time.monotonic()
        self._add_fill(self.client, count, views)
        self.record_sent(begin, Counter(dict.fromkeys(vod_ids(count), views)))

    def fill_and_copy_redis(self, count: int, views: int) -> None:
        """Fill, and let Redis begin to write its snapshot before anybody else sees the views."""
        begin = time.monotonic()
        with self.client.pipeline() as transaction:
            self._add_fill(transaction, count, views)
            transaction.bgsave()
            transaction.execute()
        self.record_sent(begin, Counter(dict.fromkeys(vod_ids(count), views)))
        self.wait_until(lambda: not self._info("persistence")["rdb_bgsave_in_progress"], "a copy of Redis")

    def restart_redis_from_copy(self) -> None:
        """Restart Redis, which then has what it had at the copy."""
        self.redis_server.stop()
        self.redis_server.start()

    def send(self, vods: Sequence[str]) -> None:
        """Send one view of each, and wait for the replies."""
        begin = time.monotonic()
        send_views(self.client, self.peer, vods)
        self.record_sent(begin, Counter(vods))

    def record_sent(self, begin: float, views: Counter[str]) -> None:
        """Record that Redis has acknowledged these views since `begin`."""
        self.sent.update(views)
        self.history.add_send(begin, views)

    def _add_fill(self, client: redis.Redis, count: int, views: int) -> None:
        script, prefix = (FILL_STREAM, "") if self.peer.reads_stream else (FILL_COUNTERS, PREFIX)
        client.eval(script, 2, STREAM, VOD_FIELD, prefix + ID_BEGIN, ID_END, 0, count - 1, views)

    def _info(self, section: str) -> Any:
        return self.client.info(section)

    def read_totals(self) -> Counter[str]:
        """Return the views in PostgreSQL by VOD."""
        return Counter(dict(self._query("SELECT * FROM ({totals}) AS t")))

    def read_sum(self) -> int:
        """Return the sum of all views in PostgreSQL."""
        return next(
            iter(self._query("SELECT coalesce(sum(views), 0)::bigint FROM ({totals}) AS t (vod_id, views)")), (0,)
        )[0]

    def read_totals_of(self, vods: Sequence[str]) -> Counter[str]:
        """Return the views in PostgreSQL of these VODs."""
        query = "SELECT * FROM ({totals}) AS t (vod_id, views) WHERE vod_id = ANY(%s)"
        return Counter(dict(self._query(query, list(vods))))

    def _query(self, query: str, *parameters: object) -> list[Any]:
        totals = self.peer.totals_with_foreign_key if self.has_foreign_key else self.peer.totals
        try:
            return self.connection.execute(query.format(totals=totals).encode(), parameters).fetchall()
        except psycopg.errors.UndefinedTable:  # the program creates it
            return []

    def read_pending(self, vods: Sequence[str]) -> Counter[str]:
        """Return the views in the counters of these VODs."""
        if self.peer.reads_stream:
            return Counter()
        values: Any = self.client.mget([PREFIX + vod_id for vod_id in vods])
        return Counter({vod_id: int(value) for vod_id, value in zip(vods, values, strict=True) if value})

    def wait_until(self, condition: Callable[[], object], expected: str, seconds: float = START_SECONDS) -> None:
        """Wait until the condition holds. Raises TimeoutError with the end of the program's log."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"{self.peer.name} without {expected}; the end of its log:\n{log_tail(self.process.log)}"
                )
            time.sleep(POLL_SECONDS)

    def wait_until_all_persisted(self) -> None:
        """Wait until the totals have as many views as were sent. Raises TimeoutError."""
        self.wait_until(lambda: self.read_sum() >= self.sent.total(), "all views in its totals")

    def wait_until_flushed(self) -> None:
        """Wait until all views are in the totals, none in the counters: no flush is at work. Raises TimeoutError."""
        self.wait_until_all_persisted()
        self.wait_until(lambda: not self.read_pending(list(self.sent)), "empty counters")

    def wait_until_drained(self, plan: Plan) -> Counter[str]:
        """Wait until the totals have stopped changing; return them.

        As long as views are missing, that takes longer: the program may have to start, and to recover.
        """
        total, changed = self.read_sum(), time.monotonic()
        deadline = changed + MAX_DRAIN_SECONDS
        while time.monotonic() < deadline:
            time.sleep(DRAIN_POLL_SECONDS)
            if (now := self.read_sum()) != total:
                total, changed = now, time.monotonic()
            missing = total < self.sent.total() or self.read_pending(list(self.sent)).total()
            if time.monotonic() > changed + (plan.stuck_seconds if missing else plan.stable_seconds):
                break
        return self.read_totals()


def send_views(client: redis.Redis, peer: Peer, vods: Sequence[str]) -> None:
    """Send one view of each in one request, in the way that the program reads them."""
    pipe = client.pipeline(transaction=False)
    for vod_id in vods:
        if peer.reads_stream:
            pipe.xadd(STREAM, {VOD_FIELD: vod_id})
        else:
            pipe.incr(PREFIX + vod_id)
    pipe.execute()


@contextmanager
def running(
    peer: Peer,
    plan: Plan,
    *,
    interval: float = 1.0,
    vods: int = 0,
    foreign_key: bool = False,
    lossy: bool = False,
    redis_append_only: bool = True,
) -> Iterator[World]:
    """Start servers and the program, and wait until it has persisted a first view; stop all with the context.

    `vods`: rows of the user's table. `foreign_key`: totals reference it. `lossy`: the program connects through proxies.
    """
    with TemporaryDirectory(prefix="viewer-peers-") as directory, ExitStack() as stack:
        home = Path(directory)
        postgres = PostgresServer(home, port=find_free_port())
        server = RedisServer(home, port=find_free_port(), append_only=redis_append_only)
        for started in (postgres, server):
            started.start()
            stack.callback(started.stop)
        migrate(postgres.url, with_dagster=False)
        connection = stack.enter_context(psycopg.connect(postgres.url, autocommit=True))
        connection.execute(TABLES + (FOREIGN_KEY if foreign_key else ""))
        connection.execute("INSERT INTO vod (id) SELECT unnest(%s::text[])", [[*vod_ids(vods), FIRST_VOD]])
        proxies = [stack.enter_context(LossyProxy(target.port)) for target in (postgres, server) if lossy]
        urls = [postgres.url, server.url]
        if lossy:
            urls = [proxy.replace_port(url) for proxy, url in zip(proxies, urls, strict=True)]
        environment = {
            "DATABASE_URL": urls[0],
            "REDIS_URL": urls[1],
            "PEER_BROKER_URL": server.url,
            "PEER_INTERVAL": str(interval),
            **({"PEER_FOREIGN_KEY": "1"} if foreign_key else {}),
        }
        process = stack.enter_context(PeerProcess(peer, plan.python, home, environment))
        client = stack.enter_context(connect(server.url))
        world = World(peer, postgres, server, client, connection, process, proxies, foreign_key, History(peer.name))
        world.send([FIRST_VOD])
        world.wait_until_all_persisted()
        yield world
