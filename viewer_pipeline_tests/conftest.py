"""Real servers for all tests: started once, a fresh database and an empty Redis for each test."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Before anything of ours is imported: the developer's environment must not leak in, nor a .env of the checkout.
_OURS = (
    "DATABASE_URL",
    "REDIS_",
    "POSTGRES_",
    "DAGSTER",
    "VIEWER",
    "BATCH_",
    "CELERY_",
    "FLUSH_",
    "PUBSUB_",
    "COUNTER_",
    "SWEEP_",
    "SENSOR_",
    "WARM_",
    "LOG_",
    "SHUTDOWN_",
    "HEALTH_",
    "TOTALS_",
    "FRESHNESS_",
    "HISTORY_",
    "LEDGER_",
    "RUN_MAX_",
    "RUN_RETENTION",
    "FAILED_RUN",
    "REJECTED_",
    "ALERT_",
    "TARGET_",
    "PARKED_",
    "OTEL_",
)
FOR_TESTS = "VIEWER_TEST_"  # options of tests, such as how many examples they try
for _name in [name for name in os.environ if name.startswith(_OURS) and not name.startswith(FOR_TESTS)]:
    del os.environ[_name]
# As in an activated environment: messages name commands without a path.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

import psycopg  # noqa: E402 - the environment comes first
import pytest  # noqa: E402
import redis  # noqa: E402

from viewer_pipeline.flush.ledger import Ledger  # noqa: E402
from viewer_pipeline.flush.redis_store import RedisStore  # noqa: E402
from viewer_pipeline.flush.stores import Stores  # noqa: E402
from viewer_pipeline.migrations.migrate import migrate  # noqa: E402
from viewer_pipeline.stack import postgres_server as postgres_server_module  # noqa: E402
from viewer_pipeline.stack import redis_server as redis_server_module  # noqa: E402
from viewer_pipeline.stack.ports import find_free_port  # noqa: E402
from viewer_pipeline.stack.postgres_server import NAME, PostgresServer  # noqa: E402
from viewer_pipeline.stack.redis_server import RedisServer  # noqa: E402
from viewer_pipeline.stores.redis import connect  # noqa: E402
from viewer_pipeline.target.table import TargetNames  # noqa: E402
from viewer_pipeline_tests.support.cluster import RedisCluster  # noqa: E402
from viewer_pipeline_tests.support.cluster_world import ClusterWorld, opened  # noqa: E402
from viewer_pipeline_tests.support.failover import started  # noqa: E402
from viewer_pipeline_tests.support.proxy import Proxy  # noqa: E402
from viewer_pipeline_tests.support.servers import (  # noqa: E402
    NamedPostgres,
    Postgres,
    Redis,
    copy_database,
    postgres_binaries,
    redis_binary,
    redis_of_worker,
)
from viewer_pipeline_tests.support.stored import PAIRS, Stored, loaded  # noqa: E402
from viewer_pipeline_tests.support.streamix import MakeWorld, TargetWorld  # noqa: E402
from viewer_pipeline_tests.support.totals_statements import MERGE, UPSERT, TotalsStatement, forced  # noqa: E402
from viewer_pipeline_tests.support.waiting import ENOUGH  # noqa: E402
from viewer_pipeline_tests.support.world import PREFIX, World  # noqa: E402

TEMPLATE = f"template_viewer_{os.urandom(6).hex()}"  # workers of pytest-xdist may share a server
SCRAM_CHOOSES = 160000  # from this PostgreSQL on, a login need not hash 4096 times, which halves its cost
SUMMARY = "summary"  # the property of a test report that holds a line for the summary of the session


_SCRATCH = pytest.StashKey[Path]()
_STARTED_IN = Path.cwd()
_MEMORY, _ROOM = Path("/dev/shm"), 4 * 2**30


def pytest_configure(config: pytest.Config) -> None:
    """Make a directory for servers and files of tests: with pytest-xdist, one below the controller's."""
    given: dict[str, str] = getattr(config, "workerinput", {})
    if given:
        config.stash[_SCRATCH] = Path(given["scratch"], given["workerid"])
        config.stash[_SCRATCH].mkdir()
    else:
        config.stash[_SCRATCH] = Path(tempfile.mkdtemp(prefix="viewer-tests-", dir=_memory()))


def _memory() -> Path | None:
    """Return the memory file system if it has room: on a disk, creating databases takes most of the time."""
    roomy = _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > _ROOM
    return _MEMORY if roomy else None


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Pass the directory to a worker of pytest-xdist."""
    node.workerinput["scratch"] = str(node.config.stash[_SCRATCH])


def pytest_sessionstart(session: pytest.Session) -> None:
    """Leave the checkout before a test module is imported: a .env there is the developer's."""
    if session.config.getoption("dist", "no") == "no":  # xdist's controller imports none
        os.chdir(session.config.stash[_SCRATCH])


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the directory."""
    os.chdir(_STARTED_IN)
    shutil.rmtree(config.stash[_SCRATCH], ignore_errors=True)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show the lines that tests added to the summary, on whatever worker they ran."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.getreports(kind)]
    lines = [str(line) for report in reports for name, line in report.user_properties if name == SUMMARY]
    if lines:
        terminalreporter.section("measured")
        for line in sorted(set(lines)):
            terminalreporter.line(line)


@pytest.fixture
def add_to_summary(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Add a line to the summary of the session, also if the test passes: numbers that docs/guarantees.md names."""

    def add(line: str) -> None:
        record_property(SUMMARY, line)

    return add


@pytest.fixture(autouse=True)
def _own_environment() -> Iterator[None]:
    """Take back what a test exports, e.g. by a command in this process: the next test is no child of that command."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(scope="session", autouse=True)
def _default_signals() -> Iterator[None]:
    """Start processes that react to signals, also if the tests run under nohup or in the background of a script.

    There SIGHUP, SIGINT and SIGQUIT are ignored, and a child inherits that.
    """
    defaults = dict.fromkeys((signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM), signal.SIG_DFL)
    ignored = [number for number in (*defaults, signal.SIGINT) if signal.getsignal(number) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, defaults.get(number, signal.default_int_handler))
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.fixture(scope="session", autouse=True)
def _own_servers() -> Iterator[None]:
    """Let tests start the servers that the environment names, on ports other than the default ones.

    A default port is taken by another worker as soon as a test stops its server.
    """
    with pytest.MonkeyPatch.context() as patch:
        for module in (postgres_server_module, redis_server_module):
            patch.setattr(module, "DEFAULT_PORT", find_free_port())
        patch.setattr(postgres_server_module, "find_postgres_bin_directory", postgres_binaries)
        patch.setattr(redis_server_module, "find_redis_executable", redis_binary)
        yield


@pytest.fixture(scope="session")
def postgres_server(pytestconfig: pytest.Config, _own_servers: None) -> Iterator[Postgres]:
    """One PostgreSQL for the session, with a migrated database to copy."""
    named = os.environ.get("TEST_DATABASE_URL")
    home = pytestconfig.stash[_SCRATCH] / "servers"
    server: Postgres = NamedPostgres(named) if named else PostgresServer(home, throw_away=True)
    server.start()
    try:
        with psycopg.connect(server.url_of_database("postgres"), autocommit=True) as connection:
            if isinstance(server, PostgresServer) and connection.info.server_version >= SCRAM_CHOOSES:
                connection.execute("SET scram_iterations = 1")
                connection.execute(f"ALTER ROLE {NAME} PASSWORD '{server.password}'")
            connection.execute(f"CREATE DATABASE {TEMPLATE} TEMPLATE template0")
        migrate(server.url_of_database(TEMPLATE), with_dagster=True)
        yield server
    finally:
        if named:
            with psycopg.connect(server.url_of_database("postgres"), autocommit=True) as connection:
                connection.execute(f"DROP DATABASE IF EXISTS {TEMPLATE} WITH (FORCE)")
        server.stop()


@pytest.fixture(scope="session")
def redis_server(pytestconfig: pytest.Config, _own_servers: None) -> Iterator[Redis]:
    """One Redis for the session."""
    home = pytestconfig.stash[_SCRATCH] / "servers"
    named = redis_of_worker(os.environ.get("PYTEST_XDIST_WORKER", "gw0"))
    server: Redis = named or RedisServer(home, append_only=False)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def servers_home(pytestconfig: pytest.Config) -> Iterator[Path]:
    """A directory for servers that the test starts."""
    home = Path(tempfile.mkdtemp(prefix="own-", dir=pytestconfig.stash[_SCRATCH]))
    yield home
    shutil.rmtree(home)


@pytest.fixture
def database_url(postgres_server: Postgres, request: pytest.FixtureRequest) -> Iterator[str]:
    """URL of a fresh, migrated database; with Dagster's tables where the test opens an instance on it."""
    name = "test_" + os.urandom(6).hex()
    template = request.getfixturevalue("dagster_template") if "dagster" in request.fixturenames else TEMPLATE
    with psycopg.connect(postgres_server.url_of_database("postgres"), autocommit=True) as connection:
        copy_database(connection, name, template)
        yield postgres_server.url_of_database(name)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def redis_url(redis_server: Redis) -> str:
    """URL of an empty Redis."""
    with connect(redis_server.url) as client:
        client.flushall()
        client.config_set("maxmemory", 0)
    return redis_server.url


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    """A client of the empty Redis."""
    with connect(redis_url) as client:
        yield client


@pytest.fixture
def redis_proxy(redis_url: str) -> Iterator[Proxy]:
    """A proxy of Redis, which hangs from `blackhole` to `heal`, however long that takes on a busy machine."""
    with Proxy.of(redis_url, 6379) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def redis_cluster_of_session(pytestconfig: pytest.Config) -> Iterator[RedisCluster]:
    """One Redis Cluster for the session, of three primaries with a replica each."""
    with started(RedisCluster(pytestconfig.stash[_SCRATCH] / "cluster")) as cluster:
        yield cluster


@pytest.fixture
def redis_cluster(redis_cluster_of_session: RedisCluster) -> RedisCluster:
    """An empty Redis Cluster: three primaries with a replica each."""
    redis_cluster_of_session.reset()
    return redis_cluster_of_session


@pytest.fixture
def cluster_world(redis_cluster: RedisCluster, database_url: str) -> Iterator[ClusterWorld]:
    """An empty cluster and an empty ledger."""
    with opened(redis_cluster, database_url) as world:
        yield world


@pytest.fixture
def stores(client: redis.Redis, redis_url: str, database_url: str) -> Stores:
    """Both stores, empty."""
    return Stores(RedisStore(client, redis_url, PREFIX), Ledger(database_url))


@pytest.fixture
def world(stores: Stores) -> World:
    """Both stores with a producer that counts the views it sent."""
    return World(stores)


@pytest.fixture(params=[MERGE, UPSERT], ids=lambda statement: statement.query)
def totals_statement(request: pytest.FixtureRequest, world: World) -> Iterator[TotalsStatement]:
    """Each of the statements that add a flush to the totals; flushes of the test run it."""
    with forced(request.param, world):
        yield request.param


@pytest.fixture(params=PAIRS)
def stored(request: pytest.FixtureRequest, database_url: str, servers_home: Path) -> Iterator[Stored]:
    """Servers as version 0.1.0 left them: each of the pairs, or those that a test names."""
    with loaded(request.param, database_url, servers_home) as pair:
        yield pair


@pytest.fixture
def vods(stores: Stores) -> TargetWorld:
    """Streamix's tables, without VODs."""
    world = TargetWorld(stores)
    world.make_streamix()
    return world


@pytest.fixture
def enough_time_for_status(monkeypatch: pytest.MonkeyPatch) -> None:
    """No check of a status is given up because the machine is busy."""
    monkeypatch.setattr("viewer_pipeline.monitoring.status.STATUS_SECONDS", float(ENOUGH))


@pytest.fixture
def world_of(stores: Stores) -> MakeWorld:
    """Make a world of a table made by a statement."""

    def make(ddl: str, table: str, id_column: str = "id", count_column: str = "viewCount") -> TargetWorld:
        world = TargetWorld(stores, TargetNames.parse(table, id_column, count_column))
        world.execute(ddl)
        return world

    return make
